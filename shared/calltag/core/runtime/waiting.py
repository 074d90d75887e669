"""Waiting for the first of two events, or for all of several coroutines."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TypeVar

T = TypeVar("T")


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
