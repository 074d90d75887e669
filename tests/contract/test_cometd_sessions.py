"""Users' streams and CometD sessions: the same tests on Redis, on the embedded Valkey and on fakeredis."""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.position import BEGINNING, Position
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.store.batching import ScriptBatcher
from calltag.core.store.client import RedisClient
from calltag.core.store.client_ids import digest_of, is_bearer, new_client_id, user_of
from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.core.store.keys import Keys
from calltag.core.store.session_records import (
    Activity,
    Attached,
    HasEnded,
    HasLeft,
    Have,
    NotKept,
    NotProven,
    Proof,
    TooManySessions,
    TooManySubscriptions,
)
from calltag.core.store.user_streams import Addition, Appended, Entry, RedisUserStreams

KEYS = Keys("calltag-test")
ALICE, BOB = UserId("alice"), UserId("bob")
ONE, TWO = NodeId("n1"), NodeId("n2")
PROVEN = Proof(True)
LIFE_MS = 60_000


@pytest.fixture
def batcher(client: RedisClient) -> ScriptBatcher:
    return ScriptBatcher(client)


@pytest.fixture
def streams(client: RedisClient, batcher: ScriptBatcher) -> RedisUserStreams:
    return RedisUserStreams(client, batcher, KEYS)


class Nodes:
    """The sessions as two nodes see them, with the usual arguments filled in."""

    def __init__(self, client: RedisClient, batcher: ScriptBatcher) -> None:
        self.one = RedisCometdSessions(client, batcher, KEYS, ONE)
        self.two = RedisCometdSessions(client, batcher, KEYS, TWO)

    async def begin(self, user: UserId = ALICE, *, ack: bool = False, login: str = "") -> str:
        client_id = new_client_id(user, bearer=False)
        record = await self.one.create(
            client_id, acknowledges=ack, options={"x": "1"}, login=login, lifetime_ms=LIFE_MS, most_of_user=3
        )
        assert (record.user, record.options, record.acknowledges) == (user, {"x": "1"}, ack)
        return client_id

    async def subscribe(self, client_id: str, channels: Mapping[str, Position | None], most: int = 9) -> NodeId | None:
        return await self.one.subscribe(client_id, channels, lifetime_ms=LIFE_MS, most=most)


@pytest.fixture
def nodes(client: RedisClient, batcher: ScriptBatcher) -> Nodes:
    return Nodes(client, batcher)


async def attach(sessions: RedisCometdSessions, client_id: str, **more: object) -> Attached:
    found = await sessions.attach(client_id, PROVEN, lifetime_ms=LIFE_MS, **({"most": 100} | more))  # type: ignore[arg-type]
    assert found is not None
    return found


def numbered(*numbers: int, subject: str = "call:C") -> list[Addition]:
    return [Addition(subject, number, b"event-%d" % number) for number in numbers]


async def add(streams: RedisUserStreams, *numbers: int, subject: str = "call:C") -> list[Position]:
    appended = (await streams.append({ALICE: numbered(*numbers, subject=subject)}))[ALICE]
    return [place.position for place in appended.places if place is not None]


def events(entries: Sequence[Entry]) -> list[bytes]:
    return [entry.event for entry in entries]


async def test_events_are_kept_in_order_and_chained(streams: RedisUserStreams) -> None:
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


