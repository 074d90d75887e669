"""How operations on a connection fail."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aio_pika.exceptions import AMQPError

FAILURES: Final = (AMQPError, OSError, RuntimeError, TimeoutError)
"""What operations on a broken connection raise."""


@contextmanager
def telling_cancellations_apart() -> Iterator[None]:
    """aiormq cancels what waits on a channel that closes. Nobody cancelled the task then: here that is a
    ConnectionError, so that no task ends for it."""
    try:
        yield
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        raise ConnectionError("the channel closed") from None
