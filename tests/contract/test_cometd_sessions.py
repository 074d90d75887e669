"""Users' streams and CometD sessions: the same tests on Redis, on the embedded Valkey and on fakeredis."""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from calltag.core.bayeux.events import BEGINNING, Position
from calltag.core.bayeux.replays import Progress
from calltag.core.bayeux.session import Ending
from calltag.core.broker.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.store.client import RedisClient
from calltag.core.store.client_ids import digest_of, is_bearer, new_client_id, user_of
from calltag.core.store.event_log import Addition, Appended, Entry, RedisEventLog
from calltag.core.store.keys import Keys
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.sessions import (
    Changed,
    ConnectCaller,
    Cursor,
    Found,
    HasEnded,
    HasLeft,
    NewSession,
    NotKept,
    NotProven,
    Saved,
    SessionRecord,
    SessionState,
    SessionStore,
    TooManySessions,
    TooManySubscriptions,
)
from parts.store_commands import library

KEYS = Keys("calltag-test")
ALICE, BOB = UserId("alice"), UserId("bob")
ONE, TWO = NodeId("n1"), NodeId("n2")
PROVEN = ConnectCaller()
LIFE_MS = 60_000


@pytest.fixture
def batcher(client: RedisClient) -> ScriptBatcher:
    return ScriptBatcher(client)


@pytest.fixture
def streams(client: RedisClient, batcher: ScriptBatcher) -> RedisEventLog:
    return RedisEventLog(client, batcher, KEYS)


class Nodes:
    """The sessions as two nodes see them, with the usual arguments filled in."""

    def __init__(self, client: RedisClient, batcher: ScriptBatcher) -> None:
        self.one = SessionStore(client, batcher, KEYS, ONE)
        self.two = SessionStore(client, batcher, KEYS, TWO)

    async def begin(self, user: UserId = ALICE, *, ack: bool = False, most: int = 3, **more: Any) -> str:
        client_id = new_client_id(user, bearer=False)
        await self.one.create(client_id, NewSession(ack, LIFE_MS, most, {"x": "1"}, **more))
        return client_id

    async def subscribe(self, client_id: str, channels: Mapping[str, Position | None], most: int = 9) -> Changed | None:
        return await self.one.subscribe(client_id, channels, lifetime_ms=LIFE_MS, most=most)


@pytest.fixture
def nodes(client: RedisClient, batcher: ScriptBatcher) -> Nodes:
    return Nodes(client, batcher)


async def read(store: SessionStore, client_id: str, caller: ConnectCaller = PROVEN, *, most: int = 100) -> Found:
    found = await store.read(client_id, caller, most=most)
    assert found is not None
    return found


async def load(store: SessionStore, client_id: str) -> SessionRecord:
    record = await store.load(client_id)
    assert record is not None
    return record


