"""Commands of calltag that run in copies of a process which has imported it.

Tests start hundreds of servers, and to import what they need takes most of a second of a CPU. What is run is `main` of
the command, with its arguments, environment and folder, in a process and a session of its own; only the start of the
interpreter is left out. How a command starts by itself is tested by those who run `parts.command`.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from calltag.core.telemetry.output import drain_output

_SERVICES: Final = [f"calltag.{name}.app" for name in ("gateway", "notifier", "single", "worker")]
_COPIES: Final = multiprocessing.get_context("forkserver")
_COPIES.set_forkserver_preload(["calltag.cli.main", "calltag.cli.serving", *_SERVICES])


class ForkedCommand:
    """A command of calltag in a process, to be handled as one of `subprocess`."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path) -> None:
        self._process = _COPIES.Process(
            target=_run, args=(list(arguments), str(folder), dict(environment), str(output)), daemon=True
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
        """Wait for its end; returns the exit code. Raises TimeoutError."""
        self._process.join(within_s)
        code = self._process.exitcode
        if code is None:
            raise TimeoutError(f"process {self.pid} runs for longer than {within_s} s")
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


def _run(arguments: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    os.setsid()
    written = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(written, stream.fileno())
    os.close(written)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["calltag", *arguments]
    from calltag.cli.main import main

    try:
        main()
    finally:
        # The process ends without what it has registered for its end.
        drain_output()
