"""How operations on a connection fail."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aio_pika.exceptions import AMQPError

from calltag.core.runtime.cancelling import propagate_cancellation, times_cancelled

FAILURES: Final = (AMQPError, OSError, RuntimeError, TimeoutError)
"""What operations on a broken connection raise."""


@contextmanager
def normalize_amqp_errors() -> Iterator[None]:
    """What waits on a channel that closes, aiormq cancels though nobody cancelled the task, or fails with an exception
    of no kind; and where a connection ends while it is made, with whatever ended the reading. Here all these are a
    ConnectionError, so that no task ends for it.
    """
    before = times_cancelled()
    try:
        with propagate_cancellation():
            yield
    except asyncio.CancelledError:
        if times_cancelled() > before:
            raise
        raise ConnectionError("the channel closed") from None
    except Exception as error:
        if type(error) is Exception or isinstance(error, StopAsyncIteration | EOFError):
            raise ConnectionError("the channel closed") from error
        raise
