"""Errors of operations on a connection, and their normalization."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aio_pika.exceptions import AMQPError

from calltag.core.runtime.cancelling import propagate_cancellation, times_cancelled

FAILURES: Final = (AMQPError, OSError, RuntimeError, TimeoutError)
"""Errors that operations on a broken connection raise."""


@contextmanager
def normalize_amqp_errors() -> Iterator[None]:
    """Convert spurious errors of aiormq to ConnectionError, so that they end no task.

    On a closing channel aiormq raises CancelledError in tasks that nobody cancelled, or a bare Exception; while
    connecting, whatever ended the reader.
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
