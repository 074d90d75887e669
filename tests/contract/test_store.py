"""What every store must do: the same tests on Redis, on the embedded Valkey and on fakeredis."""

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import replace

import pytest

from calltag.core.broker.ports import Partition, partition_of
from calltag.core.contracts.stored_call import Lifetimes
from calltag.core.domain.agent import NOT_READY, Agent, AgentDevice
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import UserData
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient, redis_client
from calltag.core.store.keys import Keys
from calltag.core.store.ports import (
    Change,
    CommitConflict,
    CommitPosition,
    Done,
    Epoch,
    Fenced,
    HeldPartition,
    InstallationMismatch,
    Loaded,
    Published,
    StateUnreadable,
    StoreUnavailable,
    WorkerId,
)
from calltag.core.store.workers import (
    RedisCallIndex,
    RedisWorkerRegistry,
    check_installation,
)
from parts.eventually import eventually
from parts.store_commands import library

KEYS = Keys("calltag-test")
PARTITIONS = 32
ALICE, BOB = UserId("alice"), UserId("bob")
CALL_ID = CallId("C1")
PARTITION = partition_of(CALL_ID, PARTITIONS)
OK = Done(StatusCode.SUCCESS, 1)
CALL = Call(
    CALL_ID,
    ConnId("c"),
    CallType.INTERNAL,
    "15001",
    1_000,
    (
        Leg("15000", LegState.DIALING, DeviceId("d1"), ALICE),
        Leg("15001", LegState.RINGING, DeviceId("d2"), BOB),
    ),
    UserData({"b": ("x", 1.5), "a": (True, None, {"n": [1]}), "é": (2**64 - 1,)}),
    version=1,
)


@pytest.fixture
def store(client: RedisClient) -> RedisCallStore:
    return RedisCallStore(client, KEYS, remembered_operations=3)


@pytest.fixture
def reader(client: RedisClient) -> RedisCallReader:
    return RedisCallReader(client, KEYS, PARTITIONS)


def change(before: Call | None, after: Call | None, *operations: str, done: Done = OK) -> Change:
    return Change(f"call:{CALL_ID}", before, after, [(OperationId(each), done) for each in operations])


async def stored(store: RedisCallStore, *operations: str) -> tuple[Call | None, dict[OperationId, Done]]:
    ids = [OperationId(each) for each in operations] or [OperationId("none")]
    loaded = (await store.load(PARTITION, {f"call:{CALL_ID}": ids}))[f"call:{CALL_ID}"]
    assert loaded.state is None or isinstance(loaded.state, Call)
    return loaded.state, dict(loaded.done)


async def test_what_is_committed_is_what_is_loaded(store: RedisCallStore, reader: RedisCallReader) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    state, done = await stored(store, "o1", "o2")
    assert state == CALL
    assert state is not None
    assert list(state.user_data.values) == ["b", "a", "é"]
    assert state.user_data.as_object()["a"][0] is True  # type: ignore[index]
    assert done == {"o1": OK}
    assert await reader.call(CALL_ID) == CALL
    assert await reader.call(CALL_ID, with_user_data=False) == replace(CALL, user_data=UserData())
    assert await reader.call(CallId("other")) is None


async def test_user_data_is_a_hash_of_json_lists(store: RedisCallStore, client: RedisClient) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    raw = await library(client).hgetall(KEYS.state(PARTITION, f"call:{CALL_ID}").data)
    assert raw[b"b"] == b'["x",1.5]'
    assert raw["é".encode()] == b"[18446744073709551615]"


