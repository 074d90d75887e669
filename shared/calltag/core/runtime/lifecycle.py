"""The life of a service: from the first signal on, one way out.

SIGTERM, Ctrl-C and the death of a task all set the same stop event. Who serves requests drains, who works finishes
what is in hand; a second signal does not wait for that.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final

import structlog

log = structlog.get_logger()
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
EXIT_FORCED: Final = 130


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What the parts of a service share: the stop event, and the group that their tasks belong to."""

    group: asyncio.TaskGroup
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def supervise(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a side task; if it fails, the whole service ends with an error instead of hanging."""
        task = self.group.create_task(work, name=name)
        self.tasks.append(task)
        return task


async def run_service(main: Callable[[Lifecycle], Awaitable[None]]) -> None:
    """Run `main` until it returns; it returns soon after `stop` is set.

    Side tasks that still run then are cancelled. What a task raised comes out as an ExceptionGroup.
    """
    async with asyncio.TaskGroup() as group:
        life = Lifecycle(group)
        _on_signals(life.stop)
        try:
            await main(life)
        finally:
            _off_signals()
        for task in life.tasks:
            task.cancel()


def run(main: Callable[[Lifecycle], Awaitable[None]]) -> None:
    """Run a service in a new event loop, on uvloop where it is there."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run_service(main))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def received(number: int) -> None:
        if stop.is_set():
            sys.stderr.write("stopped without finishing what was in hand\n")
            sys.stderr.flush()
            os._exit(EXIT_FORCED)
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, received, number)


def _off_signals() -> None:
    for number in _SIGNALS:
        asyncio.get_running_loop().remove_signal_handler(number)
