"""An instance of calltag that a command starts for itself, and stops."""

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import httpx

from calltag.core.runtime.parent_death import exit_with_parent

_START_DEADLINE_S: Final = 20.0
_STOP_DEADLINE_S: Final = 20.0
_POLL_S: Final = 0.1


class NotStarted(Exception):
    """The instance did not start; the message says so, and the instance itself has printed why."""


async def answers(url: str) -> bool:
    """Return whether calltag runs at the URL."""
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{url}/api/v2/me", timeout=2)).status_code == 401
    except httpx.HTTPError:
        propagate_cancellation()
        return False


def propagate_cancellation() -> None:
    """Raise CancelledError if the current task was cancelled but still runs.

    The HTTP client may swallow a cancellation that coincides with a failing connection attempt.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@asynccontextmanager
async def own_instance(url: str) -> AsyncIterator[None]:
    """Run calltag with the demo contact centre on the URL's port, in a temporary folder. Raises NotStarted."""
    port = str(httpx.URL(url).port or 80)
    with tempfile.TemporaryDirectory(prefix="calltag-demo-") as folder, _cancelled_by_sigterm():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from calltag.cli.main import main; main()",
            "serve", "--embedded", "--demo", "--port", port,
            env={**os.environ, "CALLTAG_EMBEDDED__FOLDER": folder},
            stdout=asyncio.subprocess.DEVNULL,
            # Ctrl-C signals only the command, which then stops the instance gracefully.
            process_group=0,
            preexec_fn=exit_with_parent(),
        )  # fmt: skip
        try:
            await _started(process, url)
            yield
        finally:
            await _end(process)


@contextmanager
def _cancelled_by_sigterm() -> Iterator[None]:
    """Cancel the current task on SIGTERM, as on Ctrl-C."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    loop.add_signal_handler(signal.SIGTERM, lambda: task and task.cancel())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _started(process: Process, url: str) -> None:
    try:
        async with asyncio.timeout(_START_DEADLINE_S):
            while not await answers(url):
                propagate_cancellation()
                if process.returncode is not None:
                    raise NotStarted(f"The own instance ended with exit code {process.returncode}.")
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise NotStarted(f"The own instance did not start within {_START_DEADLINE_S:g} s.") from None


async def _end(process: Process) -> None:
    """Stop the instance; kill it after a timeout, or on a second Ctrl-C."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_DEADLINE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise
