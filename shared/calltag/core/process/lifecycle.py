"""Life cycle of a service, with a single code path for shutdown.

SIGTERM, Ctrl-C and the end of a side task all set the same stop event. Servers then drain, workers finish what is in
flight; a second signal or the deadline ends the process at once."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from calltag.core.telemetry.logging import summary_of
from calltag.core.telemetry.output import drain_output

log = structlog.get_logger()
Main = Callable[["Lifecycle"], Awaitable[None]]
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
EXIT_FORCED: Final = 130


class ServiceFailed(RuntimeError):
    """A side task ended before the service was stopped; the message names it."""


@dataclass(slots=True)
class Lifecycle:
    """Shared by the parts of a service: the stop event, and the task group of their side tasks."""

    group: asyncio.TaskGroup
    stop: asyncio.Event
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set shortly before the drain deadline: waiting requests respond without a result."""
    failure: ServiceFailed | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _deadline: threading.Timer | None = None

    def supervise(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a side task that lasts until `stop` is set, or until it is cancelled after `main` has returned.

        If it ends earlier, with or without an error, `stop` is set, and the service ends with ServiceFailed once it
        has finished what is in flight.
        """
        task = self.group.create_task(self._watch(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step never starts its coroutine.
        task.add_done_callback(lambda _: work.close())
        return task

    def is_running(self) -> bool:
        """Return whether `stop` is not set (for readiness)."""
        return not self.stop.is_set()

    def end_within(self, timeout_s: float) -> None:
        """Force the process to exit after the timeout unless `ended` is called, even if its event loop hangs."""
        self._deadline = threading.Timer(timeout_s, _end_now)
        self._deadline.daemon = True
        self._deadline.start()

    def ended(self) -> None:
        """Cancel the deadline of `end_within`."""
        if self._deadline is not None:
            self._deadline.cancel()

    def end(self) -> None:
        """Set `stop` and cancel the side tasks that still run."""
        self.stop.set()
        for task in self._tasks:
            task.cancel()

    async def _watch(self, name: str, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Exception as error:
            log.exception("side_task_failed", task=name)
            self._fail(f"{name} failed: {summary_of(first_leaf(error))}", error)
        else:
            if self.is_running():
                log.error("side_task_ended", task=name)
                self._fail(f"{name} ended unexpectedly", None)

    def _fail(self, reason: str, cause: Exception | None) -> None:
        if self.failure is None:
            self.failure = ServiceFailed(reason)
            self.failure.__cause__ = cause
        self.stop.set()


def first_leaf(error: BaseException) -> BaseException:
    """Return the first error in nested groups that is not a group: the text of a group is useless."""
    return first_leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def run_service(main: Main) -> None:
    """Run `main` until it returns, soon after `stop` is set; then cancel the side tasks.

    Raises what `main` raised, unwrapped, or ServiceFailed.
    """
    raised: Exception | None = None
    stop = asyncio.Event()
    with _signals_set(stop):
        async with asyncio.TaskGroup() as group:
            life = Lifecycle(group, stop)
            try:
                await main(life)
            except Exception as error:  # noqa: BLE001 - raised below, outside of the group, which would wrap it
                raised = error
            life.end()
        life.ended()
    if raised is None:
        log.info("stopped")
    if failure := raised or life.failure:
        raise failure


def run(main: Main) -> None:
    """Run a service in a new event loop, of uvloop if installed. Raises what `run_service` raises."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run_service(main))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _end_now() -> None:
    sys.stderr.write("stopped without finishing the work in progress\n")
    sys.stderr.flush()
    drain_output()
    os._exit(EXIT_FORCED)


@contextmanager
def _signals_set(stop: asyncio.Event) -> Iterator[None]:
    """Set the event on the first signal; exit at once on the next one."""
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def on_signal(number: int) -> None:
        if received:
            _end_now()
        received.append(number)
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
