"""Where Redis is one server, events are added to streams in the exchange of their commit, if that takes effect."""

from collections.abc import Sequence

import pytest

from calltag.core.bayeux.events import BEGINNING
from calltag.core.broker.ports import NodeId, Partition
from calltag.core.domain.call import Call, CallType
from calltag.core.domain.ids import CallId, ConnId, OperationId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.store.calls import RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.event_log import Addition, AppendWithCommit, RedisEventLog
from calltag.core.store.keys import Keys
from calltag.core.store.ports import Change, CommitConflict, CommitPosition, Done, Epoch, Fenced, StoreError, WritesLost
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.watches import RedisWatches, Watched
from parts.hubs import CountingClient
from parts.store_commands import library

KEYS, PARTITION, ALICE, BOB, ROOT = Keys("following"), Partition(3), UserId("alice"), UserId("bob"), UserId("root")
CALL = Call(CallId("C1"), ConnId("c"), CallType.INTERNAL, "", 1, (), version=1)
CHANGE = Change("call:C1", None, CALL, [(OperationId("o1"), Done(StatusCode.SUCCESS, 1))])
EVENT = Addition("call:C1", 1, b"event")


# In a cluster, streams and partitions are on different servers.
pytestmark = pytest.mark.parametrize("client", ["redis", "valkey", "fakeredis"], indirect=True)


@pytest.fixture
def counting(client: RedisClient) -> CountingClient:
    return CountingClient(client.router, client.deadline_s)


@pytest.fixture
def streams(counting: CountingClient) -> RedisEventLog:
    return RedisEventLog(counting, ScriptBatcher(counting), KEYS)


@pytest.fixture
def store(counting: CountingClient) -> RedisCallStore:
    return RedisCallStore(counting, KEYS)


async def commit(
    store: RedisCallStore, epoch: Epoch, append: AppendWithCommit, changes: Sequence[Change] = (CHANGE,), after: int = 0
) -> CommitPosition:
    made = await store.commit(
        PARTITION, epoch, changes, [b"event"], after=CommitPosition(after), following=(append.request,)
    )
    return made.position


def append_to(streams: RedisEventLog, epoch: Epoch, position: int, *users: UserId) -> AppendWithCommit:
    additions = {user: [EVENT] for user in users}
    return streams.append_with_commit(additions, PARTITION, epoch, CommitPosition(position))


async def entries(streams: RedisEventLog, user: UserId) -> list[bytes]:
    return [entry.event for entry in (await streams.read(user, BEGINNING, 9)).entries]


async def test_a_commit_and_its_events_are_one_exchange(
    counting: CountingClient, store: RedisCallStore, streams: RedisEventLog
) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    # Both scripts are known to the server from here on.
    with pytest.raises(Fenced):
        await commit(store, Epoch(0), append_to(streams, Epoch(0), 1, ALICE))
    await library(counting).sadd(KEYS.nodes_of(ALICE), "n1")
    await RedisWatches(counting, ScriptBatcher(counting), KEYS).begin(ROOT, Watched(all=True))
    before = len(counting.exchanges)
    append = append_to(streams, epoch, 1, ALICE, BOB)
    assert await commit(store, epoch, append) == 1
    assert len(counting.exchanges) == before + 1
    appended = append.appended()
    assert appended is not None
    watchers_of_all, of_users = appended
    assert watchers_of_all == [ROOT]
    assert list(of_users) == [ALICE, BOB]
    assert (of_users[ALICE].nodes, of_users[BOB].nodes) == ([NodeId("n1")], [])
    assert all(each.places[0] is not None for each in of_users.values())
    assert [await entries(streams, user) for user in (ALICE, BOB)] == [[b"event"]] * 2


async def fenced(store: RedisCallStore, epoch: Epoch) -> None:
    await store.take_over(PARTITION, epoch)


async def conflicting(store: RedisCallStore, epoch: Epoch) -> None:
    other = Call(CALL.id, CALL.conn_id, CALL.type, "", 1, (), version=7)
    await store.commit(PARTITION, epoch, [Change("call:C1", None, other, [])], [])


async def lost(store: RedisCallStore, epoch: Epoch) -> None:
    assert epoch


@pytest.mark.parametrize(
    ("earlier", "after", "error"), [(fenced, 0, Fenced), (conflicting, 1, CommitConflict), (lost, 7, WritesLost)]
)
async def test_events_of_a_commit_that_is_refused_are_not_added(
    store: RedisCallStore, streams: RedisEventLog, earlier: object, after: int, error: type[StoreError]
) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    assert callable(earlier)
    await earlier(store, epoch)
    append = append_to(streams, epoch, after + 1, ALICE)
    with pytest.raises(error):
        await commit(store, epoch, append, after=after)
    assert append.appended() is None
    assert await entries(streams, ALICE) == []


async def test_events_of_a_commit_that_is_repeated_are_added_once(
    store: RedisCallStore, streams: RedisEventLog
) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    assert await commit(store, epoch, append_to(streams, epoch, 1, ALICE)) == 1
    again = append_to(streams, epoch, 1, ALICE)
    with pytest.raises(CommitConflict):
        await commit(store, epoch, again)
    assert await entries(streams, ALICE) == [b"event"]


async def test_a_user_who_watches_others_gets_the_events_later(
    counting: CountingClient, store: RedisCallStore, streams: RedisEventLog
) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    await RedisWatches(counting, ScriptBatcher(counting), KEYS).begin(ALICE, Watched(frozenset({BOB})))
    append = append_to(streams, epoch, 1, ALICE, BOB)
    assert await commit(store, epoch, append) == 1
    appended = append.appended()
    assert appended is not None
    watchers_of_all, of_users = appended
    assert (watchers_of_all, of_users[ALICE].deferred, of_users[BOB].deferred) == ([], True, False)
    assert of_users[BOB].watchers == [ALICE]
    assert [await entries(streams, user) for user in (ALICE, BOB)] == [[], [b"event"]]
