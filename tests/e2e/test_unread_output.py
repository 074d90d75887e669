"""Nobody reads the output of a process, and its pipe is full: it works on, and ends when it is told to."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from parts.command import CALLTAG
from parts.eventually import wait_until
from parts.ports import free_port
from parts.system import calltag_program

LOGGED_TOO = {"CALLTAG_LOG__LEVEL": "debug", "CALLTAG_LOG__FORMAT": "json"}
"""With them, each request is a line of the log."""


@dataclass
class FullPipe:
    """A pipe that takes nothing before somebody reads from it."""

    reading: int
    writing: int
    held: int

    def read_on(self) -> Iterator[str]:
        """The lines written after what filled it."""
        with os.fdopen(os.dup(self.reading), "rb") as stream:
            stream.read(self.held)
            for line in stream:
                yield line.decode()


@pytest.fixture
def full_pipe() -> Iterator[FullPipe]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    held = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            held += os.write(writing, b"." * 4_096)
    with contextlib.suppress(BlockingIOError):
        while True:
            held += os.write(writing, b".")
    os.set_blocking(writing, True)
    yield FullPipe(reading, writing, held)
    for end in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(end)


@dataclass
class Serving:
    """A calltag with everything inside, its output in a pipe, and the ports that it serves."""

    process: subprocess.Popen[bytes]
    port: int
    internal: int

    def get(self, path: str, *, internal: bool = False) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.internal if internal else self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def answers(self, path: str) -> bool:
        try:
            return self.get(path, internal=True)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def dropped(self) -> float:
        """How many lines it says that it has dropped."""
        [found] = re.findall(
            r"^calltag_log_lines_dropped_total (\S+)$", self.get("/metrics", internal=True)[1], re.MULTILINE
        )
        return float(found)


@contextlib.contextmanager
def serving(folder: Path, pipe: FullPipe, **settings: str) -> Iterator[Serving]:
    port, internal = free_port(), free_port()
    environment = calltag_program(folder, {"CALLTAG_INTERNAL__PORT": str(internal), **settings}).environment
    process = subprocess.Popen(
        [*CALLTAG, "serve", "--embedded", "--demo", "--port", str(port)],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=pipe.writing, stderr=pipe.writing,
    )  # fmt: skip
    try:
        yield Serving(process, port, internal)
    finally:
        process.kill()
        process.wait()


def test_a_process_whose_output_nobody_reads_serves_and_ends(tmp_path: Path, full_pipe: FullPipe) -> None:
    with serving(tmp_path, full_pipe, **LOGGED_TOO) as system:
        wait_until(lambda: system.answers("/readyz"))
        for _ in range(50):
            assert system.get("/api/v2/me")[0] == 401
        assert system.answers("/livez")
        system.process.send_signal(signal.SIGTERM)
        assert system.process.wait(30) == 0


def test_lines_that_do_not_fit_are_counted_and_the_count_is_logged_when_writing_works_again(
    tmp_path: Path, full_pipe: FullPipe
) -> None:
    with serving(tmp_path, full_pipe, CALLTAG_LOG__MAX_QUEUED_BYTES="8192", **LOGGED_TOO) as system:
        wait_until(lambda: system.answers("/readyz"))
        for _ in range(100):
            system.get("/api/v2/me")
        dropped = system.dropped()
        assert dropped > 20
        os.close(full_pipe.writing)
        lines = full_pipe.read_on()
        told = next(each for each in map(logged, lines) if each.get("event") == "log_lines_dropped")
        assert isinstance(told["count"], int)
        assert told["count"] >= dropped
        assert told["level"] == "warning"
        system.get("/api/v2/me")
        assert "/api/v2/me" in (logged(line).get("route") for line in lines)


def logged(line: str) -> dict[str, object]:
    """A line of the log; without anything where it is something else."""
    if not line.startswith("{"):
        return {}
    parsed: dict[str, object] = json.loads(line)
    return parsed


def test_a_second_signal_ends_a_process_whose_output_nobody_reads(tmp_path: Path, full_pipe: FullPipe) -> None:
    with serving(tmp_path, full_pipe, CALLTAG_DRAIN_DELAY_S="600") as system:
        wait_until(lambda: system.answers("/readyz"))
        system.process.send_signal(signal.SIGTERM)
        wait_until(lambda: system.get("/readyz", internal=True)[0] == 503)
        system.process.send_signal(signal.SIGTERM)
        assert system.process.wait(30) == 130
