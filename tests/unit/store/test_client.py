"""Exchanges with Redis whose task is cancelled, or whose connection breaks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.connection import Connection as RedisConnection
from redis.exceptions import ConnectionError as ConnectionBroken
from redis.exceptions import RedisError, ResponseError

from calltag.core.store import connection as store_connection
from calltag.core.store.client import RedisClient
from calltag.core.store.connection import Connector, RedisServer, Request
from calltag.core.store.lua_script import lua_script
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.routing import Deployment, SingleRouter
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

    async def close(self) -> None:
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


SECONDS_LATER = 20


class Connection:
    """A connection that gives these replies, and breaks where one is a connection's error."""

    def __init__(self, *replies: object) -> None:
        self._replies = list(replies)
        self.sent: list[bytes] = []
        self.closed = False

    async def send_packed_command(self, packed: bytes) -> None:
        self.sent.append(packed)

    async def send_command(self, *command: str) -> None:
        self.sent.append(" ".join(command).encode())

    async def read_response(self) -> object:
        await asyncio.sleep(0)
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, **_: Any) -> None:
        self.closed = True


RESET = RuntimeError("unable to perform operation; the handler is closed")
"""As uvloop tells of a write to a connection that was reset."""
GET, INCR = ("GET", "a"), ("INCR", "b")


def client_on(*connections: Connection, most: int = 1) -> RedisClient:
    """A client that gets these connections, one after another."""
    at_hand = iter(connections)

    async def connect() -> AbstractConnection:
        return cast("AbstractConnection", next(at_hand))

    return RedisClient(SingleRouter(RedisServer("", connect, most)), deadline_s=60)


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


async def test_a_deadline_closes_the_idle_connections_too() -> None:
    """Each of them would cost a frozen server's caller another deadline."""
    stuck, idle, new = Connection(b"1"), Connection(b"2"), Connection(b"3")
    client = client_on(stuck, idle, new, most=2)
    assert sorted(map(str, await asyncio.gather(client.execute(*GET), client.execute(*GET)))) == ["b'1'", "b'2'"]
    for each in (stuck, idle):
        each.read_response = asyncio.Event().wait  # type: ignore[method-assign]
    client.deadline_s = 0.01
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await client.execute(*GET)
    assert (stuck.closed, idle.closed) == (True, True)
    assert await client.execute(*GET) == b"3"


async def test_a_connection_that_was_idle_for_long_is_checked_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, dead, new = Connection(b"1", "PONG", b"2"), Connection(b"1", RESET), Connection(b"3")
    now_s = 0.0
    monkeypatch.setattr(store_connection, "_now_s", lambda: now_s)
    for connection, answer in ((alive, b"2"), (dead, b"3")):
        client = client_on(connection, new)
        assert await client.execute(*GET) == b"1"
        now_s += SECONDS_LATER
        assert await client.execute(*GET) == answer
    assert (alive.closed, dead.closed) == (False, True)
    assert [b"PING" in alive.sent, b"PING" in dead.sent, b"PING" in new.sent] == [True, True, False]


async def test_a_server_that_was_closed_keeps_no_connection() -> None:
    connection = Connection(b"1")
    at_hand = iter([connection])

    async def connect() -> AbstractConnection:
        return cast("AbstractConnection", next(at_hand))

    server = RedisServer("", connect, 1)
    await server.close()
    request = Request("a", [GET])
    await server.exchange([request])
    assert (request.replies, connection.closed) == ([b"1"], True)


class Refusing:
    """A connection that cannot be opened."""

    closed = False

    def __init__(self, **options: object) -> None:
        type(self).options = options  # type: ignore[attr-defined]

    async def connect(self) -> None:
        raise ConnectionRefusedError

    async def disconnect(self, **_: Any) -> None:
        type(self).closed = True


async def test_options_of_a_url_may_repeat_those_that_calltag_sets_itself() -> None:
    kind, options = Deployment("redis://h:7/2?socket_timeout=2&health_check_interval=9&protocol=3").options()
    assert kind is RedisConnection
    with pytest.raises(ConnectionRefusedError):
        await Connector(options, 3.5, cast("Any", Refusing))()
    given = Refusing.options  # type: ignore[attr-defined]
    assert Refusing.closed
    assert (given["host"], given["port"], given["db"], given["socket_connect_timeout"]) == ("h", 7, 2, 3.5)
    assert (given["protocol"], given["socket_timeout"], given["health_check_interval"]) == (2, None, 0)


async def test_a_request_shows_nothing_of_what_it_sends() -> None:
    assert "secret" not in repr(Request("a", [("SET", "a", "secret")], replies=[b"secret"]))


async def test_a_script_that_does_not_say_whether_it_is_idempotent_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lua_script("commit").idempotent
    monkeypatch.setattr("calltag.core.store.lua_script._IDEMPOTENT", "-- It is said otherwise: ")
    with pytest.raises(ValueError, match=r"commit\.lua has to say"):
        lua_script("commit")
