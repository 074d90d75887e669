"""Cancellation that libraries swallow."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


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
