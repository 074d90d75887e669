"""The lists of users' calls: they end by themselves, and show nobody a call of others."""

from dataclasses import replace

import pytest

from calltag.core.broker.ports import partition_of
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import UserData
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.ports import Change, Done, TooMuch
from calltag.core.store.workers import RedisCallIndex
from parts.store_commands import library

KEYS = Keys("index-test")
PARTITIONS = 4
ALICE, BOB = UserId("alice"), UserId("bob")
LEG = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), ALICE)
CALL = Call(CallId("C1"), ConnId("c"), CallType.INBOUND, "", 1_000, (LEG,), version=1)
RELEASED = replace(CALL, id=CallId("C2"), legs=(replace(LEG, state=LegState.RELEASED),))


@pytest.fixture
async def reader(client: RedisClient) -> RedisCallReader:
    """A reader of a store that holds both calls."""
    store = RedisCallStore(client, KEYS)
    for call in (CALL, RELEASED):
        partition = partition_of(call.id, PARTITIONS)
        epoch = (await store.take_over(partition)).epoch
        done = [(OperationId(f"o-{call.id}"), Done(StatusCode.SUCCESS, 1))]
        await store.commit(partition, epoch, [Change(f"call:{call.id}", None, call, done)], [])
    return RedisCallReader(client, KEYS, PARTITIONS)


async def test_the_list_of_a_user_ends_by_itself(client: RedisClient) -> None:
    await RedisCallIndex(client, KEYS).update([CALL])
    assert await library(client).smembers(KEYS.calls_of(ALICE)) == {b"C1"}
    assert 0 < await library(client).pttl(KEYS.calls_of(ALICE)) <= 24 * 3_600_000


@pytest.mark.parametrize(("user", "shown"), [(ALICE, [CALL]), (BOB, [])])
async def test_calls_that_are_listed_wrongly_are_not_shown(
    client: RedisClient, reader: RedisCallReader, user: UserId, shown: list[Call]
) -> None:
    await library(client).sadd(KEYS.calls_of(user), CALL.id, RELEASED.id, "never-there")
    assert await reader.calls_of(user) == shown


async def test_a_list_is_read_up_to_so_many_bytes(client: RedisClient) -> None:
    """However many calls of others, or over, are among them; without user data, where nobody asks for it."""
    store, reader = RedisCallStore(client, KEYS), RedisCallReader(client, KEYS, PARTITIONS)
    data = UserData({"k": ("x" * 1_000,)})
    calls = [replace(CALL, id=CallId(f"L{number}"), began_at_ms=number, user_data=data) for number in range(250)]
    over = [replace(RELEASED, id=CallId(f"R{number}"), user_data=data) for number in range(250)]
    for call in (*calls, *over):
        partition = partition_of(call.id, PARTITIONS)
        epoch = (await store.take_over(partition)).epoch
        done = [(OperationId(f"o-{call.id}"), Done(StatusCode.SUCCESS, 1))]
        await store.commit(partition, epoch, [Change(f"call:{call.id}", None, call, done)], [])
        await library(client).sadd(KEYS.calls_of(ALICE), call.id)
    assert await reader.calls_of(ALICE) == calls
    assert await reader.calls_of(ALICE, max_bytes=400_000) == calls
    with pytest.raises(TooMuch):
        await reader.calls_of(ALICE, max_bytes=250_000)
    bare = [replace(call, user_data=UserData()) for call in calls]
    assert await reader.calls_of(ALICE, with_user_data=False) == bare
    for count, is_on in ((249, True), (250, True), (251, False), (500, False), (501, False)):
        assert await reader.is_on(ALICE, count) is is_on
    assert not await reader.is_on(BOB, 1)
