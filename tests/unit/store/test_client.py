"""What becomes of an exchange with Redis whose task is told to end, or whose connection breaks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionBroken
from redis.exceptions import RedisError, ResponseError

from calltag.core.store.client import RedisClient
from calltag.core.store.connection import RedisServer, Request
from calltag.core.store.lua_script import lua_script
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.routing import SingleRouter
from parts.eventually import turns

Work = Callable[[], Awaitable[None]]


async def answers_at_the_same_moment() -> None:
    """As `asyncio.wait_for` of Python 3.11 does, with which the library sends."""
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def fails_at_the_same_moment() -> None:
    await answers_at_the_same_moment()
    raise RedisError


async def lets_it_through() -> None:
    await asyncio.Event().wait()


class Working(RedisServer):
    """A server whose exchanges are the work of the test."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.closes = 0

    async def exchange(self, requests: Sequence[Request]) -> None:
        await self._work()
        for each in requests:
            each.replies = [b"1"]

    async def close_idle(self) -> None:
        self.closes += 1


def client_of(work: Work) -> RedisClient:
    return RedisClient(SingleRouter(Working(work)), deadline_s=60)


@pytest.mark.parametrize("work", [answers_at_the_same_moment, fails_at_the_same_moment, lets_it_through])
async def test_a_task_that_is_cancelled_ends(work: Work) -> None:
    client = client_of(work)

    async def run() -> None:
        while True:
            with suppress(StoreUnavailable):
                await client.execute("GET", "a")

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=10)
    assert done
    assert task.cancelled()


async def limited(client: RedisClient) -> None:
    async with asyncio.timeout(0):
        await client.execute("GET", "a")


@pytest.mark.parametrize("work", [answers_at_the_same_moment, fails_at_the_same_moment, lets_it_through])
async def test_within_a_shorter_limit_it_is_the_limit(work: Work) -> None:
    with pytest.raises(TimeoutError):
        await limited(client_of(work))


async def test_what_is_under_way_when_the_client_closes_ends_first_and_nothing_begins() -> None:
    answered = asyncio.Event()

    async def work() -> None:
        await answered.wait()

    server = Working(work)
    client = RedisClient(SingleRouter(server), deadline_s=60)
    working = asyncio.create_task(client.execute("GET", "a"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(client.close())
    await turns()
    assert not closing.done()
    assert server.closes == 0
    with pytest.raises(StoreUnavailable, match="closed"):
        await client.execute("GET", "a")
    answered.set()
    await closing
    assert await working == b"1"
    assert server.closes == 1
    await client.close()


class Connection:
    """A connection that gives these replies, and breaks where one is a connection's error."""

    def __init__(self, *replies: object) -> None:
        self._replies = list(replies)
        self.sent: list[bytes] = []
        self.closed = False

    async def send_packed_command(self, packed: bytes) -> None:
        self.sent.append(packed)

    async def read_response(self) -> object:
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, **_: Any) -> None:
        self.closed = True


RESET = RuntimeError("unable to perform operation; the handler is closed")
"""As uvloop tells of a write to a connection that was reset."""
GET, INCR = ("GET", "a"), ("INCR", "b")


def client_on(*connections: Connection) -> RedisClient:
    """A client that gets these connections, one after another."""
    at_hand = iter(connections)

    async def connect() -> AbstractConnection:
        return cast("AbstractConnection", next(at_hand))

    return RedisClient(SingleRouter(RedisServer("", connect, 1)), deadline_s=60)


@pytest.mark.parametrize("error", [RESET, ConnectionBroken("closed"), ConnectionResetError()])
async def test_what_may_be_sent_again_is_sent_on_another_connection(error: Exception) -> None:
    broken, whole = Connection(error), Connection(b"1", b"2")
    client = client_on(broken, whole)
    assert await client.execute(*GET) == b"1"
    assert (broken.closed, whole.closed) == (True, False)
    assert await client.execute(*GET) == b"2", "the connection is used again"


async def test_what_fails_twice_is_told() -> None:
    client = client_on(Connection(RESET), Connection(RESET), Connection(b"1"))
    with pytest.raises(StoreUnavailable, match="handler is closed"):
        await client.execute(*GET)
    assert await client.execute(*GET) == b"1"


async def test_what_may_not_be_sent_again_is_sent_once() -> None:
    broken, unused = Connection(RESET), Connection(1)
    client = client_on(broken, unused)
    with pytest.raises(StoreUnavailable, match="handler is closed"):
        await client.execute(*INCR)
    assert (len(broken.sent), unused.sent) == (1, [])


async def test_only_what_has_no_reply_and_may_be_sent_again_is_sent_again() -> None:
    broken, whole = Connection(b"1", RESET), Connection(b"3")
    client = client_on(broken, whole)
    requests = [Request("a", [GET]), Request("b", [INCR], idempotent=False), Request("c", [("GET", "c")])]
    await client.send(requests)
    assert [each.replies[0] for each in requests] == [b"1", RESET, b"3"]
    [again] = whole.sent
    assert b"INCR" not in again
    assert again.count(b"GET") == 1


async def test_a_refusal_costs_no_connection() -> None:
    connection = Connection(ResponseError("wrong number of arguments"), b"1")
    client = client_on(connection)
    with pytest.raises(StoreUnavailable, match="wrong number of arguments"):
        await client.execute(*GET)
    assert await client.execute(*GET) == b"1"


async def test_a_connection_that_was_in_use_when_others_were_closed_is_not_used_again() -> None:
    old, new = Connection(b"1"), Connection(b"2")
    at_hand = iter((old, new))

    async def connect() -> AbstractConnection:
        return cast("AbstractConnection", next(at_hand))

    server = RedisServer("", connect, 2)
    reading = old.read_response

    async def closes_meanwhile() -> object:
        await server.close_idle()
        return await reading()

    old.read_response = closes_meanwhile  # type: ignore[method-assign]
    client = RedisClient(SingleRouter(server))
    assert [await client.execute(*GET) for _ in range(2)] == [b"1", b"2"]
    assert (old.closed, new.closed) == (True, False)


async def test_a_script_that_does_not_say_whether_it_is_idempotent_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lua_script("commit").idempotent
    monkeypatch.setattr("calltag.core.store.lua_script._IDEMPOTENT", "-- It is said otherwise: ")
    with pytest.raises(ValueError, match=r"commit\.lua has to say"):
        lua_script("commit")
