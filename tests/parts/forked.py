"""Commands of calltag in processes that are forked from one with all imports done.

Tests start hundreds of servers, and the imports take most of a second of CPU each. The child runs `main` of the command
with its arguments, environment and folder, in a session of its own; only the start of the interpreter is skipped. Tests
of `parts.command` cover that start.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from calltag.core.process.os_limits import exit_with_parent
from calltag.core.telemetry.output import drain_output

_SERVICES: Final = [f"calltag.{name}.app" for name in ("gateway", "notifier", "serve", "worker")]
_COPIES: Final = multiprocessing.get_context("forkserver")
_COPIES.set_forkserver_preload(["calltag.cli.main", "calltag.cli.serving", *_SERVICES])


class ForkedCommand:
    """A command of calltag in a forked process, with the interface of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path) -> None:
        self._command = ["calltag", *arguments]
        self._process = _COPIES.Process(
            target=_run, args=(self._command, str(folder), dict(environment), str(output)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, within_s: float | None = None) -> int:
        """Wait for its end; returns the exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(within_s)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self._command, within_s or 0.0)
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


def _run(command: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    os.setsid()
    # It ends with the tests, also when these are killed.
    if ask := exit_with_parent():
        ask()
    written = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(written, stream.fileno())
    os.close(written)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    from calltag.cli.main import main

    try:
        main()
    finally:
        # multiprocessing ends its children without atexit handlers.
        drain_output()
