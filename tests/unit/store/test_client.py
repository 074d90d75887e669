"""What becomes of an exchange with Redis whose task is told to end."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import cast

import pytest
import redis.asyncio
from redis.exceptions import RedisError

from calltag.core.store.cluster import ClusterClient
from calltag.core.store.connection import RedisClient
from calltag.core.store.ports import StoreUnavailable
from parts.eventually import turns


async def answers_at_the_same_moment() -> None:
    """As `asyncio.wait_for` of Python 3.11 does, with which the library sends."""
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def fails_at_the_same_moment() -> None:
    await answers_at_the_same_moment()
    raise RedisError


async def lets_it_through() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def client() -> RedisClient:
    return RedisClient(redis.asyncio.Redis(), deadline_s=60)


@pytest.mark.parametrize("work", [answers_at_the_same_moment, fails_at_the_same_moment, lets_it_through])
async def test_a_task_that_is_cancelled_ends(client: RedisClient, work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        while True:
            with suppress(StoreUnavailable):
                async with client.exchange():
                    await work()

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=10)
    assert done
    assert task.cancelled()


async def limited(client: RedisClient, work: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(0), client.exchange():
        await work()


@pytest.mark.parametrize("work", [answers_at_the_same_moment, fails_at_the_same_moment, lets_it_through])
async def test_within_a_shorter_limit_it_is_the_limit(client: RedisClient, work: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(TimeoutError):
        await limited(client, work)


class Cluster:
    """As much of redis-py's as is asked."""

    closes = 0
    known = True

    async def aclose(self) -> None:
        self.closes += 1


@pytest.mark.parametrize("make", [RedisClient, ClusterClient])
async def test_what_is_under_way_when_the_client_closes_ends_first_and_nothing_begins(make: type[RedisClient]) -> None:
    library = Cluster()
    client = make(cast("redis.asyncio.Redis", library), deadline_s=60)
    answered = asyncio.Event()

    async def work() -> None:
        async with client.exchange():
            await answered.wait()

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    closing = asyncio.create_task(client.close())
    await turns()
    assert not closing.done()
    assert library.closes == 0
    with pytest.raises(StoreUnavailable, match="closed"):
        async with client.exchange():
            pass
    answered.set()
    await closing
    assert working.done()
    assert library.closes == 1
    await client.close()


class Reset:
    """A connection on which a write meets that it was reset, as uvloop tells it, the first times."""

    def __init__(self, times: int) -> None:
        self.times = times

    async def send_packed_command(self, _: bytes) -> None:
        self.times -= 1
        if self.times >= 0:
            raise RuntimeError("unable to perform operation; the handler is closed")

    async def read_response(self) -> bytes:
        return b"1"


class Pool:
    def __init__(self, connection: Reset) -> None:
        self.connection = connection
        self.given_back = 0

    async def get_connection(self) -> Reset:
        return self.connection

    async def release(self, _: Reset) -> None:
        self.given_back += 1


async def test_a_connection_that_was_reset_is_made_anew_or_the_store_is_away() -> None:
    pools = [Pool(Reset(1)), Pool(Reset(2))]
    once, twice = (
        RedisClient(cast("redis.asyncio.Redis", SimpleNamespace(connection_pool=pool)), deadline_s=60) for pool in pools
    )
    assert await once.answers("", [("GET", "a")]) == [b"1"]
    with pytest.raises(StoreUnavailable, match="handler is closed"):
        await twice.answers("", [("GET", "a")])
    assert [pool.given_back for pool in pools] == [1, 1]
