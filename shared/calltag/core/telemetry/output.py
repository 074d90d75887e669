"""Non-blocking standard output and error, written by a thread.

The reader of a service's output may stall (a log driver, a paused terminal). Lines then wait in a bounded queue; those
that do not fit are dropped and counted, and the service goes on.
"""

import atexit
import io
import os
import select
import sys
import threading
import time
from typing import Final, TextIO, cast

import structlog

log = structlog.get_logger()
_EXIT_DEADLINE_S: Final = 2.0
"""Seconds that the exit of the process waits for its last lines to be written."""


class QueuedOutput(io.TextIOBase):
    """A text stream whose lines a thread writes to the file of another stream, in order.

    `flush` queues an unfinished line and does not wait.
    """

    encoding = "utf-8"

    def __init__(self, stream: TextIO, max_queued_bytes: int) -> None:
        self._stream = stream
        self._fd = stream.fileno()
        self._max_queued_bytes = max_queued_bytes
        self._changed = threading.Condition()
        self._unfinished = ""
        self._waiting: list[bytes] = []
        self._queued_bytes = 0
        self.dropped = 0
        """Number of dropped lines."""
        self._reported = 0
        threading.Thread(target=self._write_on, name=f"output-{self._fd}", daemon=True).start()

    def write(self, text: str) -> int:
        with self._changed:
            lines, end, unfinished = text.rpartition("\n")
            if end:
                self._queue(f"{self._unfinished}{lines}\n")
                self._unfinished = ""
            self._unfinished += unfinished
            if len(self._unfinished) > self._max_queued_bytes:
                self.flush()
        return len(text)

    def flush(self) -> None:
        with self._changed:
            if self._unfinished:
                self._queue(self._unfinished)
                self._unfinished = ""

    def drain(self, deadline_s: float) -> bool:
        """Wait until everything is written; return False after the deadline."""
        self.flush()
        with self._changed:
            return self._changed.wait_for(lambda: not self._queued_bytes, deadline_s)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def _queue(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        if self._queued_bytes + len(data) > self._max_queued_bytes:
            self.dropped += _lines_of(data)
            return
        self._waiting.append(data)
        self._queued_bytes += len(data)
        self._changed.notify_all()

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                taken, self._waiting = b"".join(self._waiting), []
            written = _write(self._fd, taken)
            with self._changed:
                self._queued_bytes -= len(taken)
                self.dropped += 0 if written else _lines_of(taken)
                unreported = self.dropped - self._reported if written and not self._waiting else 0
                self._reported += unreported
                self._changed.notify_all()
            if unreported:
                log.warning("log_lines_dropped", count=unreported, reason="the output was not read fast enough")


def _lines_of(data: bytes) -> int:
    return max(1, data.count(b"\n"))


def _write(fd: int, data: bytes) -> bool:
    """Write everything, without a deadline; return False if the file cannot be written."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            # Another process that shares the file has made it non-blocking.
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError:
            return False
    return True


def queue_output(max_queued_bytes: int) -> None:
    """Make standard output and error of this process QueuedOutput; its exit waits up to two seconds to drain them."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is not None and not isinstance(stream, QueuedOutput):
            stream.flush()
            setattr(sys, name, cast("TextIO", QueuedOutput(stream, max_queued_bytes)))
    atexit.register(drain_output)


def drain_output(deadline_s: float = _EXIT_DEADLINE_S) -> None:
    """Drain standard output and error, both until the same deadline."""
    ends_s = time.monotonic() + deadline_s
    for output in _queued():
        output.drain(ends_s - time.monotonic())


def dropped_lines() -> int:
    """Return the number of dropped lines of standard output and error."""
    return sum(output.dropped for output in _queued())


def _queued() -> list[QueuedOutput]:
    return [stream for stream in (sys.stderr, sys.stdout) if isinstance(stream, QueuedOutput)]
