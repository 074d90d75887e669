"""Every exchange with the store whose answer is lost is sent again, and leaves and answers what one exchange would."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionBroken

from calltag.core.bayeux.events import BEGINNING, Position
from calltag.core.bayeux.session import Ending
from calltag.core.broker.ports import NodeId, Partition, PublishedCounts
from calltag.core.domain.call import Call, CallType
from calltag.core.domain.ids import CallId, ConnId, OperationId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.identity.directory import User
from calltag.core.identity.http_sessions import Login, RedisHttpSessions
from calltag.core.identity.login_attempts import AttemptLimits, By, LockedOut, RedisLoginAttempts
from calltag.core.store import connection as store_connection
from calltag.core.store.backlog import RedisPublishedTotals
from calltag.core.store.calls import RedisCallStore
from calltag.core.store.client import RedisClient, redis_client
from calltag.core.store.client_ids import digest_of, new_client_id
from calltag.core.store.connection import Request
from calltag.core.store.event_log import Addition, RedisEventLog
from calltag.core.store.keys import Keys
from calltag.core.store.ports import (
    Change,
    CommitConflict,
    CommitPosition,
    Done,
    Epoch,
    Fenced,
    StoreUnavailable,
)
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.sessions import (
    Changed,
    ConnectCaller,
    Cursor,
    Found,
    HasEnded,
    HasLeft,
    NewSession,
    Saved,
    SessionRecord,
    SessionState,
    SessionStore,
)
from calltag.worker.crash_guard import CrashGuard
from parts.proxy import Proxy
from parts.redis_server import RedisServer
from parts.store_commands import library

KEYS, PARTITION = Keys("lost"), Partition(3)
ALICE, HERE, LIFE_MS = UserId("alice"), NodeId("n1"), 60_000
CALL = Call(CallId("C1"), ConnId("c"), CallType.INTERNAL, "", 1, (), version=1)
OK = Done(StatusCode.SUCCESS, 1)


class Losses:
    """Loses the answer to every exchange once; what is sent again is answered."""

    def __init__(self) -> None:
        self.count = 0
        self._again = False

    @property
    def next_is_lost(self) -> bool:
        return not self._again

    def is_lost(self) -> bool:
        self._again = not self._again
        self.count += self._again
        return self._again


@pytest.fixture
async def losses(client: RedisClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Losses]:
    # The servers are found, and the masters known, before anything is lost.
    assert await client.ping()
    losses = Losses()
    exchanged = store_connection._exchanged

    async def losing(connection: AbstractConnection, requests: Sequence[Request]) -> None:
        await exchanged(connection, requests)
        if losses.is_lost():
            for each in requests:
                each.replies.clear()
            raise ConnectionBroken("the answer was lost")

    monkeypatch.setattr(store_connection, "_exchanged", losing)
    yield losses
    assert losses.count


@pytest.fixture
def sessions(client: RedisClient, losses: Losses) -> SessionStore:
    assert not losses.count
    return SessionStore(client, ScriptBatcher(client), KEYS, HERE)


async def begin(sessions: SessionStore, *, most: int = 1, credential: str = "") -> str:
    client_id = new_client_id(ALICE, bearer=True)
    await sessions.create(client_id, NewSession(False, LIFE_MS, most, credential=credential))
    return client_id


def state(client_id: str, cycle: int, number: int = 1, **more: Any) -> SessionState:
    return replace(SessionState(client_id, cycle, number, Cursor(BEGINNING, BEGINNING), LIFE_MS), **more)


async def read(sessions: SessionStore, client_id: str, credential: str = "") -> Found | None:
    return await sessions.read(client_id, ConnectCaller(credential=credential), most=9)


async def record_of(sessions: SessionStore, client_id: str) -> SessionRecord:
    record = await sessions.load(client_id)
    assert record is not None
    return record


async def test_the_last_session_that_a_user_may_have_begins(sessions: SessionStore) -> None:
    client_id = await begin(sessions, most=1)
    assert (await record_of(sessions, client_id)).cycle == 1


@pytest.mark.parametrize("ending", [Ending.DISCONNECTED, Ending.CLOSED])
async def test_a_session_is_ended_by_whoever_ends_it(sessions: SessionStore, ending: Ending) -> None:
    client_id = await begin(sessions)
    assert await sessions.remove(client_id, ending) == HERE
    assert await sessions.remove(client_id, ending) is None, "another request ends nothing"
    if ending is Ending.DISCONNECTED:
        with pytest.raises(HasLeft):
            await read(sessions, client_id)
    else:
        assert await read(sessions, client_id) is None


async def test_a_silent_session_expires_at_whoever_ends_it(sessions: SessionStore) -> None:
    client_id = await begin(sessions)
    assert await sessions.expire(client_id, cycle=1, within_ms=LIFE_MS)
    assert not await sessions.expire(client_id, cycle=1, within_ms=LIFE_MS), "another request ends nothing"


async def test_whoever_finds_a_login_over_is_told_so(sessions: SessionStore) -> None:
    uses: dict[str, Callable[[str], Awaitable[object]]] = {
        "read": lambda one: read(sessions, one, "new"),
        "subscribe": lambda one: sessions.subscribe(one, {"/c": None}, lifetime_ms=LIFE_MS, most=9, credential="new"),
        "unsubscribe": lambda one: sessions.unsubscribe(one, ["/c"], lifetime_ms=LIFE_MS, credential="new"),
        "touch": lambda one: sessions.touch(one, lifetime_ms=LIFE_MS, credential="new"),
    }
    for name, use in uses.items():
        client_id = await begin(sessions, credential="old")
        with pytest.raises(HasEnded) as over:
            await use(client_id)
        assert (over.value.ending, over.value.former) == (Ending.LOGIN_ENDED, HERE), name
        assert not await use(client_id), "another request finds nothing"


async def test_a_session_is_taken_over_once(client: RedisClient, sessions: SessionStore, losses: Losses) -> None:
    """Each take-over raises the cycle once, and is not refused as another node's when it is asked for again."""
    there = SessionStore(client, ScriptBatcher(client), KEYS, NodeId("n2"))
    client_id = await begin(sessions)
    for cycle, store, home in ((1, sessions, "n1"), (2, there, "n2"), (3, there, "n2"), (4, sessions, "n1")):
        before = losses.count
        taken = await store.take_over(state(client_id, cycle, 7), saved=0, has_moved=True)
        assert taken == Saved(0, BEGINNING, cycle + 1)
        assert losses.count > before
        record = await record_of(there, client_id)
        assert (record.home, record.cycle, record.saved) == (home, cycle + 1, 0)
    assert await there.take_over(state(client_id, 4), saved=None, has_moved=True) is None, "another request is refused"


