"""How operations on a connection fail."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aio_pika.exceptions import AMQPError

FAILURES: Final = (AMQPError, OSError, RuntimeError, TimeoutError)
"""What operations on a broken connection raise."""


@contextmanager
def told_plainly() -> Iterator[None]:
    """What waits on a channel that closes, aiormq cancels though nobody cancelled the task, or fails with an exception
    of no kind; and where a connection ends while it is made, with whatever ended the reading. Here all these are a
    ConnectionError, so that no task ends for it.

    A task that is cancelled meanwhile ends, whatever the library made of that: `asyncio.wait_for` of Python 3.11
    forgets it where what it waits for comes at the same moment.
    """
    cancelled = _times_cancelled()
    try:
        yield
    except asyncio.CancelledError:
        if _times_cancelled() > cancelled:
            raise
        raise ConnectionError("the channel closed") from None
    except Exception as error:
        if _times_cancelled() > cancelled:
            raise asyncio.CancelledError from error
        if type(error) is Exception or isinstance(error, StopAsyncIteration | EOFError):
            raise ConnectionError("the channel closed") from error
        raise
    if _times_cancelled() > cancelled:
        raise asyncio.CancelledError


def _times_cancelled() -> int:
    current = asyncio.current_task()
    return current.cancelling() if current is not None else 0