async def test_an_event_is_added_once_and_never_after_a_later_one(streams: RedisUserStreams) -> None:
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
    streams = RedisUserStreams(client, batcher, KEYS, max_batch_bytes=1_000)
    name = await nodes.begin()
    sizes = [100] * 40 + [2_000, 100]
    additions = [Addition("call:C", number, b"x" * size) for number, size in enumerate(sizes, 1)]
    await streams.append({ALICE: additions})
    position, read, pages = BEGINNING, list[int](), list[int]()
    while True:
        page = await streams.read(ALICE, position, 30)
        read += [len(each.event) for each in page.entries]
        pages.append(sum(len(each.event) for each in page.entries))
        if not page.has_more:
            break
        position = page.entries[-1].position
    assert (read, max(each for each in pages if each < 2_000) <= 1_000, 2_000 in pages) == (sizes, True, True)
    assert [len((await streams.read(ALICE, BEGINNING, most)).entries) for most in (1, 3)] == [1, 3]
    bounded = RedisCometdSessions(client, batcher, KEYS, ONE, max_batch_bytes=1_000)
    attached = await attach(bounded, name, most=1_000)
    assert (0 < len(attached.entries) < 11, attached.has_more) == (True, True)
    attached = await attach(nodes.one, name, most=len(sizes))
    assert (len(attached.entries), attached.has_more) == (len(sizes), False)


async def test_an_event_for_several_users_is_the_same_for_each(streams: RedisUserStreams) -> None:
    shared, own = Addition("call:C", 1, b"shared"), Addition("call:D", 1, b"own")
    appended = await streams.append({ALICE: [shared], BOB: [own, shared]})
    assert events((await streams.read(ALICE, BEGINNING, 9)).entries) == [b"shared"]
    assert events((await streams.read(BOB, BEGINNING, 9)).entries) == [b"own", b"shared"]
    places = appended[BOB].places
    assert places[0] is not None
    assert places[1] is not None
    assert places[1].previous == places[0].position


async def test_nodes_and_watchers_are_told_of_who_gets_nothing(streams: RedisUserStreams, nodes: Nodes) -> None:
    await nodes.one.stay([ALICE])
    assert (await streams.append({ALICE: ()}))[ALICE] == Appended([ONE], [], [])


async def test_a_node_that_is_gone_is_forgotten(streams: RedisUserStreams, nodes: Nodes) -> None:
    for client_id in (await nodes.begin(), await nodes.begin(BOB)):
        await attach(nodes.one, client_id)
        await attach(nodes.two, client_id)
    await streams.forget(ONE, [ALICE])
    appended = await streams.append({ALICE: numbered(1), BOB: numbered(1)})
    assert (appended[ALICE].nodes, appended[BOB].nodes) == ([TWO], [ONE, TWO])


async def test_a_node_that_was_forgotten_stays(client: RedisClient, streams: RedisUserStreams, nodes: Nodes) -> None:
    await nodes.one.stay([ALICE, BOB])
    appended = await streams.append({ALICE: numbered(1), BOB: numbered(1)})
    assert (appended[ALICE].nodes, appended[BOB].nodes) == ([ONE], [ONE])
    assert await client.connection.pttl(KEYS.nodes_of(BOB)) > 0


async def test_many_events_in_one_millisecond_have_rising_positions(streams: RedisUserStreams) -> None:
    positions = await add(streams, *range(1, 251))
    assert positions == sorted(set(positions))
    assert len(positions) == 250
    assert max(positions) * 16 < 2**53


async def test_a_stream_is_bounded_and_ends(client: RedisClient, batcher: ScriptBatcher) -> None:
    streams = RedisUserStreams(client, batcher, KEYS, most_events=100, retention_ms=50_000)
    for first in range(1, 1_001, 50):
        await add(streams, *range(first, first + 50))
    assert await client.connection.xlen(KEYS.stream_of(ALICE)) <= 250
    for name in (KEYS.stream_of(ALICE), KEYS.added_to(ALICE, "call:C")):
        assert 0 < await client.connection.pttl(name) <= 50_000


async def test_large_events_leave_room_for_few(client: RedisClient, batcher: ScriptBatcher) -> None:
    streams = RedisUserStreams(client, batcher, KEYS, most_bytes=100_000)
    for number in range(1, 41):
        await streams.append({ALICE: [Addition("call:C", number, b"x" * 10_000)]})
    assert 10 <= await client.connection.xlen(KEYS.stream_of(ALICE)) <= 15
    await streams.append({ALICE: [Addition("call:C", 41, b"x" * 500_000)]})
    assert [len(each.event) for each in (await streams.read(ALICE, BEGINNING, 100)).entries][-1] == 500_000
    assert await client.connection.xlen(KEYS.stream_of(ALICE)) <= 2


