"""What the library for RabbitMQ makes of a connection that goes, or of a task that is to end."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from calltag.core.broker.rabbitmq.connection import normalize_amqp_errors


async def swallows() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def makes_an_error_of_it() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    raise ConnectionResetError


async def lets_it_through() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("work", [swallows, makes_an_error_of_it, lets_it_through])
async def test_a_task_that_is_cancelled_ends(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        with normalize_amqp_errors():
            await work()

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_what_is_done_after_that_goes_on() -> None:
    """Closing, say."""
    closed = []

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with normalize_amqp_errors():
                await asyncio.sleep(0)
            closed.append(True)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert closed == [True]


async def test_a_cancellation_that_nobody_asked_for_is_a_lost_connection() -> None:
    with pytest.raises(ConnectionError), normalize_amqp_errors():
        raise asyncio.CancelledError


async def limited() -> None:
    async with asyncio.timeout(0):
        with normalize_amqp_errors():
            await makes_an_error_of_it()


async def test_within_a_time_limit_it_is_the_limit() -> None:
    with pytest.raises(TimeoutError):
        await limited()
