"""Waiting for several things, retrying, and restarting tasks."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import structlog

log = structlog.get_logger()
T = TypeVar("T")


def backoff_s(first_s: float, most_s: float) -> Iterator[float]:
    """Yield delays in seconds without end: doubling up to `most_s`, each shortened at random by up to a half, so that
    clients that failed together do not retry together."""
    delay_s = first_s
    while True:
        yield delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, protects nothing
        delay_s = min(delay_s * 2, most_s)


def times_cancelled() -> int:
    """Return the number of pending cancellation requests of the current task."""
    current = asyncio.current_task()
    return current.cancelling() if current is not None else 0


@contextmanager
def propagate_cancellation() -> Iterator[None]:
    """Raise CancelledError if the task was cancelled inside, even if a library swallowed that: `asyncio.wait_for` of
    Python 3.11 does so if the awaited result arrives at the same moment."""
    before = times_cancelled()
    try:
        yield
    except Exception as error:
        if times_cancelled() > before:
            raise asyncio.CancelledError from error
        raise
    if times_cancelled() > before:
        raise asyncio.CancelledError


async def restart_forever(run: Callable[[], Awaitable[None]], name: str) -> None:
    """Run a coroutine function until cancelled; when it ends, log that and restart it with backoff.

    That includes spurious cancellations: libraries cancel tasks that wait for a closing connection.
    """
    delays = backoff_s(0.1, 5.0)
    while True:
        try:
            await run()
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            log.error("task_cancelled", task=name)
        except Exception:
            log.exception("task_failed", task=name)
        else:
            log.error("task_ended", task=name)
        await asyncio.sleep(next(delays))


async def run_until(
    event: asyncio.Event, work: Coroutine[object, object, T], *, within_s: float | None = None
) -> T | None:
    """Run `work` and return its result; return None if the event is set first or the time is up: `work` is then
    cancelled and awaited."""
    task = asyncio.ensure_future(work)
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiter}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        # The waiter needs no await: it ends in the next loop iteration.
        waiter.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        elif not task.cancelled():
            # Mark the exception as retrieved, even if this task was cancelled at the same moment.
            task.exception()


async def together(work: Sequence[Coroutine[object, object, T]]) -> Sequence[T]:
    """Run all concurrently; return the results in order. A single one, the usual case, gets no task of its own."""
    return [await work[0]] if len(work) == 1 else await asyncio.gather(*work)


async def all_of(*work: Coroutine[object, object, None]) -> None:
    """Run all concurrently and wait for all, even if one fails; then raise the first error."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if result is not None:
            raise result


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for the event up to the timeout; return whether it is set."""
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
