"""Waiting for the first of two things, or for all of several."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TypeVar

T = TypeVar("T")


async def run_until(
    event: asyncio.Event, work: Coroutine[object, object, T], *, within_s: float | None = None
) -> T | None:
    """Run `work` and return its result, or None if the event is set before, or the time is up; the loser is cancelled
    and awaited."""
    task = asyncio.ensure_future(work)
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiter}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        # Whoever only waited for the event ends by itself, in the loop's next turn.
        waiter.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        elif not task.cancelled():
            # Looked at, though who waited may have been told to end in the same moment.
            task.exception()


async def together(work: Sequence[Coroutine[object, object, T]]) -> Sequence[T]:
    """Run all at once, and return their results in order. One alone, the usual case, has no task of its own."""
    return [await work[0]] if len(work) == 1 else await asyncio.gather(*work)


async def all_of(*work: Coroutine[object, object, None]) -> None:
    """Run all at once and return when all have ended, also where one fails; raises what the first of those raised."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if result is not None:
            raise result


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for the event, no longer than the timeout; returns whether it is set."""
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