async def test_a_session_begins_at_the_end_of_the_stream(streams: RedisUserStreams, nodes: Nodes) -> None:
    await add(streams, 1)
    client_id = await nodes.begin()
    assert (await streams.append({ALICE: numbered(2)}))[ALICE].nodes == []
    attached = await attach(nodes.one, client_id)
    assert events(attached.entries) == [b"event-2"]
    assert (attached.record.cycle, attached.record.options) == (1, {"x": "1"})


async def test_a_session_moves_with_its_connects(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    first = await attach(nodes.one, client_id)
    [sent, _] = await add(streams, 1, 2)
    assert await nodes.one.save(client_id, cycle=first.record.cycle, generation=0, sent=sent, lifetime_ms=LIFE_MS)
    moved = await attach(nodes.two, client_id)
    assert events(moved.entries) == [b"event-2"]
    assert (moved.former, moved.record.cycle, moved.record.confirmed) == (ONE, 2, sent)
    assert not await nodes.one.save(
        client_id, cycle=first.record.cycle, generation=0, sent=Position(sent + 1), lifetime_ms=LIFE_MS
    )
    assert (await streams.append({ALICE: numbered(3)}))[ALICE].nodes == [ONE, TWO]
    await nodes.one.leave(ALICE)
    assert (await streams.append({ALICE: numbered(4)}))[ALICE].nodes == [TWO]


async def test_what_went_between_connects_is_known_and_shortens_no_life(
    client: RedisClient, streams: RedisUserStreams, nodes: Nodes
) -> None:
    client_id = await nodes.begin()
    await attach(nodes.one, client_id)
    [one, two] = await add(streams, 1, 2)

    async def save(sent: Position, lifetime_ms: int, *, prolong: bool) -> int:
        assert await nodes.one.save(
            client_id, cycle=1, generation=0, sent=sent, lifetime_ms=lifetime_ms, prolong=prolong
        )
        return int(await client.connection.pttl(KEYS.cometd_session(ALICE, digest_of(client_id))))

    assert await save(two, 5_000, prolong=True) > 50_000
    assert await save(one, 90_000, prolong=True) > 80_000, "what was sent before counts no less"
    assert await save(one, 5_000, prolong=False) <= 5_000
    assert (await attach(nodes.two, client_id)).entries == []


async def test_what_is_not_confirmed_is_sent_again_on_demand(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await attach(nodes.one, client_id)
    [one, two] = await add(streams, 1, 2)
    assert await nodes.one.save(client_id, cycle=1, generation=0, sent=one, lifetime_ms=LIFE_MS)
    assert events((await attach(nodes.two, client_id, again=True)).entries) == [b"event-1", b"event-2"]
    assert await nodes.two.save(client_id, cycle=2, generation=0, sent=two, lifetime_ms=LIFE_MS)
    assert events((await attach(nodes.two, client_id, again=True)).entries) == [b"event-1", b"event-2"]
    assert await nodes.two.save(client_id, cycle=3, generation=0, sent=two, lifetime_ms=LIFE_MS)
    assert (await attach(nodes.two, client_id)).entries == []
    assert (await attach(nodes.two, client_id, again=True)).entries == []


async def test_what_is_sent_again_in_parts_counts_as_sent_when_it_was(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await attach(nodes.one, client_id)
    [one, two] = await add(streams, 1, 2)
    assert await nodes.one.save(client_id, cycle=1, generation=0, sent=two, lifetime_ms=LIFE_MS)
    assert events((await attach(nodes.two, client_id, again=True, most=1)).entries) == [b"event-1"]
    assert await nodes.two.save(client_id, cycle=2, generation=0, sent=one, lifetime_ms=LIFE_MS)
    assert events((await attach(nodes.two, client_id)).entries) == [b"event-2"]


async def test_acknowledgments_tell_what_the_client_has(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin(ack=True)
    await attach(nodes.one, client_id)
    [one, two, _] = await add(streams, 1, 2, 3)
    assert await nodes.one.save(client_id, cycle=1, generation=0, sent=two, lifetime_ms=LIFE_MS)
    assert len((await attach(nodes.two, client_id)).entries) == 3
    assert len((await attach(nodes.two, client_id, acknowledged=(two, 7))).entries) == 3
    assert events((await attach(nodes.two, client_id, acknowledged=(one, 0))).entries) == [b"event-2", b"event-3"]
    assert events((await attach(nodes.two, client_id, acknowledged=(BEGINNING, 0))).entries) == [b"event-2", b"event-3"]
    assert events((await attach(nodes.two, client_id, acknowledged=(two, 0))).entries) == [b"event-3"]


async def test_an_acknowledgment_counts_even_if_it_was_not_saved_what_was_sent(
    streams: RedisUserStreams, nodes: Nodes
) -> None:
    client_id = await nodes.begin(ack=True)
    await attach(nodes.one, client_id)
    assert (await attach(nodes.two, client_id, acknowledged=(Position(2**50), 0))).record.confirmed == BEGINNING
    [one, two] = await add(streams, 1, 2)
    moved = await attach(nodes.two, client_id, acknowledged=(one, 0))
    assert (events(moved.entries), moved.record.sent) == ([b"event-2"], one)
    assert (await attach(nodes.one, client_id, acknowledged=(Position(2**50), 0))).record.confirmed == two


async def test_a_holder_gets_only_what_it_has_not(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await attach(nodes.one, client_id)
    [one, two] = await add(streams, 1, 2)
    have = Have(1, two, BEGINNING)
    assert (await attach(nodes.one, client_id, have=have)).after == two
    elsewhere = await attach(nodes.two, client_id, have=Have(2, two, two))
    assert events(elsewhere.entries) == [b"event-1", b"event-2"]
    assert await nodes.two.save(client_id, cycle=3, generation=0, sent=one, lifetime_ms=LIFE_MS)
    again = await attach(nodes.two, client_id, have=Have(3, two, one), again=True)
    assert events(again.entries) == [b"event-1", b"event-2"]


async def test_a_subscription_holds_from_when_it_was_made(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await attach(nodes.two, client_id)
    [one] = await add(streams, 1)
    assert await nodes.subscribe(client_id, {"/a": None}) == TWO
    [two] = await add(streams, 2)
    assert await nodes.two.save(client_id, cycle=1, generation=0, sent=two, lifetime_ms=LIFE_MS)
    # The holder sent on without knowing of the subscription: what came since is read again.
    attached = await attach(nodes.two, client_id)
    assert (attached.after, events(attached.entries)) == (one, [b"event-2"])
    assert attached.record.subscriptions == {"/a": one}
    assert attached.record.generation == 1
    assert await nodes.subscribe(client_id, {"/a": None}) == TWO
    assert (await attach(nodes.two, client_id)).record.subscriptions == {"/a": one}


async def test_what_was_is_read_again_for_the_new_subscription_alone(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await nodes.subscribe(client_id, {"/old": None})
    await attach(nodes.one, client_id)
    [one, two, three] = await add(streams, 1, 2, 3)
    assert await nodes.one.save(client_id, cycle=1, generation=0, sent=two, lifetime_ms=LIFE_MS)
    await nodes.subscribe(client_id, {"/new": one})
    attached = await attach(nodes.one, client_id, have=Have(1, three, two, answered=two))
    assert attached.record.subscriptions == {"/old": two, "/new": one}
    assert events(attached.entries) == [b"event-2", b"event-3"]
    again = await attach(nodes.two, client_id, again=True)
    assert (again.record.subscriptions, again.after) == ({"/old": two, "/new": one}, one)


async def test_what_was_pushed_since_the_last_answer_may_be_lacked(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await nodes.subscribe(client_id, {"/old": None})
    await attach(nodes.one, client_id)
    [one, two] = await add(streams, 1, 2)
    assert await nodes.one.save(client_id, cycle=1, generation=0, sent=one, lifetime_ms=LIFE_MS)
    attached = await attach(nodes.one, client_id, have=Have(1, two, two, answered=one))
    assert (attached.after, attached.record.confirmed, attached.record.sent) == (two, one, two)
    again = await attach(nodes.two, client_id, again=True)
    assert (again.after, events(again.entries), again.record.sent) == (one, [b"event-2"], two)


async def test_what_waits_at_the_holder_is_read_again_for_the_older_subscriptions(
    streams: RedisUserStreams, nodes: Nodes
) -> None:
    client_id = await nodes.begin()
    await nodes.subscribe(client_id, {"/old": None})
    await attach(nodes.one, client_id)
    [one, two, three] = await add(streams, 1, 2, 3)
    await nodes.subscribe(client_id, {"/new": two})
    look = await nodes.one.look_again(client_id, most=9, have=Have(1, three, one))
    assert look is not None
    assert look.record.subscriptions == {"/old": one, "/new": two}
    assert (look.after, events(look.entries)) == (one, [b"event-2", b"event-3"])


async def test_the_holder_knows_best_what_was_sent(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await attach(nodes.one, client_id)
    [one] = await add(streams, 1)
    again = await attach(nodes.one, client_id, have=Have(1, one, one), again=True)
    assert (events(again.entries), again.record.sent) == ([b"event-1"], one)
    assert await nodes.one.save(client_id, cycle=2, generation=0, sent=one, lifetime_ms=LIFE_MS)
    assert (await attach(nodes.two, client_id)).entries == []


async def test_a_holder_looks_again(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await attach(nodes.one, client_id)
    [one, two] = await add(streams, 1, 2)
    await nodes.subscribe(client_id, {"/new": one})
    look = await nodes.one.look_again(client_id, most=9, have=Have(1, two, two))
    assert look is not None
    assert (look.record.cycle, look.record.subscriptions, events(look.entries)) == (1, {"/new": one}, [b"event-2"])
    assert await nodes.two.look_again(client_id, most=9, have=Have(1, two, two)) is None


async def test_who_asks_for_replay_wants_numbers(streams: RedisUserStreams, nodes: Nodes) -> None:
    for since, numbers in ((None, None), (Position(-1), "1"), (BEGINNING, "1")):
        client_id = await nodes.begin()
        [one] = await add(streams, 1, subject=client_id)
        await nodes.subscribe(client_id, {"/a": since})
        record = (await attach(nodes.one, client_id)).record
        assert record.options.get("numbered") == numbers
        assert record.subscriptions == {"/a": BEGINNING if since == BEGINNING else one}


async def test_what_was_sent_before_going_back_is_not_saved(streams: RedisUserStreams, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await attach(nodes.one, client_id)
    [one, two] = await add(streams, 1, 2)
    await nodes.subscribe(client_id, {"/new": BEGINNING})
    look = await nodes.one.look_again(client_id, most=9, have=Have(1, two, one))
    assert look is not None
    assert not await nodes.one.save(client_id, cycle=1, generation=0, sent=two, lifetime_ms=LIFE_MS)
    assert await nodes.one.save(client_id, cycle=1, generation=1, sent=one, lifetime_ms=LIFE_MS)


async def test_subscriptions_end_and_are_bounded(nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await nodes.subscribe(client_id, {"/a": None, "/b": None}, most=2)
    await nodes.subscribe(client_id, {"/a": None, "/b": None}, most=2)
    with pytest.raises(TooManySubscriptions):
        await nodes.subscribe(client_id, {"/a": None, "/c": None}, most=2)
    assert await nodes.two.unsubscribe(client_id, ["/a", "/none"], lifetime_ms=LIFE_MS) == ONE
    assert set((await attach(nodes.one, client_id)).record.subscriptions) == {"/b"}


async def test_a_position_that_is_not_kept_is_refused(
    client: RedisClient, streams: RedisUserStreams, nodes: Nodes
) -> None:
    client_id = await nodes.begin()
    with pytest.raises(NotKept):
        await nodes.subscribe(client_id, {"/a": Position(17)})
    [one, _, three] = await add(streams, 1, 2, 3)
    await nodes.subscribe(client_id, {"/a": three, "/b": BEGINNING, "/c": one})
    with pytest.raises(NotKept):
        await nodes.subscribe(client_id, {"/d": Position(2**62)})
    await client.connection.xtrim(KEYS.stream_of(ALICE), maxlen=1, approximate=False)
    with pytest.raises(NotKept, match=str(one)):
        await nodes.subscribe(client_id, {"/d": one})
    assert set((await attach(nodes.one, client_id)).record.subscriptions) == {"/a", "/b", "/c"}


async def test_a_session_answers_its_login_and_no_one_else(nodes: Nodes) -> None:
    client_id = await nodes.begin(login="mine")

    async def with_proof(proof: Proof) -> Attached | None:
        return await nodes.one.attach(client_id, proof, lifetime_ms=LIFE_MS, most=1)

    for proof in (Proof(False), Proof(False, "other")):
        with pytest.raises(NotProven):
            await with_proof(proof)
    assert await with_proof(Proof(False, "mine"))
    assert await with_proof(Proof(True, "other"))
    assert await with_proof(Proof(False, "other"))
    with pytest.raises(NotProven):
        await with_proof(Proof(False, "mine"))


async def test_sessions_end(client: RedisClient, nodes: Nodes) -> None:
    ids = [await nodes.begin() for _ in range(3)]
    with pytest.raises(TooManySessions):
        await nodes.begin()
    await attach(nodes.two, ids[0])
    assert await nodes.one.remove(ids[0]) == TWO
    assert await nodes.one.remove(ids[0]) is None
    await nodes.begin()
    await client.connection.delete(KEYS.cometd_session(ALICE, digest_of(ids[1])))
    await client.connection.zadd(KEYS.cometd_sessions(ALICE), {digest_of(ids[1]): 1})
    await nodes.begin()
    assert 0 < await client.connection.pttl(KEYS.cometd_session(ALICE, digest_of(ids[2]))) <= LIFE_MS


def key_of(client_id: str) -> str:
    return KEYS.cometd_session(ALICE, digest_of(client_id))


async def back_date(client: RedisClient, client_id: str, *names: str, by_ms: int) -> None:
    """Let something have been so much earlier."""
    for name in names:
        await client.connection.hincrby(key_of(client_id), name, -by_ms)


async def ending_of(sessions: RedisCometdSessions, client_id: str, **more: object) -> HasEnded:
    with pytest.raises(HasEnded) as over:
        await attach(sessions, client_id, **more)
    assert await sessions.attach(client_id, PROVEN, lifetime_ms=1, most=1) is None
    return over.value


async def test_a_client_that_only_connects_ends_after_a_while(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    activity = Activity(20_000)
    await attach(nodes.one, client_id, activity=activity)
    await back_date(client, client_id, "active", by_ms=19_000)
    await attach(nodes.two, client_id, activity=activity)
    await back_date(client, client_id, "active", by_ms=2_000)
    await attach(nodes.one, client_id)
    over = await ending_of(nodes.two, client_id, activity=activity)
    assert (over.ending, over.former) == (Ending.INACTIVE, ONE)
    assert await client.connection.zcard(KEYS.cometd_sessions(ALICE)) == 0


async def test_whatever_else_a_client_does_is_activity(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()

    async def subscribe() -> object:
        return await nodes.subscribe(client_id, {"/a": None})

    async def unsubscribe() -> object:
        return await nodes.one.unsubscribe(client_id, ["/a"], lifetime_ms=LIFE_MS)

    async def publish() -> object:
        return await nodes.one.touch(client_id, lifetime_ms=LIFE_MS)

    for act in (subscribe, unsubscribe, publish):
        await back_date(client, client_id, "active", by_ms=30_000)
        assert await act()
        await attach(nodes.one, client_id, activity=Activity(20_000))
    assert not await nodes.one.touch(new_client_id(ALICE, bearer=False), lifetime_ms=LIFE_MS)


async def test_events_to_the_client_are_activity_where_both_sides_count(client: RedisClient, nodes: Nodes) -> None:
    both = Activity(20_000, both_sides=True)
    for later in (Activity(20_000), both):
        client_id = await nodes.begin()
        await attach(nodes.one, client_id)
        await back_date(client, client_id, "active", by_ms=30_000)
        assert await nodes.one.save(
            client_id, cycle=1, generation=0, sent=BEGINNING, lifetime_ms=LIFE_MS, told_ago_ms=10_000
        )
        if later == both:
            assert (await attach(nodes.two, client_id, activity=later)).record.cycle == 2
            await back_date(client, client_id, "told", by_ms=15_000)
        assert (await ending_of(nodes.one, client_id, activity=later)).ending is Ending.INACTIVE


async def test_the_holder_knows_of_events_that_the_store_does_not(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await attach(nodes.one, client_id)
    await back_date(client, client_id, "active", by_ms=30_000)
    have = Have(1, BEGINNING, BEGINNING, told_ago_ms=5_000)
    both = Activity(20_000, both_sides=True)
    await attach(nodes.one, client_id, have=have, activity=both)
    assert (await attach(nodes.two, client_id, activity=both)).record.cycle == 3
    await back_date(client, client_id, "told", by_ms=30_000)
    assert (await ending_of(nodes.one, client_id, have=have, activity=both)).ending is Ending.INACTIVE


async def test_a_session_may_end_in_any_case(client: RedisClient, nodes: Nodes) -> None:
    client_id = new_client_id(ALICE, bearer=True)
    await nodes.one.create(
        client_id, acknowledges=False, options={}, login="", lifetime_ms=LIFE_MS, most_of_user=3, ends_in_ms=40_000
    )
    await attach(nodes.one, client_id)
    await back_date(client, client_id, "ends", by_ms=39_000)
    assert (await attach(nodes.one, client_id)).record.cycle == 2
    await back_date(client, client_id, "ends", by_ms=2_000)
    assert await nodes.subscribe(client_id, {"/a": None}) is None
    with pytest.raises(HasEnded):
        await nodes.one.look_again(client_id, most=9, have=Have(2, BEGINNING, BEGINNING))
    assert await client.connection.exists(key_of(client_id)) == 0


@pytest.mark.parametrize("began_with", ["", "old"])
async def test_a_session_ends_with_the_credential_that_it_began_with(
    client: RedisClient, nodes: Nodes, began_with: str
) -> None:
    """One that began with none is of a version that did not note it."""

    async def begin(credential: str) -> str:
        client_id = new_client_id(ALICE, bearer=True)
        await nodes.one.create(
            client_id, acknowledges=False, options={}, login="", lifetime_ms=LIFE_MS, most_of_user=9,
            credential=credential,
        )  # fmt: skip
        await attach(nodes.one, client_id, credential=credential)
        return client_id

    lives = await begin("new")
    uses: dict[str, Callable[[str], Awaitable[object]]] = {
        "attach": lambda client_id: attach(nodes.two, client_id, credential="new"),
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
        assert (over.value.ending, over.value.former) == (Ending.LOGIN_ENDED, nodes.one._node), name
        assert await client.connection.exists(key_of(ends)) == 0, name
        assert await use(lives), name
    assert await client.connection.zrange(KEYS.cometd_sessions(ALICE), 0, -1) == [digest_of(lives).encode()]


async def test_other_messages_keep_a_session_alive_for_so_long(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()

    async def life_after_subscribing(lifetime_ms: int) -> int:
        await nodes.one.subscribe(client_id, {"/a": None}, lifetime_ms=lifetime_ms, most=9)
        return int(await client.connection.pttl(key_of(client_id)))

    await attach(nodes.one, client_id)
    assert await life_after_subscribing(100_000) > 90_000
    await attach(nodes.one, client_id, alone_ms=70_000)
    assert 60_000 < await life_after_subscribing(100_000) <= 70_000
    assert await nodes.one.save(client_id, cycle=2, generation=0, sent=BEGINNING, lifetime_ms=10_000, alone_ms=20_000)
    assert 10_000 < await life_after_subscribing(100_000) <= 20_000
    await back_date(client, client_id, "until", by_ms=20_000)
    assert 10_000 < await life_after_subscribing(100_000) <= 20_000, "nor is its life made shorter"


async def test_a_session_that_its_client_has_ended_is_known_for_a_moment(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin(login="mine")
    assert await nodes.one.remove(client_id, left=True) == ONE

    async def connect(proof: Proof) -> Attached | None:
        return await nodes.two.attach(client_id, proof, lifetime_ms=LIFE_MS, most=1)

    for proof in (PROVEN, Proof(False, "mine")):
        with pytest.raises(HasLeft):
            await connect(proof)
    for proof in (Proof(False), Proof(False, "other")):
        with pytest.raises(NotProven):
            await connect(proof)
    assert await nodes.two.look_again(client_id, most=1, have=Have(1, BEGINNING, BEGINNING)) is None
    assert 0 < await client.connection.pttl(KEYS.cometd_session_end(ALICE, digest_of(client_id))) <= 5_000
    await client.connection.delete(KEYS.cometd_session_end(ALICE, digest_of(client_id)))
    assert await connect(PROVEN) is None
    assert await nodes.one.remove(client_id, left=True) is None
    assert await client.connection.exists(KEYS.cometd_session_end(ALICE, digest_of(client_id))) == 0


async def test_a_silent_session_ends_when_the_store_would_end_it(client: RedisClient, nodes: Nodes) -> None:
    client_id = await nodes.begin()
    await attach(nodes.one, client_id)
    assert not await nodes.one.expire(client_id, cycle=1, within_ms=2_000)
    await client.connection.pexpire(key_of(client_id), 1_500)
    assert not await nodes.one.expire(client_id, cycle=0, within_ms=2_000)
    assert await nodes.one.expire(client_id, cycle=1, within_ms=2_000)
    assert await nodes.one.remove(client_id) is None
    assert await client.connection.zcard(KEYS.cometd_sessions(ALICE)) == 0
    assert await nodes.one.expire(client_id, cycle=1, within_ms=2_000)


async def test_what_is_no_session_is_unknown(nodes: Nodes) -> None:
    for client_id in (
        "",
        "x",
        "c" + "a" * 32,
        new_client_id(ALICE, bearer=False),
        "c" + "a" * 32 + "-",
        "c" * 33 + "ä",
    ):
        assert await nodes.one.attach(client_id, PROVEN, lifetime_ms=1, most=1) is None
        assert await nodes.subscribe(client_id, {"/a": None}) is None
        assert await nodes.one.unsubscribe(client_id, ["/a"], lifetime_ms=1) is None
        assert await nodes.one.remove(client_id) is None
        assert not await nodes.one.save(client_id, cycle=1, generation=0, sent=BEGINNING, lifetime_ms=1)


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


async def test_a_session_takes_along_which_state_of_the_services_its_client_was_told(nodes: Nodes) -> None:
    client_id = await nodes.begin()
    assert (await attach(nodes.one, client_id)).record.services_active
    await nodes.one.note_services(client_id, active=False)
    assert not (await attach(nodes.two, client_id)).record.services_active
    await nodes.one.note_services(client_id, active=True)
    assert not (await attach(nodes.two, client_id)).record.services_active, "another node holds it"
