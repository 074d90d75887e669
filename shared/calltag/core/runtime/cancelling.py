"""Tasks that are told to end, and libraries that forget it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


def times_cancelled() -> int:
    """How often the current task was told to end, and has not said that this is over."""
    current = asyncio.current_task()
    return current.cancelling() if current is not None else 0


@contextmanager
def propagate_cancellation() -> Iterator[None]:
    """A task that is cancelled inside ends with CancelledError, whatever the library that it waits in made of that:
    `asyncio.wait_for` of Python 3.11 forgets it where what it waits for comes at the same moment."""
    before = times_cancelled()
    try:
        yield
    except Exception as error:
        if times_cancelled() > before:
            raise asyncio.CancelledError from error
        raise
    if times_cancelled() > before:
        raise asyncio.CancelledError