def state(client_id: str, cycle: int, number: int = 1, *, sent: Position = BEGINNING, **more: Any) -> SessionState:
    """What a home saves; `confirmed` is `sent` unless it is given."""
    cursor = Cursor(more.pop("confirmed", sent), sent)
    return replace(SessionState(client_id, cycle, number, cursor, LIFE_MS), **more)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim: what was read, and what the take-over answered."""

    found: Found
    saved: Saved


async def claim(store: SessionStore, client_id: str, caller: ConnectCaller = PROVEN, **more: Any) -> Claimed:
    """Read a session and take it over with the cursor that it has."""
    found = await read(store, client_id, caller)
    record = found.record
    known = replace(state(client_id, record.cycle), cursor=record.cursor, login=record.login)
    saved = await store.take_over(replace(known, **more), saved=record.saved, has_moved=record.home != store._node)
    assert saved is not None
    return Claimed(found, saved)


async def save(store: SessionStore, *states: SessionState) -> Saved | Ending | None:
    """What the save of the last of the states answered."""
    return (await store.save(states))[-1]


def numbered(*numbers: int, subject: str = "call:C") -> list[Addition]:
    return [Addition(subject, number, b"event-%d" % number) for number in numbers]


async def add(streams: RedisEventLog, *numbers: int, subject: str = "call:C") -> list[Position]:
    appended = (await streams.append({ALICE: numbered(*numbers, subject=subject)}))[ALICE]
    return [place.position for place in appended.places if place is not None]


def events(entries: Sequence[Entry]) -> list[bytes]:
    return [entry.event for entry in entries]


async def test_events_are_kept_in_order_and_chained(streams: RedisEventLog) -> None:
    both = await streams.append({ALICE: numbered(1, 2), BOB: numbered(1)})
    third = await streams.append({ALICE: numbered(3)})
    entries = (await streams.read(ALICE, BEGINNING, 10)).entries
    assert events(entries) == [b"event-1", b"event-2", b"event-3"]
    assert [entry.previous for entry in entries] == [BEGINNING, entries[0].position, entries[1].position]
    places = [*both[ALICE].places, *third[ALICE].places]
    assert [(place.position, place.previous) for place in places if place] == [
        (entry.position, entry.previous) for entry in entries
    ]
    assert events((await streams.read(ALICE, entries[0].position, 1)).entries) == [b"event-2"]
    assert events((await streams.read(BOB, BEGINNING, 10)).entries) == [b"event-1"]


async def test_an_event_is_added_once_and_never_after_a_later_one(streams: RedisEventLog) -> None:
    first = await streams.append({ALICE: numbered(1, 2)})
    again = await streams.append({ALICE: numbered(1, 2, 3)})
    assert again[ALICE].places[0] is None
    assert again[ALICE].places[1] == first[ALICE].places[1]
    other = await streams.append({ALICE: numbered(1, subject="call:D")})
    assert other[ALICE].places[0] is not None
    assert events((await streams.read(ALICE, BEGINNING, 10)).entries) == [
        b"event-1",
        b"event-2",
        b"event-3",
        b"event-1",
    ]


async def test_a_stream_is_read_as_many_events_at_a_time_as_a_batch_has_bytes(
    client: RedisClient, batcher: ScriptBatcher, nodes: Nodes
) -> None:
    streams = RedisEventLog(client, batcher, KEYS, max_batch_bytes=1_000)
    name = await nodes.begin()
    sizes = [100] * 40 + [2_000, 100]
    additions = [Addition("call:C", number, b"x" * size) for number, size in enumerate(sizes, 1)]
    await streams.append({ALICE: additions})
    position, taken, pages = BEGINNING, list[int](), list[int]()
    while True:
        page = await streams.read(ALICE, position, 30)
        taken += [len(each.event) for each in page.entries]
        pages.append(sum(len(each.event) for each in page.entries))
        if not page.has_more:
            break
        position = page.entries[-1].position
    assert (taken, max(each for each in pages if each < 2_000) <= 1_000, 2_000 in pages) == (sizes, True, True)
    assert [len((await streams.read(ALICE, BEGINNING, most)).entries) for most in (1, 3)] == [1, 3]
    bounded = SessionStore(client, batcher, KEYS, ONE, max_batch_bytes=1_000)
    found = await read(bounded, name, most=1_000)
    assert (0 < len(found.entries) < 11, found.has_more) == (True, True)
    found = await read(nodes.one, name, most=len(sizes))
    assert (len(found.entries), found.has_more) == (len(sizes), False)


async def test_an_event_for_several_users_is_the_same_for_each(streams: RedisEventLog) -> None:
    shared, own = Addition("call:C", 1, b"shared"), Addition("call:D", 1, b"own")
    appended = await streams.append({ALICE: [shared], BOB: [own, shared]})
    assert events((await streams.read(ALICE, BEGINNING, 9)).entries) == [b"shared"]
    assert events((await streams.read(BOB, BEGINNING, 9)).entries) == [b"own", b"shared"]
    places = appended[BOB].places
    assert places[0] is not None
    assert places[1] is not None
    assert places[1].previous == places[0].position


async def test_nodes_and_watchers_are_told_of_who_gets_nothing(streams: RedisEventLog, nodes: Nodes) -> None:
    await nodes.one.register([ALICE])
    assert (await streams.append({ALICE: ()}))[ALICE] == Appended([ONE], [], [])


async def test_a_node_that_is_gone_is_forgotten(streams: RedisEventLog, nodes: Nodes) -> None:
    for client_id in (await nodes.begin(), await nodes.begin(BOB)):
        await claim(nodes.one, client_id)
        await claim(nodes.two, client_id)
    await streams.forget(ONE, [ALICE])
    appended = await streams.append({ALICE: numbered(1), BOB: numbered(1)})
    assert (appended[ALICE].nodes, appended[BOB].nodes) == ([TWO], [ONE, TWO])


async def test_a_node_that_was_forgotten_stays(client: RedisClient, streams: RedisEventLog, nodes: Nodes) -> None:
    await nodes.one.register([ALICE, BOB])
    appended = await streams.append({ALICE: numbered(1), BOB: numbered(1)})
    assert (appended[ALICE].nodes, appended[BOB].nodes) == ([ONE], [ONE])
    assert await library(client).pttl(KEYS.nodes_of(BOB)) > 0


async def test_many_events_in_one_millisecond_have_rising_positions(streams: RedisEventLog) -> None:
    positions = await add(streams, *range(1, 251))
    assert positions == sorted(set(positions))
    assert len(positions) == 250
    assert max(positions) * 16 < 2**53


async def test_a_stream_is_bounded_and_ends(client: RedisClient, batcher: ScriptBatcher) -> None:
    streams = RedisEventLog(client, batcher, KEYS, most_events=100, retention_ms=50_000)
    for first in range(1, 1_001, 50):
        await add(streams, *range(first, first + 50))
    assert await library(client).xlen(KEYS.stream_of(ALICE)) <= 250
    for name in (KEYS.stream_of(ALICE), KEYS.added_to(ALICE, "call:C")):
        assert 0 < await library(client).pttl(name) <= 50_000


async def test_large_events_leave_room_for_few(client: RedisClient, batcher: ScriptBatcher) -> None:
    streams = RedisEventLog(client, batcher, KEYS, most_bytes=100_000)
    for number in range(1, 41):
        await streams.append({ALICE: [Addition("call:C", number, b"x" * 10_000)]})
    assert 10 <= await library(client).xlen(KEYS.stream_of(ALICE)) <= 15
    await streams.append({ALICE: [Addition("call:C", 41, b"x" * 500_000)]})
    assert [len(each.event) for each in (await streams.read(ALICE, BEGINNING, 100)).entries][-1] == 500_000
    assert await library(client).xlen(KEYS.stream_of(ALICE)) <= 2


async def test_a_session_begins_at_the_end_of_the_stream(streams: RedisEventLog, nodes: Nodes) -> None:
    [one] = await add(streams, 1)
    client_id = await nodes.begin()
    assert (await streams.append({ALICE: numbered(2)}))[ALICE].nodes == [], "no node is to be told yet"
    found = await read(nodes.two, client_id)
    assert events(found.entries) == [b"event-2"]
    record = replace(found.record, active_ago_ms=0, moved_ago_ms=0)
    assert record == SessionRecord(
        client_id, ALICE, ONE, 1, 0, Cursor(one, one, 0, []), options={"x": "1"}, is_exact=True
    )
    assert (await read(nodes.one, await nodes.begin(ack=True))).record.acknowledges


async def test_a_session_moves_with_its_connects(streams: RedisEventLog, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    cycle = (await claim(nodes.one, client_id)).saved.cycle
    [sent, two] = await add(streams, 1, 2)
    assert await save(nodes.one, state(client_id, cycle, sent=sent)) == Saved(0, two, 2)
    moved = await claim(nodes.two, client_id)
    assert events(moved.found.entries) == [b"event-2"]
    assert (moved.found.record.home, moved.found.record.cursor) == (ONE, Cursor(sent, sent, 0, []))
    assert moved.saved == Saved(0, two, 3)
    assert await save(nodes.one, state(client_id, cycle, 2, sent=two)) is None
    record = await load(nodes.one, client_id)
    assert (record.home, record.cycle, record.cursor.sent) == (TWO, 3, sent)
    assert (await streams.append({ALICE: numbered(3)}))[ALICE].nodes == [ONE, TWO]
    await nodes.one.unregister(ALICE)
    assert (await streams.append({ALICE: numbered(4)}))[ALICE].nodes == [TWO]


# -- read --------------------------------------------------------------------------------------------------------------


async def test_a_client_may_lack_what_was_not_sent_or_not_confirmed(streams: RedisEventLog, nodes: Nodes) -> None:
    """One that acknowledges has for certain what it confirmed. Another one says if it lacks what was sent."""
    plain, acknowledging = await nodes.begin(), await nodes.begin(ack=True)
    [one, two, _] = await add(streams, 1, 2, 3)
    for client_id, after, lacked in ((plain, two, [b"event-3"]), (acknowledging, one, [b"event-2", b"event-3"])):
        await claim(nodes.one, client_id)
        assert await save(nodes.one, state(client_id, 2, sent=two, confirmed=one))
        found = await read(nodes.two, client_id)
        assert (found.after, events(found.entries), found.has_more) == (after, lacked, False)
        assert found.record.cursor == Cursor(one, two, 0, [])
        first = await read(nodes.two, client_id, most=1)
        assert (events(first.entries), first.has_more) == (lacked[:1], len(lacked) > 1)


async def test_who_reads_changes_nothing(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin(login="mine")
    before = await stored(client, client_id)
    for caller in (PROVEN, ConnectCaller(False, "mine"), ConnectCaller(silent_ms=LIFE_MS)):
        await read(nodes.two, client_id, caller)
    assert await stored(client, client_id) == before


async def test_a_session_answers_its_login_and_no_one_else(nodes: Nodes) -> None:
    client_id = await nodes.begin(login="mine")
    for caller in (ConnectCaller(False), ConnectCaller(False, "other")):
        with pytest.raises(NotProven):
            await read(nodes.one, client_id, caller)
    assert (await read(nodes.one, client_id, ConnectCaller(False, "mine"))).record.login == "mine"
    await claim(nodes.one, client_id, ConnectCaller(True, "other"), login="other")
    assert (await read(nodes.two, client_id, ConnectCaller(False, "other"))).record.login == "other"
    with pytest.raises(NotProven):
        await read(nodes.one, client_id, ConnectCaller(False, "mine"))
    assert await save(nodes.one, state(client_id, 2, login=""))
    with pytest.raises(NotProven):
        await read(nodes.one, client_id, ConnectCaller(False, ""))


def key_of(client_id: str) -> str:
    return KEYS.cometd_session(ALICE, digest_of(client_id))


async def stored(client: RedisClient, client_id: str) -> Mapping[bytes, bytes]:
    """The session's fields."""
    return cast("Mapping[bytes, bytes]", await library(client).hgetall(key_of(client_id)))


