"""Waiting for the first of two things."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


async def unless(
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
        task.cancel()
        waiter.cancel()
        await asyncio.gather(task, waiter, return_exceptions=True)


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for the event, no longer than the timeout; returns whether it is set."""
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