async def test_a_take_over_that_is_asked_for_again_undoes_no_other(
    client: RedisClient, sessions: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node may be the home since."""
    there = SessionStore(client, ScriptBatcher(client), KEYS, NodeId("n2"))
    client_id = await begin(sessions)
    monkeypatch.setattr(sessions, "_new_request", lambda: "request")
    assert await sessions.take_over(state(client_id, 1), saved=0, has_moved=False)
    assert await there.take_over(state(client_id, 2), saved=0, has_moved=True)
    assert await sessions.take_over(state(client_id, 1), saved=0, has_moved=False) is None
    assert (await record_of(there, client_id)).home == "n2"


async def test_what_is_read_is_there_the_second_time(client: RedisClient, sessions: SessionStore) -> None:
    streams = RedisEventLog(client, ScriptBatcher(client), KEYS)
    client_id = await begin(sessions)
    await streams.append({ALICE: [Addition("call:1", 1, b"event")]})
    found = await read(sessions, client_id)
    assert found is not None
    assert [entry.event for entry in found.entries] == [b"event"]


async def test_a_save_is_one_save(sessions: SessionStore) -> None:
    client_id = await begin(sessions)
    cursor = Cursor(Position(1), Position(2), 3, [(3, Position(2))])
    for number in (1, 2):
        assert await sessions.save([state(client_id, 1, number, cursor=cursor)]) == [Saved(0, BEGINNING, 1)]
        record = await record_of(sessions, client_id)
        assert (record.cursor, record.cycle, record.saved) == (cursor, 1, number)


async def test_a_save_that_verifies_raises_the_cycle_once(sessions: SessionStore) -> None:
    client_id = await begin(sessions)
    other = await begin(sessions, most=2)
    for cycle in (1, 2):
        states = [state(client_id, cycle, cycle, verify=True), state(other, 1, cycle)]
        assert await sessions.save(states) == [Saved(0, BEGINNING, cycle + 1), Saved(0, BEGINNING, 1)]
        assert (await record_of(sessions, client_id)).cycle == cycle + 1
    assert await sessions.save([state(client_id, 2, 3, verify=True)]) == [None], "another save of that cycle is refused"


async def test_a_message_that_changes_nothing_else_prolongs_a_life(sessions: SessionStore, client: RedisClient) -> None:
    client_id = await begin(sessions)
    assert await sessions.touch(client_id, lifetime_ms=9 * LIFE_MS)
    assert await library(client).pttl(KEYS.cometd_session(ALICE, digest_of(client_id))) > 8 * LIFE_MS


async def test_subscriptions_change_though_the_change_is_counted_twice(sessions: SessionStore) -> None:
    """To look once more at what is there already costs the home a look."""
    client_id = await begin(sessions)
    changed = await sessions.subscribe(client_id, {"/c": Position(0)}, lifetime_ms=LIFE_MS, most=1)
    assert changed == Changed(HERE, 2, {"/c": Position(0)})
    assert await sessions.unsubscribe(client_id, ["/c"], lifetime_ms=LIFE_MS) == Changed(HERE, 4, {})


async def test_a_session_is_ended_once_over_a_link_that_breaks(redis_server: RedisServer) -> None:
    redis_server.clear()
    with Proxy("127.0.0.1", redis_server.port) as link:
        connected = redis_client(f"redis://127.0.0.1:{link.port}/0", deadline_s=20)
        over_it = SessionStore(connected, ScriptBatcher(connected), KEYS, HERE)
        client_id = await begin(over_it)
        # Its script is known to the server from here on.
        assert await over_it.remove("unknown", Ending.DISCONNECTED) is None
        link.lose_answer_to(b"disconnected")
        assert await over_it.remove(client_id, Ending.DISCONNECTED) == HERE
        assert not link.waits_for_text
        await connected.close()


async def test_events_are_added_once(client: RedisClient, losses: Losses) -> None:
    streams = RedisEventLog(client, ScriptBatcher(client), KEYS)
    await streams.append({ALICE: [Addition("call:C", 1, b"one"), Addition("call:C", 2, b"two")]})
    assert [entry.event for entry in (await streams.read(ALICE, BEGINNING, 9)).entries] == [b"one", b"two"]
    assert losses.count


@pytest.fixture
def store(client: RedisClient, losses: Losses) -> RedisCallStore:
    assert not losses.count
    return RedisCallStore(client, KEYS)


async def test_an_attempt_counts_once_and_is_withdrawn_once(client: RedisClient, store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    crashed, next_one = CrashGuard(PARTITION, store), CrashGuard(PARTITION, store)
    assert await crashed.begin(epoch, "o1") == 1
    assert await next_one.begin(epoch, "o1") == 2
    assert await next_one.begin(epoch, "o1") == 2, "asked again by the worker, too"
    await next_one.abandon()
    assert await CrashGuard(PARTITION, store).begin(epoch, "o1") == 2
    await crashed.end("o1")
    assert await library(client).exists(KEYS.attempts(PARTITION)) == 0


async def test_kept_events_are_dropped_when_they_were_sent_and_none_that_came_since(store: RedisCallStore) -> None:
    epoch = (await store.take_over(PARTITION)).epoch
    position = await committed(store, [Change("call:C1", None, CALL, [(OperationId("o1"), OK)])], b"one")
    await store.sent(PARTITION, epoch, position)
    changed = replace(CALL, version=2)
    await committed(store, [Change("call:C1", CALL, changed, [(OperationId("o2"), OK)])], b"two")
    # A request that was delayed on its way.
    await store.sent(PARTITION, epoch, position)
    taken = await store.take_over(PARTITION)
    assert taken.kept == 1
    assert await store.kept(PARTITION, taken.epoch) == [b"two"]


async def test_kept_events_are_read_in_pages_and_dropped_together(client: RedisClient, losses: Losses) -> None:
    assert not losses.count
    store = RedisCallStore(client, KEYS, max_batch_bytes=3)
    epoch = (await store.take_over(PARTITION)).epoch
    await committed(store, [Change("call:C1", None, CALL, [(OperationId("o1"), OK)])], b"one")
    changed = replace(CALL, version=2)
    position = await committed(store, [Change("call:C1", CALL, changed, [(OperationId("o2"), OK)])], b"two")
    assert [await store.kept(PARTITION, epoch, skip) for skip in range(3)] == [[b"one"], [b"two"], []]
    await store.sent(PARTITION, epoch, position)
    assert await store.kept(PARTITION, epoch) == []


async def committed(store: RedisCallStore, changes: list[Change], event: bytes) -> CommitPosition:
    """Commit; the second request finds what the first has done, as a redelivery would, and changes nothing."""
    epoch, before = await store.read_position(PARTITION)
    with pytest.raises(CommitConflict):
        await store.commit(PARTITION, epoch, changes, [event], after=before)
    _, position = await store.read_position(PARTITION)
    assert position == before + 1
    return position


async def test_a_commit_without_an_operation_is_not_sent_again(client: RedisClient, losses: Losses) -> None:
    """Nothing would show that it took effect; its owner takes the partition over, and finds the event."""
    store = RedisCallStore(client, KEYS)
    epoch = (await store.take_over(PARTITION)).epoch
    for _ in range(4):
        # The script is known to the server from here on.
        with suppress(StoreUnavailable, Fenced):
            await store.commit(PARTITION, Epoch(0), [], [])
    while not losses.next_is_lost:
        await client.ping()
    before = losses.count
    with pytest.raises(StoreUnavailable):
        await store.commit(PARTITION, epoch, [], [b"event"])
    assert losses.count == before + 1
    taken = await store.take_over(PARTITION)
    assert (taken.kept, taken.position) == (1, 1)


async def test_a_loss_is_noted_once(client: RedisClient, store: RedisCallStore) -> None:
    async def noted() -> tuple[object, object]:
        commits, gone = await library(client).hmget(KEYS.losses(PARTITION), ["commits", "lost_for_good"])
        return commits, gone

    await store.note_loss(PARTITION, "first", 3, 1, 1)
    assert await noted() == (b"3", b"1")
    # It was interrupted, and has grown.
    await store.note_loss(PARTITION, "first", 5, 1, 2)
    assert await noted() == (b"5", b"1")
    await store.note_loss(PARTITION, "second", 1, 0, 3)
    assert await noted() == (b"6", b"1")


async def test_what_a_gateway_published_is_added_once(client: RedisClient, losses: Losses) -> None:
    here, there = RedisPublishedTotals(client, KEYS), RedisPublishedTotals(client, KEYS)
    assert await here.add({PARTITION: PublishedCounts(1, 2)}) == {PARTITION: PublishedCounts(1, 2)}
    assert await there.add({PARTITION: PublishedCounts(10, 20)}) == {PARTITION: PublishedCounts(11, 22)}
    assert await here.add({PARTITION: PublishedCounts(100, 200)}) == {PARTITION: PublishedCounts(111, 222)}
    assert losses.count >= 3


class Unobserved:
    """Implements AttemptObserver."""

    def login_failed(self) -> None: ...

    def login_locked_out(self, by: By) -> None: ...


async def test_a_failed_login_counts_once_and_a_right_one_is_given_back_once(
    client: RedisClient, losses: Losses
) -> None:
    attempts = RedisLoginAttempts(ScriptBatcher(client), "lost", AttemptLimits(3, 0, 100), Unobserved())
    for _ in range(2):
        await attempts.take("alice", "")
    right = await attempts.take("alice", "")
    await attempts.give_back("alice", "", right)
    await attempts.take("alice", "")
    with pytest.raises(LockedOut):
        await attempts.take("alice", "")
    assert losses.count >= 5


async def test_a_session_too_many_ends_one(client: RedisClient, losses: Losses) -> None:
    ended: list[int] = []
    sessions = RedisHttpSessions(client, ScriptBatcher(client), "lost", most_of_user=2, displaced=ended.append)
    made = [await sessions.create(Login(User(ALICE, "hash"))) for _ in range(3)]
    assert [await sessions.find(each.token) is not None for each in made] == [False, True, True]
    assert losses.count > 6


ADDING = re.compile(r"\.(?:h?incrby|h?incrbyfloat|incr|decr|decrby|[lr]push|[lr]pop|lmove|xadd|spop|getdel|zincrby)\(")
ADDS = re.compile(
    r"redis\.call\('(?:H?INCRBY|INCR|DECR|DECRBY|[LR]PUSH|[LR]POP|XADD|LTRIM|ZINCRBY)'|'cycle', cycle \+ 1"
)
RECOGNISES = {"append", "commit", "note_loss", "published", "session_change", "session_save", "session_take_over"}


def test_what_adds_to_what_is_there_is_a_script_that_recognises_a_request() -> None:
    """Outside of a script, a command that is not idempotent would be carried out twice after a lost answer."""
    source = Path(store_connection.__file__).parents[3]
    for file in (*source.rglob("*.py"), *(source.parent / "services").rglob("*.py")):
        assert not ADDING.search(file.read_text(encoding="utf-8")), file
    adding = {
        file.name.removesuffix(".lua")
        for file in Path(str(resources.files("calltag.core.store"))).rglob("*.lua")
        if ADDS.search(file.read_text(encoding="utf-8"))
    }
    assert adding == RECOGNISES