async def test_only_what_differs_is_written(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    updated = replace(CALL, version=2, user_data=CALL.user_data.without("b").attach([("z", 1), ("a", 2)]))
    await store.commit(PARTITION, epoch, [change(CALL, updated, "o2")], [])
    assert (await stored(store))[0] == updated
    retyped = replace(updated, version=3, user_data=updated.user_data.update([("z", True)]))
    await store.commit(PARTITION, epoch, [change(updated, retyped, "o3")], [])
    state = (await stored(store))[0]
    assert state is not None
    assert state.user_data.as_object()["z"] is True
    emptied = replace(retyped, version=4, user_data=UserData())
    await store.commit(PARTITION, epoch, [change(retyped, emptied, "o4")], [])
    assert (await stored(store))[0] == emptied


async def test_a_former_owner_is_fenced(store: RedisCallStore) -> None:
    former = (await store.take_over(PARTITION)).epoch
    current = (await store.take_over(PARTITION)).epoch
    assert current > former
    with pytest.raises(Fenced, match="epoch"):
        await store.commit(PARTITION, former, [change(None, CALL, "o1")], [b"event"])
    assert await stored(store, "o1") == (None, {})
    with pytest.raises(Fenced):
        await store.sent(PARTITION, former, CommitPosition(1))
    with pytest.raises(Fenced):
        await store.kept(PARTITION, former)
    assert (await store.take_over(PARTITION)).kept == 0


async def test_an_unexpected_version_is_a_conflict(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    for before in (None, replace(CALL, version=7)):
        with pytest.raises(CommitConflict):
            await store.commit(PARTITION, epoch, [change(before, replace(CALL, version=8), "o2")], [b"event"])
    assert await stored(store, "o2") == (CALL, {})


async def test_an_operation_is_done_once(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    with pytest.raises(CommitConflict):
        await store.commit(PARTITION, epoch, [change(CALL, replace(CALL, version=2), "o1")], [b"event"])
    assert (await stored(store))[0] == CALL


async def test_whether_an_operation_is_done_can_be_asked_without_reading_the_state(
    store: RedisCallStore, client: RedisClient
) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    key = f"call:{CALL_ID}"
    assert [await store.is_done(PARTITION, key, OperationId(each)) for each in ("o1", "o2")] == [True, False]
    name = KEYS.state(PARTITION, key).done
    await library(client).delete(name)
    await library(client).set(name, "no hash")
    assert not await store.is_done(PARTITION, key, OperationId("o1"))


async def test_one_change_that_fails_keeps_all_from_being_written(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    good = change(None, CALL, "o1")
    bad = Change("call:C2", CALL, replace(CALL, version=2), [(OperationId("o2"), OK)])
    with pytest.raises(CommitConflict):
        await store.commit(PARTITION, epoch, [good, bad], [b"event"])
    assert await stored(store, "o1") == (None, {})
    assert (await store.take_over(PARTITION)).kept == 0


async def test_refusals_are_remembered_where_there_is_no_call(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    refused = Done(StatusCode.NOT_FOUND, 0, "there is no call")
    await store.commit(PARTITION, epoch, [change(None, None, "o1", done=refused)], [])
    assert await stored(store, "o1") == (None, {"o1": refused})
    await store.commit(PARTITION, epoch, [change(None, CALL, "o2")], [])
    assert (await stored(store))[0] == CALL


async def test_the_oldest_operations_are_forgotten_beyond_the_limit(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1", "o2")], [])
    await store.commit(PARTITION, epoch, [change(CALL, CALL, "o3", "o4")], [])
    assert set((await stored(store, "o1", "o2", "o3", "o4"))[1]) == {"o2", "o3", "o4"}


async def test_events_are_kept_until_they_are_sent(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    first = await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [b"e1", b"e2"])
    await store.commit(PARTITION, epoch, [change(CALL, CALL, "o2")], [b"e3"])
    await store.sent(PARTITION, epoch, first.position)
    taken = await store.take_over(PARTITION)
    assert taken.kept == 3, "an answer that comes late drops nothing of a later commit"
    assert await store.kept(PARTITION, taken.epoch) == [b"e1", b"e2", b"e3"]
    await store.sent(PARTITION, taken.epoch, taken.position)
    assert (await store.take_over(PARTITION)).kept == 0


async def test_an_owner_that_takes_over_again_empties_the_outbox_of_what_it_published(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    first = await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [b"e1"])
    again = await store.take_over(PARTITION, epoch, Published(epoch, first.position))
    assert (again.kept, again.former, again.position) == (0, epoch, first.position)
    second = await store.commit(PARTITION, again.epoch, [change(CALL, CALL, "o2")], [b"e2"])
    # A commit whose events it did not publish, and another owner in between.
    assert (await store.take_over(PARTITION, again.epoch, Published(again.epoch, first.position))).kept == 1
    other = (await store.take_over(PARTITION)).epoch
    assert (await store.take_over(PARTITION, other, Published(again.epoch, second.position))).kept == 1


async def test_a_commit_empties_the_outbox_of_what_was_published_before(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    first = await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [b"e1", b"e2"])
    second = await store.commit(PARTITION, epoch, [change(CALL, CALL, "o2")], [b"e3"], published=first.position)
    assert await store.kept(PARTITION, epoch) == [b"e3"]
    # Of a commit whose events are perhaps not published, nothing is lost.
    await store.commit(PARTITION, epoch, [change(CALL, CALL, "o3")], [b"e4"], published=first.position)
    assert await store.kept(PARTITION, epoch) == [b"e3", b"e4"]
    with pytest.raises(CommitConflict):
        await store.commit(PARTITION, epoch, [change(None, CALL, "o4")], [b"e5"], published=second.position)
    assert await store.kept(PARTITION, epoch) == [b"e3", b"e4"]


async def test_kept_events_are_read_as_many_at_a_time_as_a_batch_has_bytes(client: RedisClient) -> None:
    store = RedisCallStore(client, KEYS, max_batch_bytes=10)
    epoch = (await store.take_over(PARTITION)).epoch
    first = await store.commit(PARTITION, epoch, [], [b"1234", b"567890", b"x"])
    await store.commit(PARTITION, epoch, [], [b"more than ten", b"y"])
    taken = await store.take_over(PARTITION)

    async def pages() -> list[Sequence[bytes]]:
        read: list[Sequence[bytes]] = []
        while page := await store.kept(PARTITION, taken.epoch, sum(map(len, read))):
            read.append(page)
        return read

    assert await pages() == [[b"1234", b"567890"], [b"x"], [b"more than ten"], [b"y"]]
    await store.sent(PARTITION, taken.epoch, first.position)
    assert len(await pages()) == 4, "those of the second commit, and whatever is before them, stay"
    await store.sent(PARTITION, taken.epoch, taken.position)
    assert await pages() == []


async def test_calls_are_read_as_many_at_a_time_as_a_batch_has_bytes(client: RedisClient) -> None:
    keys = [f"call:C{number}" for number in range(5)]
    whole = RedisCallStore(client, KEYS)
    epoch = (await whole.take_over(PARTITION)).epoch
    calls = [replace(CALL, id=CallId(key.removeprefix("call:"))) for key in keys]
    ids = [OperationId("o1"), OperationId("o2")]
    changes = [Change(key, None, call, [(ids[0], OK)]) for key, call in zip(keys, calls, strict=True)]
    await whole.commit(PARTITION, epoch, changes, [])
    wanted = dict.fromkeys(["call:none", *keys], ids)
    expected = {"call:none": Loaded(None)} | {
        key: Loaded(call, {ids[0]: OK}) for key, call in zip(keys, calls, strict=True)
    }
    assert await whole.load(PARTITION, wanted) == expected
    for max_bytes, at_once in ((1, 1), (1_000_000, 6)):
        store, left, pages = RedisCallStore(client, KEYS, max_batch_bytes=max_bytes), dict(wanted), list[int]()
        read: dict[str, Loaded] = {}
        while left:
            page = await store.load(PARTITION, left)
            assert list(page) == list(left)[: len(page)]
            pages.append(len(page))
            read |= page
            left = {key: each for key, each in left.items() if key not in page}
        assert (read, max(pages)) == (expected, at_once)


async def test_more_operations_than_a_command_has_arguments_are_looked_for(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    ids = [OperationId(f"x{number}") for number in range(20_000)]
    loaded = (await store.load(PARTITION, {f"call:{CALL_ID}": [*ids, OperationId("o1")]}))[f"call:{CALL_ID}"]
    assert list(loaded.done) == ["o1"]


async def test_state_has_an_end(client: RedisClient) -> None:
    lifetimes = Lifetimes(live_ms=100_000, released_ms=2_000, operations_ms=1_000)
    store = RedisCallStore(client, KEYS, lifetimes=lifetimes)
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    names = KEYS.state(PARTITION, f"call:{CALL_ID}").all()
    for name in names:
        assert 2_000 < await library(client).pttl(name) <= 100_000
    over = replace(CALL, version=2, legs=tuple(replace(leg, state=LegState.RELEASED) for leg in CALL.legs))
    await store.commit(PARTITION, epoch, [change(CALL, over, "o2")], [])
    for name in names:
        assert 0 < await library(client).pttl(name) <= 2_000


async def test_operations_are_remembered_longer_than_a_released_call(client: RedisClient) -> None:
    lifetimes = Lifetimes(live_ms=200_000, released_ms=2_000, operations_ms=100_000)
    store = RedisCallStore(client, KEYS, lifetimes=lifetimes)
    epoch = (await store.take_over(PARTITION)).epoch
    names = KEYS.state(PARTITION, f"call:{CALL_ID}")
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    for name in (names.done, names.order):
        assert 100_000 < await library(client).pttl(name) <= 200_000
    over = replace(CALL, version=2, legs=tuple(replace(leg, state=LegState.RELEASED) for leg in CALL.legs))
    await store.commit(PARTITION, epoch, [change(CALL, over, "o2")], [])
    assert await library(client).pttl(names.state) <= 2_000
    for name in (names.done, names.order):
        assert 2_000 < await library(client).pttl(name) <= 100_000


async def damaged(client: RedisClient, store: RedisCallStore, name: str, field: str, value: bytes) -> None:
    """A call of which one field was overwritten."""
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    await RedisCallIndex(client, KEYS).update([CALL])
    names = KEYS.state(PARTITION, f"call:{CALL_ID}")
    await library(client).hset(getattr(names, name), field, value)


SECRET = b'{"id": "SECRET", "type": "Telepathic"}'


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("state", "doc", SECRET),
        ("state", "doc", b"SECRET"),
        ("state", "keys", b'["SECRET"]'),
        ("state", "keys", b"SECRET"),
        ("state", "version", b"SECRET"),
        ("data", "b", b"SECRET"),
        ("data", "b", b"7"),
    ],
)
async def test_a_record_that_cannot_be_read_is_told_by_its_key(
    client: RedisClient, store: RedisCallStore, reader: RedisCallReader, name: str, field: str, value: bytes
) -> None:
    await damaged(client, store, name, field, value)
    with pytest.raises(StateUnreadable, match="call:C1") as raised:
        await reader.call(CALL_ID)
    assert "SECRET" not in str(raised.value)
    loaded = (await store.load(PARTITION, {f"call:{CALL_ID}": [OperationId("o1")]}))[f"call:{CALL_ID}"]
    assert (loaded.state, loaded.done) == (None, {"o1": OK})
    assert str(loaded.unreadable) == str(raised.value)


async def test_an_outcome_that_cannot_be_read_makes_the_record_unreadable(
    client: RedisClient, store: RedisCallStore
) -> None:
    await damaged(client, store, "done", "o1", b'[99,1,"SECRET"]')
    key = f"call:{CALL_ID}"
    loaded = (await store.load(PARTITION, {key: [OperationId("o1")], "call:C9": [OperationId("o")]}))[key]
    assert (loaded.state, loaded.done) == (None, {})
    assert "call:C1" in str(loaded.unreadable)
    assert "SECRET" not in str(loaded.unreadable)
    assert (await store.load(PARTITION, {key: [OperationId("o2")]}))[key].state == CALL


async def test_a_call_that_cannot_be_read_is_left_out_of_the_list(
    client: RedisClient, store: RedisCallStore, reader: RedisCallReader
) -> None:
    await damaged(client, store, "state", "doc", SECRET)
    other = replace(CALL, id=CallId("C2"))
    partition = partition_of(other.id, PARTITIONS)
    epoch = (await store.take_over(partition)).epoch
    await store.commit(partition, epoch, [Change("call:C2", None, other, [(OperationId("o"), OK)])], [])
    await RedisCallIndex(client, KEYS).update([other])
    assert await reader.calls_of(ALICE) == [other]
    assert await library(client).smembers(KEYS.calls_of(ALICE)) == {b"C1", b"C2"}


async def test_a_call_that_is_gone_leaves_the_list_when_it_is_read(
    client: RedisClient, store: RedisCallStore, reader: RedisCallReader
) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    await RedisCallIndex(client, KEYS).update([CALL, replace(CALL, id=CallId("GONE"))])
    assert await reader.calls_of(ALICE) == [CALL]
    assert await library(client).smembers(KEYS.calls_of(ALICE)) == {b"C1"}


async def test_a_list_of_calls_lives_as_long_as_a_call(client: RedisClient) -> None:
    await RedisCallIndex(client, KEYS, lifetime_ms=5_000).update([CALL])
    assert 0 < await library(client).pttl(KEYS.calls_of(ALICE)) <= 5_000


async def test_a_glance_is_a_look_without_user_data(
    client: RedisClient, store: RedisCallStore, reader: RedisCallReader
) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    seen, nothing = reader.begin_call(CALL.id), reader.begin_call(CallId("no-such-call"))
    assert (await seen, await nothing) == (replace(CALL, user_data=UserData()), None)
    await library(client).hset(KEYS.state(PARTITION, f"call:{CALL.id}").state, "doc", "no call")
    with pytest.raises(StateUnreadable):
        await reader.begin_call(CALL.id)


async def test_a_glance_that_nobody_waits_for_is_heard_of_no_more(
    client: RedisClient, reader: RedisCallReader, caplog: pytest.LogCaptureFixture
) -> None:
    under_way = reader.begin_call(CALL.id)
    under_way.drop()
    with pytest.raises(asyncio.CancelledError):
        await under_way
    await library(client).set(KEYS.state(PARTITION, f"call:{CALL.id}").state, "no hash")
    dropped, awaited = reader.begin_call(CALL.id), reader.begin_call(CALL.id)
    with pytest.raises(StoreUnavailable):
        await awaited
    dropped.drop()
    del dropped, awaited
    gc.collect()
    assert not caplog.records


async def test_an_agent(store: RedisCallStore, reader: RedisCallReader) -> None:
    partition = partition_of(ALICE, PARTITIONS)
    epoch = (await store.take_over(partition)).epoch
    agent = Agent(
        ALICE, (AgentDevice(DeviceId("d1"), "15000", NOT_READY, active=True, forward_to="15001"),), ("voice",), 1
    )
    await store.commit(partition, epoch, [Change("agent:alice", None, agent, [(OperationId("o1"), OK)])], [])
    assert await reader.agent(ALICE) == agent
    assert await reader.agent(BOB) is None
    assert (await store.load(partition, {"agent:alice": [OperationId("o1")]}))["agent:alice"].state == agent


async def test_the_index_follows_the_calls(client: RedisClient, store: RedisCallStore, reader: RedisCallReader) -> None:
    index = RedisCallIndex(client, KEYS)
    epoch = (await store.take_over(PARTITION)).epoch
    await store.commit(PARTITION, epoch, [change(None, CALL, "o1")], [])
    for _ in range(2):
        await index.update([CALL])
    assert await reader.calls_of(ALICE) == [CALL]
    gone = replace(CALL, version=2, legs=(CALL.legs[0], replace(CALL.legs[1], state=LegState.RELEASED)))
    await store.commit(PARTITION, epoch, [change(CALL, gone, "o2")], [])
    await index.update([gone])
    assert await reader.calls_of(ALICE) == [gone]
    assert await reader.calls_of(BOB) == []


async def test_after_the_store_was_away_everybody_keeps_the_place_for_one_more_lease(client: RedisClient) -> None:
    registry = RedisWorkerRegistry(client, KEYS, lease_ms=300)
    everybody = [WorkerId(f"w{number}") for number in range(3)]
    for each in everybody:
        await registry.renew(each)

    async def nobody_is_left() -> bool:
        return await registry.living() == []

    await eventually(nobody_is_left)
    assert await registry.renew(everybody[2]) == everybody

    async def only_two_are_left() -> bool:
        await registry.renew(everybody[1])
        return set(await registry.renew(everybody[2])) == set(everybody[1:])

    await eventually(only_two_are_left)


async def test_an_outage_that_only_some_leases_outlast_moves_nobody(client: RedisClient) -> None:
    registry = RedisWorkerRegistry(client, KEYS, lease_ms=600)
    for number in range(2):
        await registry.renew(WorkerId(f"w{number}"))
    await library(client).zadd(KEYS.workers(), {"w0": 1})

    async def nobody_was_heard_for_long() -> bool:
        [one] = await registry.living()
        return one.lease_ends_in_ms < 150

    await eventually(nobody_was_heard_for_long)
    assert await registry.renew(WorkerId("w1")) == ["w0", "w1"]


async def test_whoever_comes_after_all_were_killed_does_not_share_with_the_dead(client: RedisClient) -> None:
    short, longer = RedisWorkerRegistry(client, KEYS, lease_ms=1), RedisWorkerRegistry(client, KEYS)
    for number in range(2):
        await short.renew(WorkerId(f"dead{number}"))

    async def nobody_is_left() -> bool:
        return await short.living() == []

    await eventually(nobody_is_left)
    assert await longer.renew(WorkerId("new")) == ["new"]


async def test_who_leaves_after_the_store_was_away_takes_nobody_along(client: RedisClient) -> None:
    registry = RedisWorkerRegistry(client, KEYS, lease_ms=300)
    for number in range(3):
        await registry.renew(WorkerId(f"w{number}"))

    async def nobody_is_left() -> bool:
        return await registry.living() == []

    await eventually(nobody_is_left)
    await registry.leave(WorkerId("w2"))
    assert await registry.renew(WorkerId("w1")) == ["w0", "w1"]


async def test_a_lease_ends(client: RedisClient) -> None:
    short, longer = RedisWorkerRegistry(client, KEYS, lease_ms=1), RedisWorkerRegistry(client, KEYS)
    await longer.renew(WorkerId("here"))
    await short.renew(WorkerId("gone"))
    for _ in range(1_000):
        live = await longer.renew(WorkerId("here"))
        if live == ["here"]:
            break
    assert live == ["here"]
    assert set(await longer.renew(WorkerId("new"))) == {"here", "new"}
    await longer.leave(WorkerId("here"))
    assert await longer.renew(WorkerId("new")) == ["new"]


async def test_who_goes_leaves_the_place_to_the_last_one_and_nobody_else_changes_place(client: RedisClient) -> None:
    registry = RedisWorkerRegistry(client, KEYS)
    for number in range(4):
        listed = await registry.renew(WorkerId(f"w{number}"))
    assert listed == ["w0", "w1", "w2", "w3"]
    await registry.leave(WorkerId("w1"))
    assert await registry.renew(WorkerId("w2")) == ["w0", "w3", "w2"]
    await registry.leave(WorkerId("w2"))
    assert await registry.renew(WorkerId("w4")) == ["w0", "w3", "w4"]
    await library(client).zrem(KEYS.workers(), "w0", "w3")
    assert await registry.renew(WorkerId("w4")) == ["w4"]


async def test_what_workers_tell_of_their_partitions(client: RedisClient) -> None:
    registry = RedisWorkerRegistry(client, KEYS, lease_ms=5_000)
    assert await registry.living() == []
    busy = HeldPartition(Partition(3), Epoch(7), 2, 1_700_000_000_000, CommitPosition(9))
    held = (busy, HeldPartition(Partition(5)))
    await registry.renew(WorkerId("w0"), held)
    await registry.renew(WorkerId("w1"))
    told = {each.worker: each for each in await registry.living()}
    assert told[WorkerId("w0")].held == held
    assert told[WorkerId("w1")].held == ()
    assert 0 <= told[WorkerId("w0")].lease_ends_in_ms <= 5_000
    await registry.leave(WorkerId("w0"))
    assert [each.worker for each in await registry.living()] == ["w1"]
    assert await library(client).hkeys(KEYS.worker_reports()) == [b"w1"]


def test_the_keys_of_the_registry_are_in_one_slot() -> None:
    names = (KEYS.workers(), KEYS.worker_places(), KEYS.worker_reports())
    assert {name[name.index("{") : name.index("}")] for name in names} == {"{workers"}


async def test_the_number_of_partitions_is_fixed(client: RedisClient) -> None:
    await check_installation(client, KEYS, 32)
    await check_installation(client, KEYS, 32)
    with pytest.raises(InstallationMismatch, match="32 partitions"):
        await check_installation(client, KEYS, 16)
    await library(client).hset(KEYS.installation(), "schema", "0")
    with pytest.raises(InstallationMismatch, match="schema"):
        await check_installation(client, KEYS, 32)


async def test_a_store_that_is_away_is_told_in_time(unused_tcp_port: int) -> None:
    client = redis_client(f"redis://127.0.0.1:{unused_tcp_port}/0", deadline_s=0.5)
    store = RedisCallStore(client, KEYS)
    with pytest.raises(StoreUnavailable):
        await store.take_over(PARTITION)
    with pytest.raises(StoreUnavailable):
        await store.load(PARTITION, {"call:C1": [OperationId("o")]})
    with pytest.raises(StoreUnavailable):
        await store.commit(PARTITION, Epoch(1), [], [])
    assert not await client.ping()
    await client.close()
