"""Waiting for a condition instead of for a time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], T | Awaitable[T]], within_s: float = 15.0) -> T:
    """The condition's first true value; fails with its last one when the time is up."""
    ends = time.monotonic() + within_s
    while True:
        found = condition()
        value: T = await found if inspect.isawaitable(found) else found  # type: ignore[assignment]
        if value:
            return value
        if time.monotonic() > ends:
            raise AssertionError(f"not so within {within_s:g} s; the last value was {value!r}")
        await asyncio.sleep(0.02)
