"""Output that nobody reads must not hold up whoever writes it, and nothing that fits may get lost."""

import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from calltag.core.telemetry.output import QueuedOutput


@dataclass
class Pipe:
    reading: int
    writing: int
    outputs: list[QueuedOutput] = field(default_factory=list)

    def fill(self) -> int:
        """Write until nothing more goes in; returns how many bytes did."""
        os.set_blocking(self.writing, False)
        held = 0
        for size in (4_096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    held += os.write(self.writing, b"." * size)
        os.set_blocking(self.writing, True)
        return held

    def read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            found += os.read(self.reading, count - len(found))
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe(*os.pipe())
    yield made
    with contextlib.suppress(OSError):
        os.close(made.reading)
    # Their threads write to the number of the file, which another test's may have next.
    assert all(output.drain(30) for output in made.outputs)
    os.close(made.writing)


def queued(pipe: Pipe, max_queued_bytes: int = 1_000) -> QueuedOutput:
    # The stream itself is not closed: the pipe belongs to the test.
    output = QueuedOutput(io.TextIOWrapper(os.fdopen(pipe.writing, "wb", closefd=False)), max_queued_bytes)
    pipe.outputs.append(output)
    return output


def test_lines_come_out_in_order(pipe: Pipe) -> None:
    output = queued(pipe, 100_000)
    text = "".join(f"line {number} ü\n" for number in range(2_000))
    for line in text.splitlines(keepends=True):
        output.write(line)
    assert pipe.read(len(text.encode())).decode() == text
    assert output.drain(30)
    assert output.dropped == 0


def test_a_line_that_is_written_in_parts_is_one_line(pipe: Pipe) -> None:
    output = queued(pipe)
    for part in ("Trace", "back\nsecond", " line\n", "unfin", "ished"):
        output.write(part)
    assert output.drain(30)
    assert pipe.read(32) == b"Traceback\nsecond line\nunfinished"


def test_what_does_not_fit_is_dropped_and_counted_and_nobody_waits(pipe: Pipe) -> None:
    held = pipe.fill()
    output = queued(pipe, 1_000)
    for _ in range(1_000):
        output.write("x" * 99 + "\n")
    assert output.dropped == 990
    assert not output.drain(0)
    pipe.read(held)
    assert pipe.read(1_000) == (b"x" * 99 + b"\n") * 10
    assert output.drain(30)
    output.write("on\n")
    assert output.drain(30)
    assert output.dropped == 990


def test_a_line_without_end_is_bounded(pipe: Pipe) -> None:
    pipe.fill()
    output = queued(pipe, 1_000)
    for _ in range(100):
        output.write("x" * 100)
    assert output.dropped > 0
    assert output.drain(0) is False


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    output = queued(pipe)
    os.close(pipe.reading)
    for expected in (1, 2):
        output.write("nobody reads this\n")
        assert output.drain(30)
        assert output.dropped == expected


def test_a_file_that_another_process_has_set_not_to_block_is_written_to(pipe: Pipe) -> None:
    held = pipe.fill()
    os.set_blocking(pipe.writing, False)
    output = queued(pipe)
    output.write("waited for\n")
    pipe.read(held)
    assert pipe.read(11) == b"waited for\n"
    assert output.dropped == 0


PROGRAM = """
import os, sys
from calltag.core.telemetry.logging import configure_logging
from calltag.core.telemetry.output import queue_output
queue_output(1_000_000)
configure_logging("worker", form="json")
import structlog
for number in range(2_000):
    structlog.get_logger().info("line", number=number)
"""


def test_the_last_lines_of_a_crash_come_out() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + "raise ValueError('the very last')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count('"event":"line"') == 2_000
    assert done.stderr.endswith("ValueError\n")


def test_the_last_lines_before_a_forced_end_come_out() -> None:
    end = "from calltag.core.process import lifecycle; lifecycle._end_now()"
    done = subprocess.run([sys.executable, "-c", PROGRAM + end], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.count('"event":"line"') == 2_000
    assert done.stderr.endswith("stopped without finishing the work in progress\n")


def test_an_end_waits_no_longer_than_its_deadline_for_a_reader(pipe: Pipe) -> None:
    pipe.fill()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=pipe.writing, stderr=pipe.writing)
    try:
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_threads_may_write_at_the_same_time(pipe: Pipe) -> None:
    output = queued(pipe, 1_000_000)

    def write(name: str) -> None:
        for _ in range(500):
            output.write(f"{name * 20}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    lines = pipe.read(4 * 500 * 21).decode().splitlines()
    for thread in threads:
        thread.join()
    assert sorted(set(lines)) == [name * 20 for name in "abcd"]
    assert len(lines) == 2_000
