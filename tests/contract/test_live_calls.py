"""Live calls by their last change, from which those are found that the switch has forgotten."""

from dataclasses import replace

from calltag.core.domain.agent import Agent
from calltag.core.domain.call import LegState
from calltag.core.domain.ids import OperationId
from calltag.core.store.calls import RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.ports import Change
from contract.test_store import ALICE, CALL, CALL_ID, KEYS, OK, PARTITION, change
from parts.eventually import eventually
from parts.store_commands import library


async def test_a_call_is_silent_from_its_last_change_to_its_end(client: RedisClient) -> None:
    store = RedisCallStore(client, KEYS)
    epoch = (await store.take_over(PARTITION)).epoch
    assert await store.silent(PARTITION, 0, 10) == ()
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    assert await store.silent(PARTITION, 60_000, 10) == ()

    async def is_silent() -> bool:
        return await store.silent(PARTITION, 50, 10) == [CALL_ID]

    await eventually(is_silent)
    # What changes nothing is no sign of life.
    await store.commit(PARTITION, epoch, [change(CALL, CALL, "o2")], [])
    assert await is_silent()
    over = replace(CALL, version=2, legs=tuple(replace(leg, state=LegState.RELEASED) for leg in CALL.legs))
    await store.commit(PARTITION, epoch, [change(CALL, over, "o3")], [])
    assert await store.silent(PARTITION, 0, 10) == ()
    assert not await library(client).exists(KEYS.live(PARTITION))


async def test_those_silent_longest_come_first(client: RedisClient) -> None:
    store = RedisCallStore(client, KEYS)
    epoch = (await store.take_over(PARTITION)).epoch
    for name in ("B", "A", "C"):
        await library(client).zadd(KEYS.live(PARTITION), {f"call:{name}": {"B": 1, "A": 2, "C": 3}[name]})
        await library(client).hset(KEYS.state(PARTITION, f"call:{name}").state, "version", "1")
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    assert await store.silent(PARTITION, 1_000, 2) == ["B", "A"]
    assert 0 < await library(client).pttl(KEYS.live(PARTITION)) <= 24 * 3600 * 1000


async def test_a_call_that_is_gone_is_forgotten(client: RedisClient) -> None:
    store = RedisCallStore(client, KEYS)
    await library(client).zadd(KEYS.live(PARTITION), {"call:GONE": 1})
    assert await store.silent(PARTITION, 0, 10) == []
    assert await library(client).zcard(KEYS.live(PARTITION)) == 0


async def test_agents_are_no_calls(client: RedisClient) -> None:
    store = RedisCallStore(client, KEYS)
    epoch = (await store.take_over(PARTITION)).epoch
    agent = Agent(ALICE, (), (), 1)
    await store.commit(PARTITION, epoch, [Change("agent:alice", None, agent, [(OperationId("o1"), OK)])], [])
    assert not await library(client).exists(KEYS.live(PARTITION))
