"""Waiting for the first of two things, and between attempts."""

import asyncio
from itertools import islice

import pytest

from calltag.core.process.waiting import backoff_s, run_until, set_within, together


async def test_work_that_ends_first_gives_its_result() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await run_until(asyncio.Event(), work()) == 7


async def test_an_event_that_comes_first_cancels_the_work() -> None:
    event, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> int:
        event.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 7

    assert await run_until(event, work()) is None
    assert cancelled.is_set()


async def test_work_that_takes_too_long_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def work() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 7

    assert await run_until(asyncio.Event(), work(), within_s=0.01) is None
    assert cancelled.is_set()


async def test_an_error_of_the_work_comes_out() -> None:
    async def work() -> int:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await run_until(asyncio.Event(), work())


async def test_cancelling_cancels_the_work() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = asyncio.create_task(run_until(asyncio.Event(), work()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


async def test_set_within() -> None:
    event = asyncio.Event()
    assert not await set_within(event, 0.001)
    event.set()
    assert await set_within(event, 10)


def test_backoff_doubles_up_to_the_most_and_is_spread() -> None:
    delays = list(islice(backoff_s(0.1, 0.5), 6))
    for delay, most in zip(delays, (0.1, 0.2, 0.4, 0.5, 0.5, 0.5), strict=True):
        assert most / 2 <= delay <= most
    assert len(set(delays)) == len(delays)


async def test_one_alone_and_several_together() -> None:
    async def twice(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    assert list(await together([twice(1)])) == [2]
    assert list(await together([twice(1), twice(2)])) == [2, 4]
    assert list(await together([])) == []
