"""Waiting for a condition instead of for a time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def turns(count: int = 20) -> None:
    """Let the loop turn: what waits for nothing but its turn has it."""
    for _ in range(count):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], bool | Awaitable[bool]], within_s: float = 15.0) -> None:
    """Wait until the condition holds; fails when the time is up."""
    ends = time.monotonic() + within_s
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        assert time.monotonic() < ends, f"not so within {within_s:g} s"
        await asyncio.sleep(0.02)


def wait_until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """The same for those who are on no event loop."""
    ends = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends, f"not so within {within_s:g} s"
        time.sleep(0.05)
