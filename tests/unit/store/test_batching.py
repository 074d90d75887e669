"""Scripts share round trips, and none waits for ever."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio.connection import AbstractConnection

from calltag.core.store.client import RedisClient
from calltag.core.store.connection import RedisServer, Request
from calltag.core.store.embedded import embedded_store
from calltag.core.store.lua_script import LuaScript
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.scripts import ScriptBatcher
from parts.eventually import eventually

ECHO = LuaScript("return ARGV[1]", idempotent=True)


@pytest.fixture
async def client() -> AsyncIterator[RedisClient]:
    async with embedded_store(None, deadline_s=20) as store:
        yield store.client


class Silent(RedisClient):
    """A store that never answers."""

    async def send(self, requests: Sequence[Request]) -> None:  # noqa: ARG002 - never answered
        await asyncio.Event().wait()


async def test_calls_of_one_moment_share_a_round_trip(client: RedisClient) -> None:
    batcher = ScriptBatcher(client)
    echo = batcher.calls(ECHO)
    await echo([], ["known"])
    before = batcher.round_trips
    assert await asyncio.gather(*(echo([], [str(number)]) for number in range(50))) == [
        b"%d" % number for number in range(50)
    ]
    assert batcher.round_trips == before + 1


class Weighed(RedisClient):
    """Notes how many calls each pipeline has."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(client.router, client.deadline_s)
        self.noted: list[int] = []

    async def send(self, requests: Sequence[Request]) -> None:
        self.noted.append(len(requests))
        await super().send(requests)


async def test_a_pipeline_has_no_more_bytes_than_a_batch_unless_one_call_has(client: RedisClient) -> None:
    weighed = Weighed(client)
    echo = ScriptBatcher(weighed).calls(ECHO)
    await echo([], ["known"])
    weighed.noted.clear()
    sizes = [400_000, 400_000, 400_000, 2_000_000, *[1] * 10]
    answers = await asyncio.gather(*(echo([], [b"x" * size]) for size in sizes))
    assert [len(each) for each in answers] == sizes  # type: ignore[arg-type]
    assert sorted(weighed.noted, reverse=True) == [10, 2, 1, 1]


async def test_what_is_answered_is_not_kept_until_its_time_is_over(client: RedisClient) -> None:
    batcher = ScriptBatcher(client)
    echo = batcher.calls(ECHO)
    for number in range(20):
        await asyncio.gather(*(echo([], [str(number)]) for _ in range(5)))
    assert len(batcher._watched) <= 5


class Gated(RedisClient):
    """A store that answers when the gate is open, all at once."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(client.router, 5)
        self.gate = asyncio.Event()
        self.arrived: list[str] = []

    async def send(self, requests: Sequence[Request]) -> None:
        await super().send(requests)
        self.arrived.append("")
        await self.gate.wait()


async def test_who_calls_just_when_all_senders_end_is_answered(client: RedisClient) -> None:
    await ScriptBatcher(client).calls(ECHO)([], ["known from here on"])
    gated = Gated(client)
    echo = ScriptBatcher(gated).calls(ECHO)

    async def call_twice() -> None:
        for _ in range(2):
            assert await echo([], ["1"]) == b"1"

    def all_arrived() -> bool:
        return len(gated.arrived) == len(callers)

    callers: list[asyncio.Task[None]] = []
    for _ in range(4):
        callers.append(asyncio.create_task(call_twice()))
        await eventually(all_arrived)
    gated.gate.set()
    await asyncio.gather(*callers)


async def test_callers_who_come_at_any_moment_are_all_answered(client: RedisClient) -> None:
    echo = ScriptBatcher(client).calls(ECHO)
    moments = random.Random(1)

    async def call_again_and_again(name: int) -> None:
        for number in range(150):
            assert await echo([], [f"{name}-{number}"]) == f"{name}-{number}".encode()
            for _ in range(moments.randrange(12)):
                await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(*map(call_again_and_again, range(24)))


async def test_a_script_that_fails_fails_alone(client: RedisClient) -> None:
    batcher = ScriptBatcher(client)
    good, bad = batcher.calls(ECHO), batcher.calls(LuaScript("return redis.call('NOSUCH')", idempotent=True))
    outcomes = await asyncio.gather(good([], ["1"]), bad([], []), good([], ["2"]), return_exceptions=True)
    assert (outcomes[0], type(outcomes[1]), outcomes[2]) == (b"1", StoreUnavailable, b"2")


async def test_a_caller_is_told_in_time_and_the_next_ones_too(client: RedisClient) -> None:
    echo = ScriptBatcher(Silent(client.router, 0.05)).calls(ECHO)
    for _ in range(3):
        outcomes = await asyncio.gather(*(echo([], ["1"]) for _ in range(9)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}


class Several:
    """Implements Router: keys begin with the name of their server; those in `frozen` do not answer."""

    has_slots = True

    def __init__(self, *frozen: str) -> None:
        self.frozen = frozen
        self.asked: list[tuple[str, int]] = []
        self.servers = {name: RedisServer(name, refused, 1) for name in "abc"}

    def server_of(self, key: str) -> RedisServer | None:
        return self.servers[key[0]]

    async def masters(self) -> Sequence[RedisServer]:
        return list(self.servers.values())

    async def send(self, requests: Sequence[Request]) -> None:
        [server] = {each.key[0] for each in requests}
        self.asked.append((server, len(requests)))
        if server in self.frozen:
            await asyncio.Event().wait()
        for each in requests:
            each.replies = [server.encode()]

    async def send_to(self, *_: object) -> None:
        raise AssertionError("a batch goes to the servers of its keys")

    async def close(self) -> None: ...


async def refused() -> AbstractConnection:
    raise ConnectionRefusedError


async def test_a_server_that_does_not_answer_holds_up_nobody_who_asks_another() -> None:
    several = Several("a")
    batcher = ScriptBatcher(RedisClient(several, 20))
    read = batcher.calls(ECHO)
    waiting = [asyncio.ensure_future(read([f"a{number}"], [])) for number in range(3)]
    for _ in range(3):
        answers: Sequence[object] = await asyncio.gather(read(["b1"], []), read(["b2"], []), read(["c1"], []))
        assert list(answers) == [b"b", b"b", b"c"]
    assert several.asked == [("a", 3), *[("b", 2), ("c", 1)] * 3]
    # Servers come and go: of those that are not asked now, nothing is kept.
    assert list(batcher._lanes) == [several.servers["a"]]
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
