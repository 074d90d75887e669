"""`calltag demo`: the tour, and how it ends where it cannot go on."""

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest

from calltag.cli.tour import propagate_cancellation
from parts.command import CALLTAG, calltag
from parts.eventually import eventually
from parts.ports import free_port
from parts.processes import Program
from parts.system import embedded_system


def instances(port: int) -> list[int]:
    """The processes that serve on the port."""
    wanted = f"\0--port\0{port}\0".encode()
    return [
        int(each.name)
        for each in Path("/proc").glob("[0-9]*")
        if wanted in _command(each) and b"serve" in _command(each)
    ]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def check_failure(url: str, folder: Path, *words: str) -> None:
    done = calltag("demo", "--url", url, cwd=folder)
    assert (done.returncode, done.stderr) == (1, "")
    for word in words:
        assert word in done.stdout.splitlines()[-1]


def test_its_own_instance_touches_no_other_and_is_gone_afterwards(tmp_path: Path) -> None:
    with embedded_system(tmp_path) as system:
        port = free_port()
        own = {"CALLTAG_EMBEDDED__FOLDER": system.environment["CALLTAG_EMBEDDED__FOLDER"]}
        done = calltag("demo", "--url", f"http://127.0.0.1:{port}", "--own-if-absent", cwd=tmp_path, **own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting an own instance, its data in a temporary folder ..." in done.stdout
    assert "AttachedDataChanged" in done.stdout
    assert '"Reason": "billing"' in done.stdout
    assert "The tour is complete." in done.stdout
    assert instances(port) == []
    assert not (tmp_path / ".calltag").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_its_own_instance_ends_with_it_however_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    program = Program([*CALLTAG, "demo", "--url", f"http://127.0.0.1:{port}", "--own-if-absent"], tmp_path)
    try:
        program.start(lambda: bool(instances(port)))
        program.signal(number)
        assert program.wait() == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
        if number != signal.SIGKILL:
            assert instances(port) == []
        await eventually(lambda: not instances(port))
        assert "Traceback" not in program.text()
    finally:
        program.kill()


async def test_a_cancellation_that_was_swallowed_is_heeded_at_the_next_step() -> None:
    begun = asyncio.Event()

    async def swallow() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            begun.set()
            await asyncio.Event().wait()
        propagate_cancellation()

    propagate_cancellation()
    task = asyncio.create_task(swallow())
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


def test_nothing_there_is_told(tmp_path: Path) -> None:
    check_failure(f"http://127.0.0.1:{free_port()}", tmp_path, "Nothing answers at", "make run")


def test_another_contact_centre_is_told(tmp_path: Path) -> None:
    with embedded_system(tmp_path, CALLTAG_DIRECTORY__DEMO="false") as system:
        check_failure(system.gateway_url, tmp_path, "without the demo contact centre", "make run")