async def server_ms(client: RedisClient) -> int:
    """The store's clock."""
    seconds, micros = cast("list[bytes]", await client.script("clock")([KEYS.workers()], []))
    return int(seconds) * 1000 + int(micros) // 1000


async def back_date(client: RedisClient, client_id: str, *names: str, by_ms: int) -> None:
    """Let something have been so much earlier."""
    for name in names:
        await library(client).hincrby(key_of(client_id), name, -by_ms)


async def ending_of(store: SessionStore, client_id: str, caller: ConnectCaller = PROVEN) -> HasEnded:
    with pytest.raises(HasEnded) as over:
        await read(store, client_id, caller)
    assert await store.read(client_id, PROVEN, most=1) is None
    return over.value


async def test_a_client_that_only_connects_ends_after_a_while(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    caller = ConnectCaller(silent_ms=20_000)
    await claim(nodes.one, client_id, caller)
    await back_date(client, client_id, "active", by_ms=19_000)
    assert 19_000 <= (await claim(nodes.two, client_id, caller)).found.record.active_ago_ms < 20_000
    await back_date(client, client_id, "active", by_ms=2_000)
    await claim(nodes.one, client_id)
    over = await ending_of(nodes.two, client_id, caller)
    assert (over.ending, over.former) == (Ending.INACTIVE, ONE)
    assert await library(client).zcard(KEYS.cometd_sessions(ALICE)) == 0


async def test_whatever_else_a_client_does_is_activity(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()

    async def subscribe() -> object:
        return await nodes.subscribe(client_id, {"/a": None})

    async def unsubscribe() -> object:
        return await nodes.one.unsubscribe(client_id, ["/a"], lifetime_ms=LIFE_MS)

    async def publish() -> object:
        return await nodes.one.touch(client_id, lifetime_ms=LIFE_MS)

    async def be_known_as_active() -> object:
        [known] = await nodes.one.save([state(client_id, 1, active_ago_ms=10_000)])
        return isinstance(known, Saved)

    for act in (subscribe, unsubscribe, publish, be_known_as_active):
        await back_date(client, client_id, "active", by_ms=30_000)
        assert await act()
        await read(nodes.one, client_id, ConnectCaller(silent_ms=20_000))
    assert not await nodes.one.touch(new_client_id(ALICE, bearer=False), lifetime_ms=LIFE_MS)


async def test_events_to_the_client_are_activity_where_they_count(client: RedisClient, nodes: Nodes) -> None:
    both = ConnectCaller(silent_ms=20_000, deliveries_count=True)
    for later in (ConnectCaller(silent_ms=20_000), both):
        client_id = await nodes.begin()
        await claim(nodes.one, client_id)
        await back_date(client, client_id, "active", by_ms=30_000)
        assert await save(nodes.one, state(client_id, 2, delivered_ago_ms=10_000))
        if later == both:
            assert (await claim(nodes.two, client_id, later, delivered_ago_ms=5_000)).saved.cycle == 3
            await back_date(client, client_id, "delivered", by_ms=10_000)
            await read(nodes.one, client_id, later)
            await back_date(client, client_id, "delivered", by_ms=6_000)
        assert (await ending_of(nodes.one, client_id, later)).ending is Ending.INACTIVE


async def test_a_session_may_end_in_any_case(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin(ends_in_ms=40_000)
    await claim(nodes.one, client_id)
    await back_date(client, client_id, "ends", by_ms=39_000)
    ends_in_ms = (await claim(nodes.one, client_id)).found.record.ends_in_ms
    assert ends_in_ms is not None
    assert 0 < ends_in_ms <= 1_000
    await back_date(client, client_id, "ends", by_ms=2_000)
    assert await nodes.subscribe(client_id, {"/a": None}) is None
    assert await nodes.one.unsubscribe(client_id, ["/a"], lifetime_ms=LIFE_MS) is None
    assert not await nodes.one.touch(client_id, lifetime_ms=LIFE_MS)
    assert (await ending_of(nodes.two, client_id)).ending is Ending.LOGIN_ENDED
    assert await library(client).exists(key_of(client_id)) == 0


@pytest.mark.parametrize("began_with", ["", "old"])
async def test_a_session_ends_with_the_credential_that_it_began_with(
    client: RedisClient, nodes: Nodes, began_with: str
) -> None:
    """One that began with none is of a version that did not note it."""

    async def begin(credential: str) -> str:
        client_id = await nodes.begin(most=9, credential=credential)
        await claim(nodes.one, client_id, ConnectCaller(credential=credential))
        return client_id

    lives = await begin("new")
    uses: dict[str, Callable[[str], Awaitable[object]]] = {
        "read": lambda client_id: read(nodes.two, client_id, ConnectCaller(credential="new")),
        "subscribe": lambda client_id: nodes.two.subscribe(
            client_id, {"/a": None}, lifetime_ms=LIFE_MS, most=9, credential="new"
        ),
        "unsubscribe": lambda client_id: nodes.two.unsubscribe(
            client_id, ["/a"], lifetime_ms=LIFE_MS, credential="new"
        ),
        "touch": lambda client_id: nodes.two.touch(client_id, lifetime_ms=LIFE_MS, credential="new"),
    }
    for name, use in uses.items():
        ends = await begin(began_with)
        with pytest.raises(HasEnded) as over:
            await use(ends)
        assert (over.value.ending, over.value.former) == (Ending.LOGIN_ENDED, ONE), name
        assert await library(client).exists(key_of(ends)) == 0, name
        assert await use(lives), name
    assert await library(client).zrange(KEYS.cometd_sessions(ALICE), 0, -1) == [digest_of(lives).encode()]


async def test_a_session_that_its_client_has_ended_is_known_for_a_moment(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin(login="mine")
    assert await nodes.one.remove(client_id, Ending.DISCONNECTED) == ONE
    for caller in (PROVEN, ConnectCaller(False, "mine")):
        with pytest.raises(HasLeft):
            await nodes.two.read(client_id, caller, most=1)
    for caller in (ConnectCaller(False), ConnectCaller(False, "other")):
        with pytest.raises(NotProven):
            await nodes.two.read(client_id, caller, most=1)
    assert await nodes.two.load(client_id) is None
    assert 0 < await library(client).pttl(KEYS.cometd_session_end(ALICE, digest_of(client_id))) <= 5_000
    await library(client).delete(KEYS.cometd_session_end(ALICE, digest_of(client_id)))
    assert await nodes.two.read(client_id, PROVEN, most=1) is None
    assert await nodes.one.remove(client_id, Ending.DISCONNECTED) is None
    assert await library(client).exists(KEYS.cometd_session_end(ALICE, digest_of(client_id))) == 0


# -- take over ---------------------------------------------------------------------------------------------------------

WHOLE = SessionState(
    "",
    1,
    7,
    Cursor(Position(3), Position(5), 8, [(7, Position(4)), (8, Position(5))]),
    LIFE_MS,
    login="mine",
    backfills={"/a": Progress(Position(1), Position(2))},
    has_connected=True,
    was_hurried=True,
    services_active=False,
    is_exact=True,
)


def is_as_saved(record: SessionRecord, home: NodeId, cycle: int, saved: int) -> bool:
    """Whether a record says what a home saved that had all of `WHOLE` to say."""
    return replace(record, changes=0, subscriptions={}, backfills=WHOLE.backfills) == SessionRecord(
        record.client_id, ALICE, home, cycle, saved, WHOLE.cursor, True, {"x": "1"}, {}, WHOLE.backfills,
        login=WHOLE.login, has_connected=True, was_hurried=True, services_active=False, is_exact=True,
    )  # fmt: skip


async def test_a_take_over_saves_the_session(client: RedisClient, streams: RedisEventLog, nodes: Nodes) -> None:
    [head] = await add(streams, 1)
    client_id = await nodes.begin(ack=True)
    await nodes.subscribe(client_id, {"/a": None, "/b": BEGINNING})
    taken = replace(WHOLE, client_id=client_id, changes=1, filled=["/b"], lifetime_ms=30_000)
    assert await nodes.two.take_over(taken, saved=0, has_moved=True) == Saved(1, head, 2)
    record = await load(nodes.one, client_id)
    assert is_as_saved(record, TWO, 2, 0)
    assert (record.changes, record.subscriptions) == (1, {"/a": head, "/b": head - 1})
    assert record.backfills == WHOLE.backfills
    assert 20_000 < await library(client).pttl(key_of(client_id)) <= 30_000
    assert (await streams.append({ALICE: ()}))[ALICE].nodes == [TWO]
    first = replace(WHOLE, client_id=client_id, cycle=2, has_connected=False, is_exact=False)
    assert await nodes.two.take_over(first, saved=0, has_moved=False)
    record = await load(nodes.one, client_id)
    assert (record.has_connected, record.is_exact) == (True, False)


async def test_the_first_to_take_over_wins(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    [first, second] = [state(client_id, (await read(each, client_id)).record.cycle) for each in (nodes.one, nodes.two)]
    assert await nodes.one.take_over(first, saved=0, has_moved=False)
    before = await stored(client, client_id)
    nodes_before = await library(client).smembers(KEYS.nodes_of(ALICE))
    for saved in (0, None):
        late = replace(second, cursor=Cursor(Position(1), Position(2)), lifetime_ms=9 * LIFE_MS)
        assert await nodes.two.take_over(late, saved=saved, has_moved=True) is None
        future = replace(late, cycle=3)
        assert await nodes.two.take_over(future, saved=saved, has_moved=True) is None
    assert await stored(client, client_id) == before
    assert await library(client).smembers(KEYS.nodes_of(ALICE)) == nodes_before
    assert await library(client).pttl(key_of(client_id)) <= LIFE_MS


async def test_what_was_saved_since_it_was_read_is_not_written_over(streams: RedisEventLog, nodes: Nodes) -> None:
    [one] = await add(streams, 1)
    client_id = await nodes.begin()
    await claim(nodes.one, client_id)
    found = await read(nodes.two, client_id)
    assert found.record.saved == 0
    assert await save(nodes.one, state(client_id, 2, 5, sent=one))
    late = state(client_id, 2)
    assert await nodes.two.take_over(late, saved=found.record.saved, has_moved=True) is None
    assert (await load(nodes.one, client_id)).home == ONE
    assert (await read(nodes.two, client_id)).record.saved == 5
    assert await nodes.two.take_over(late, saved=5, has_moved=True)
    assert await save(nodes.two, state(client_id, 3, 4))
    own = await nodes.two.take_over(state(client_id, 3), saved=None, has_moved=False)
    assert own is not None, "a home goes by what it knows itself"


async def test_when_a_session_has_moved_is_known(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()

    async def moved_ago_ms(store: SessionStore) -> int:
        return (await claim(store, client_id)).found.record.moved_ago_ms

    assert await moved_ago_ms(nodes.one) < 20_000, "it has just begun"
    await back_date(client, client_id, "moved", by_ms=40_000)
    assert 40_000 <= await moved_ago_ms(nodes.one) < 60_000
    assert 40_000 <= await moved_ago_ms(nodes.two) < 60_000, "it stayed"
    assert await moved_ago_ms(nodes.two) < 20_000


async def test_what_is_over_is_not_taken_over_or_saved(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    assert await nodes.one.remove(client_id, Ending.LOGIN_ENDED)
    assert await nodes.one.take_over(state(client_id, 1), saved=None, has_moved=False) is None
    assert await save(nodes.one, state(client_id, 1)) is Ending.LOGIN_ENDED
    assert await save(nodes.one, state(client_id, 1, verify=True)) is Ending.LOGIN_ENDED
    await library(client).delete(KEYS.cometd_session_end(ALICE, digest_of(client_id)))
    assert await save(nodes.one, state(client_id, 1)) is Ending.EXPIRED, "as the store ends a silent one"
    assert await library(client).exists(key_of(client_id), KEYS.cometd_sessions(ALICE), KEYS.nodes_of(ALICE)) == 0


# -- save --------------------------------------------------------------------------------------------------------------


async def test_a_save_leaves_the_session_as_its_home_knows_it(streams: RedisEventLog, nodes: Nodes) -> None:
    client_id = await nodes.begin(ack=True)
    cycle = (await claim(nodes.one, client_id)).saved.cycle
    [head] = await add(streams, 1)
    assert await save(nodes.one, replace(WHOLE, client_id=client_id, cycle=cycle)) == Saved(0, head, cycle)
    assert is_as_saved(await load(nodes.two, client_id), ONE, cycle, 7)
    inexact = replace(WHOLE, client_id=client_id, cycle=cycle, number=8, is_exact=False, services_active=True)
    assert await save(nodes.one, inexact)
    record = await load(nodes.two, client_id)
    assert (record.is_exact, record.services_active, record.saved) == (False, True, 8)


async def test_a_save_of_another_cycle_or_node_is_refused(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await claim(nodes.two, client_id)
    await claim(nodes.one, client_id)
    before = await stored(client, client_id)
    for store, cycle in ((nodes.one, 2), (nodes.one, 4), (nodes.two, 3), (nodes.two, 2)):
        for verify in (False, True):
            assert await save(store, state(client_id, cycle, 9, sent=Position(1), verify=verify)) is None
    assert await stored(client, client_id) == before


async def test_a_save_that_was_overtaken_changes_nothing(nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await claim(nodes.one, client_id)
    newer, older = state(client_id, 2, 2, sent=Position(9)), state(client_id, 2, 1, sent=Position(5))
    assert await save(nodes.one, newer) == Saved(0, BEGINNING, 2)
    for late in (older, replace(newer, cursor=older.cursor)):
        assert await save(nodes.one, late) == Saved(0, BEGINNING, 2)
        record = await load(nodes.one, client_id)
        assert (record.cursor.sent, record.saved) == (9, 2)
    await claim(nodes.one, client_id)
    assert await save(nodes.one, replace(older, cycle=3)), "each cycle counts from the beginning"
    assert (await load(nodes.one, client_id)).cursor.sent == 5


async def test_a_home_whose_lease_lapsed_refuses_those_who_saw_that(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await claim(nodes.one, client_id)
    seen = await read(nodes.two, client_id)
    verified = await save(nodes.one, state(client_id, 2, 1, verify=True))
    assert verified == Saved(0, BEGINNING, 3)
    # None as `saved`: it is the cycle that is compared.
    assert await nodes.two.take_over(state(client_id, seen.record.cycle), saved=None, has_moved=True) is None
    assert await save(nodes.one, state(client_id, 2, 2)) is None, "the cycle before is over"
    before = await stored(client, client_id)
    assert await save(nodes.one, state(client_id, 2, 1, verify=True)) == verified, "it was repeated"
    assert await stored(client, client_id) == before
    assert await save(nodes.one, state(client_id, 3, 2)) == verified
    assert await save(nodes.one, state(client_id, 3, 3, verify=True)) == Saved(0, BEGINNING, 4)


async def test_a_save_says_what_its_home_has_missed(streams: RedisEventLog, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await claim(nodes.one, client_id)
    [_, head] = await add(streams, 1, 2)
    await nodes.subscribe(client_id, {"/a": None})
    assert await save(nodes.one, state(client_id, 2, 1)) == Saved(1, head, 2)
    assert await save(nodes.one, state(client_id, 2, 1)) == Saved(1, head, 2), "an overtaken one does, too"


async def test_progress_counts_for_the_subscriptions_that_the_home_knows(nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await nodes.subscribe(client_id, {"/a": BEGINNING, "/b": BEGINNING})
    await claim(nodes.one, client_id)
    wanted, halfway = Progress(BEGINNING), Progress(BEGINNING, Position(5))

    known = state(client_id, 2, sent=Position(7), backfills={"/a": halfway}, filled=["/b"])

    async def saved(number: int, changes: int) -> Mapping[str, Progress]:
        assert await save(nodes.one, replace(known, number=number, changes=changes))
        record = await load(nodes.one, client_id)
        assert record.cursor.sent == 7, "the rest counts in any case"
        return record.backfills

    for number, other in enumerate((0, 2), 1):
        assert await saved(number, other) == {"/a": wanted, "/b": wanted}
    assert await saved(3, 1) == {"/a": halfway}
    await nodes.subscribe(client_id, {"/b": BEGINNING})
    assert await saved(4, 1) == {"/a": halfway, "/b": wanted}, "it is wanted once more"


async def test_many_are_saved_together(nodes: Nodes) -> None:
    users = [UserId(f"u{number % 9}") for number in range(210)]
    here = [await nodes.begin(user, most=50) for user in users]
    gone = set(here[5::50])
    for client_id in gone:
        await nodes.one.remove(client_id, Ending.LOGIN_ENDED)
    answers = await nodes.one.save([state(each, 1, sent=Position(number)) for number, each in enumerate(here, 1)])
    assert [answer is Ending.LOGIN_ENDED for answer in answers] == [client_id in gone for client_id in here]
    lives = [(number, client_id) for number, client_id in enumerate(here, 1) if client_id not in gone]
    assert [(await load(nodes.one, client_id)).cursor.sent for _, client_id in lives] == [each for each, _ in lives]
    assert await nodes.one.save([]) == []


async def test_what_goes_between_connects_shortens_no_life(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await claim(nodes.one, client_id)

    async def life_ms(number: int, lifetime_ms: int) -> int:
        assert await save(nodes.one, state(client_id, 2, number, lifetime_ms=lifetime_ms))
        left_ms = int(await library(client).pttl(key_of(client_id)))
        until_ms = await library(client).zscore(KEYS.cometd_sessions(ALICE), digest_of(client_id))
        assert until_ms is not None
        assert abs(until_ms - await server_ms(client) - left_ms) < 5_000
        return left_ms

    assert await life_ms(1, 90_000) > 80_000
    assert await life_ms(2, 5_000) <= 5_000, "a connect was answered: what is to come is the next one"
    await nodes.one.touch(client_id, lifetime_ms=50_000)
    assert 40_000 < await life_ms(3, 5_000) <= 50_000, "other messages keep it alive"
    assert await life_ms(4, 90_000) > 80_000
    await nodes.subscribe(client_id, {"/a": None})
    assert 50_000 < await life_ms(5, 5_000) <= LIFE_MS


async def test_other_messages_keep_a_session_alive_for_so_long(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()

    async def life_after_subscribing(lifetime_ms: int) -> int:
        await nodes.one.subscribe(client_id, {"/a": None}, lifetime_ms=lifetime_ms, most=9)
        return int(await library(client).pttl(key_of(client_id)))

    await claim(nodes.one, client_id)
    assert await life_after_subscribing(100_000) > 90_000
    await claim(nodes.one, client_id, alone_ms=70_000)
    assert 60_000 < await life_after_subscribing(100_000) <= 70_000
    await claim(nodes.one, client_id, alone_ms=20_000, lifetime_ms=10_000)
    assert 10_000 < await life_after_subscribing(100_000) <= 20_000
    await back_date(client, client_id, "until", by_ms=20_000)
    assert 10_000 < await life_after_subscribing(100_000) <= 20_000, "nor is its life made shorter"
    assert await nodes.one.touch(client_id, lifetime_ms=100_000)
    assert 10_000 < await library(client).pttl(key_of(client_id)) <= 20_000


# -- subscriptions -----------------------------------------------------------------------------------------------------


async def test_a_subscription_holds_from_when_it_was_made(streams: RedisEventLog, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await claim(nodes.two, client_id)
    [one] = await add(streams, 1)
    assert await nodes.subscribe(client_id, {"/a": None}) == Changed(TWO, 1, {"/a": one})
    [two] = await add(streams, 2)
    # Its home may have gone on without knowing of the subscription: what came since is wanted.
    assert await save(nodes.two, state(client_id, 2, sent=two))
    record = (await read(nodes.two, client_id)).record
    assert (record.subscriptions, record.backfills, record.changes) == ({"/a": one}, {"/a": Progress(one)}, 1)
    assert await save(nodes.two, state(client_id, 2, 2, changes=1, filled=["/a"]))
    assert await nodes.subscribe(client_id, {"/a": None}) == Changed(TWO, 2, {"/a": one})
    assert (await load(nodes.one, client_id)).backfills == {}, "it is wanted no further back than before"
    # All that is kept begins with the oldest entry: were that trimmed, it would be missed.
    oldest = Position(one - 1)
    assert await nodes.subscribe(client_id, {"/a": BEGINNING}) == Changed(TWO, 3, {"/a": oldest})
    assert (await load(nodes.one, client_id)).backfills == {"/a": Progress(oldest)}


async def test_the_past_is_wanted_for_the_new_subscription_alone(streams: RedisEventLog, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await nodes.subscribe(client_id, {"/old": None})
    await claim(nodes.one, client_id, changes=1, filled=["/old"])
    [one, two, _] = await add(streams, 1, 2, 3)
    assert await save(nodes.one, state(client_id, 2, sent=two, changes=1))
    assert await nodes.subscribe(client_id, {"/new": one}) == Changed(ONE, 2, {"/new": one})
    record = await load(nodes.one, client_id)
    assert (record.cycle, record.cursor.sent) == (2, two), "to look changes nothing"
    assert record.subscriptions == {"/old": BEGINNING, "/new": one}
    assert record.backfills == {"/new": Progress(one)}


async def test_who_asks_for_replay_wants_numbers(streams: RedisEventLog, nodes: Nodes) -> None:
    [first] = await add(streams, 1)
    for replays, since in ((False, None), (True, None), (True, BEGINNING)):
        client_id = await nodes.begin()
        [one] = await add(streams, 1, subject=client_id)
        assert await nodes.one.subscribe(client_id, {"/a": since}, lifetime_ms=LIFE_MS, most=9, replays=replays)
        record = (await read(nodes.one, client_id)).record
        assert record.options == ({"x": "1", "replays": "1"} if replays else {"x": "1"})
        assert record.subscriptions == {"/a": one if since is None else first - 1}


async def test_subscriptions_end_and_are_bounded(nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await nodes.subscribe(client_id, {"/a": None, "/b": None}, most=2)
    await nodes.subscribe(client_id, {"/a": None, "/b": None}, most=2)
    with pytest.raises(TooManySubscriptions):
        await nodes.subscribe(client_id, {"/a": None, "/c": None}, most=2)
    assert await nodes.two.unsubscribe(client_id, ["/a", "/none"], lifetime_ms=LIFE_MS) == Changed(ONE, 3, {})
    record = await load(nodes.one, client_id)
    assert (set(record.subscriptions), set(record.backfills)) == ({"/b"}, {"/b"})


async def test_a_position_that_is_not_kept_is_refused(
    client: RedisClient, streams: RedisEventLog, nodes: Nodes
) -> None:
    client_id = await nodes.begin()
    with pytest.raises(NotKept):
        await nodes.subscribe(client_id, {"/a": Position(17)})
    [one, _, three] = await add(streams, 1, 2, 3)
    await nodes.subscribe(client_id, {"/a": three, "/b": BEGINNING, "/c": one})
    with pytest.raises(NotKept):
        await nodes.subscribe(client_id, {"/d": Position(2**62)})
    await library(client).xtrim(KEYS.stream_of(ALICE), maxlen=1, approximate=False)
    with pytest.raises(NotKept, match=str(one)):
        await nodes.subscribe(client_id, {"/d": one})
    assert set((await load(nodes.one, client_id)).subscriptions) == {"/a", "/b", "/c"}


# -- the end, and leases -----------------------------------------------------------------------------------------------


async def test_sessions_end(client: RedisClient, nodes: Nodes) -> None:
    ids = [await nodes.begin() for _ in range(3)]
    with pytest.raises(TooManySessions):
        await nodes.begin()
    await claim(nodes.two, ids[0])
    assert await nodes.one.remove(ids[0], Ending.DISCONNECTED) == TWO
    assert await nodes.one.remove(ids[0], Ending.DISCONNECTED) is None
    await nodes.begin()
    await library(client).delete(key_of(ids[1]))
    await library(client).zadd(KEYS.cometd_sessions(ALICE), {digest_of(ids[1]): 1})
    await nodes.begin()
    assert 0 < await library(client).pttl(key_of(ids[2])) <= LIFE_MS
    assert await nodes.two.end(ALICE, digest_of(ids[2]), Ending.CLOSED) == ONE
    assert await nodes.one.read(ids[2], PROVEN, most=1) is None


async def test_a_silent_session_ends_when_the_store_would_end_it(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await claim(nodes.one, client_id)
    assert not await nodes.one.expire(client_id, cycle=2, within_ms=2_000)
    await library(client).pexpire(key_of(client_id), 1_500)
    for other in (1, 3):
        assert not await nodes.one.expire(client_id, cycle=other, within_ms=2_000)
    assert await nodes.one.expire(client_id, cycle=2, within_ms=2_000)
    assert await nodes.one.remove(client_id, Ending.LOGIN_ENDED) is None
    assert await library(client).zcard(KEYS.cometd_sessions(ALICE)) == 0
    assert not await nodes.one.expire(client_id, cycle=2, within_ms=2_000), "it has ended before"


async def test_what_is_no_session_is_unknown(nodes: Nodes) -> None:
    for client_id in (
        "",
        "x",
        "c" + "a" * 32,
        new_client_id(ALICE, bearer=False),
        "c" + "a" * 32 + "-",
        "c" * 33 + "ä",
    ):
        for caller in (PROVEN, ConnectCaller(False), ConnectCaller(False, "login")):
            assert await nodes.one.read(client_id, caller, most=1) is None
        assert await nodes.one.load(client_id) is None
        assert await nodes.one.take_over(state(client_id, 1), saved=None, has_moved=True) is None
        assert await nodes.subscribe(client_id, {"/a": None}) is None
        assert await nodes.one.unsubscribe(client_id, ["/a"], lifetime_ms=1) is None
        assert not await nodes.one.touch(client_id, lifetime_ms=1)
        assert await nodes.one.remove(client_id, Ending.LOGIN_ENDED) is None
        assert not await nodes.one.expire(client_id, cycle=1, within_ms=1)
        assert await save(nodes.one, state(client_id, 1)) is Ending.EXPIRED


async def test_a_node_is_alive_while_it_renews_its_lease(client: RedisClient, nodes: Nodes) -> None:
    assert not await nodes.two.is_alive(ONE)
    await nodes.one.renew_lease(50_000)
    await nodes.two.renew_lease(1_000_000)
    assert 40_000 < await library(client).pttl(KEYS.notifier(ONE)) <= 50_000
    await nodes.one.renew_lease(90_000)
    assert 80_000 < await library(client).pttl(KEYS.notifier(ONE)) <= 90_000
    assert [await nodes.two.is_alive(each) for each in (ONE, TWO, NodeId("n3"))] == [True, True, False]
    await nodes.one.end_lease()
    assert [await nodes.two.is_alive(each) for each in (ONE, TWO)] == [False, True]


def test_an_id_leads_to_its_user() -> None:
    for user in ("alice", "ÄÖ@host.example", "x" * 128):
        client_id = new_client_id(UserId(user), bearer=True)
        assert (user_of(client_id), is_bearer(client_id), client_id.isalnum()) == (user, True, True)
    assert not is_bearer(new_client_id(ALICE, bearer=False))
    assert new_client_id(ALICE, bearer=False) != new_client_id(ALICE, bearer=False)


def test_what_is_too_long_for_an_id_is_not_kept() -> None:
    for length, is_kept in ((64, True), (60_000, False)):
        text = "c" * length + "1"
        before = sys.getrefcount(text)
        assert user_of(text) is None
        assert (sys.getrefcount(text) > before) is is_kept
