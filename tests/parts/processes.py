"""Programs that tests start, and end."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol


class NotStarted(RuntimeError):
    """A program that the tests need did not start."""


def program(name: str, *places: str) -> str:
    """Where a program is: in CALLTAG_TEST_SERVERS, if that folder has it. Raises NotStarted if it is not installed."""
    chosen = Path(os.environ.get("CALLTAG_TEST_SERVERS", "")) / name
    if chosen.is_absolute() and chosen.exists():
        return str(chosen)
    found = shutil.which(name) or next((place for place in places if Path(place).exists()), None)
    if found is None:
        raise NotStarted(
            f"{name} is not installed; run make test, or: "
            "apt-get install rabbitmq-server redis-server nodejs npm haproxy nginx chromium"
        )
    return found


class Process(Protocol):
    """The interface of a process that tests start."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None, /) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Program:
    """A program in a process group of its own, with its output in a file."""

    started: ClassVar[list["Program"]] = []
    """Those that ran since the present test began, for the report of its failure."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command = command
        self.folder = folder
        self.environment = {**os.environ, **(environment or {})}
        self.output = folder / "output.log"
        self._process: Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, ready: Callable[[], bool], within_s: float = 60.0) -> None:
        """Start, and wait until it is ready. Raises NotStarted with the end of its output."""
        if self not in Program.started:
            Program.started.append(self)
        self._process = self.begin()
        ends = time.monotonic() + within_s
        while True:
            # Looked at first: it may be ready, and end, in this order.
            running = self.running
            if ready():
                return
            if not running or time.monotonic() > ends:
                self.kill()
                raise NotStarted(f"{self.command[0]} did not start:\n{self.text()[-3000:]}")
            time.sleep(0.02)

    def begin(self) -> Process:
        """Begin the process."""
        with self.output.open("ab") as output:
            return subprocess.Popen(
                self.command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        """Its output so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def logs(self) -> Sequence[Path]:
        """Its output, and the log files that RabbitMQ writes beside it."""
        return [log for log in (self.output, *sorted(self.folder.glob("log/*.log"))) if log.exists()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        if self._process is not None:
            os.killpg(self._process.pid, number)

    def stop(self, within_s: float = 20.0) -> int:
        """Ask it to end; returns its exit code."""
        assert self._process is not None
        if self.running:
            self._process.terminate()
        return self.wait(within_s)

    def wait(self, within_s: float = 20.0) -> int:
        """Wait for its end; returns its exit code."""
        assert self._process is not None
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once, with its children."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                # The process has no group of its own yet.
                self._process.kill()
            self._process.wait()
