"""What one batch has to say goes out in pieces of bounded size, and goes on where it was interrupted."""

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson
import pytest

from calltag.core.bayeux.events import Position
from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import BrokerUnavailable, NodeId
from calltag.core.contracts.operations import EVENT, NODE
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import CallChanged, NotificationType
from calltag.core.domain.ids import CallId, ConnId, DeviceId, EventId, UserId
from calltag.core.domain.user_data import UserData
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.event_log import Added, Addition, Appended, AppendWithCommit, Page
from calltag.core.store.ports import StoreUnavailable
from calltag.worker.event_publisher import EventPublisher, Publication
from calltag.worker.node_sender import NodeSender

HERE = NodeId("n")
ALICE, BOB, CAROL = (UserId(name) for name in ("alice", "bob", "carol"))


def changed(version: int, *users: UserId, size: int = 1_000) -> tuple[CallChanged, bytes]:
    legs = tuple(Leg(f"1{user}", LegState.HELD, DeviceId(user), user) for user in users)
    data = UserData({"k": ("x" * size,)})
    call = Call(CallId("C"), ConnId("c"), CallType.INBOUND, "", 0, legs, version=version, user_data=data)
    event = CallChanged(EventId(f"e{version}"), NotificationType.ATTACHED_DATA_CHANGED, call, users, 0)
    return event, EVENT.encode(event)


@dataclass
class Streams:
    """Streams that note what they are asked to add; `fails` says at which of the calls they are away."""

    fails: set[int] = field(default_factory=set)
    watchers: dict[UserId, list[UserId]] = field(default_factory=dict)
    watching: set[UserId] = field(default_factory=set)
    shares_events: bool = True
    asked: list[Mapping[UserId, Sequence[Addition]]] = field(default_factory=list)
    added: dict[UserId, list[int]] = field(default_factory=dict)
    forgotten: list[UserId] = field(default_factory=list)

    async def append(
        self, additions: Mapping[UserId, Sequence[Addition]], *, to_watchers: bool = False
    ) -> Mapping[UserId, Appended]:
        self.asked.append(additions)
        if len(self.asked) in self.fails:
            raise StoreUnavailable("away")
        return {user: self._appended(user, each, to_watchers=to_watchers) for user, each in additions.items()}

    def _appended(self, user: UserId, additions: Sequence[Addition], *, to_watchers: bool) -> Appended:
        watchers = self.watchers.get(user, [])
        if user in self.watching and not to_watchers:
            return Appended([HERE], [], watchers, deferred=True)
        stream = self.added.setdefault(user, [])
        places = []
        for each in additions:
            stream.append(each.version)
            places.append(Added(Position(len(stream)), Position(len(stream) - 1)))
        return Appended([HERE], places, watchers)

    def append_with_commit(self, *_: object) -> AppendWithCommit:
        raise AssertionError("these tests publish events after their commit")

    async def read(self, user: UserId, after: Position, most: int) -> Page:
        raise NotImplementedError

    async def forget(self, node: NodeId, users: Sequence[UserId]) -> None:  # noqa: ARG002 - there is one
        self.forgotten += users

    def sent_bytes(self) -> list[int]:
        """How many bytes of events each call carried."""
        return [
            sum(len(raw) for raw in {id(a): a.event for of in each.values() for a in of}.values())
            for each in self.asked
        ]


@dataclass
class Index:
    lifetime_ms: int = 60_000
    updated: int = 0

    async def update(self, calls: Sequence[Call]) -> None:
        self.updated += bool(calls)


@dataclass
class OfAll:
    users: Sequence[UserId] = ()

    async def of_all(self) -> Sequence[UserId]:
        return self.users


def outgoing(
    streams: Streams, broker: MemoryBroker, max_bytes: int = 5_000, of_all: Sequence[UserId] = ()
) -> EventPublisher:
    return EventPublisher(
        NodeSender(broker, streams, max_bytes), Index(), streams, OfAll(of_all), ByteWindow(max_bytes)
    )


async def test_no_exchange_carries_more_than_a_batch_and_all_is_added_in_order() -> None:
    streams, events = Streams(), [changed(number, ALICE, BOB) for number in range(1, 31)]
    await outgoing(streams, MemoryBroker(1)).send(Publication([], events, []))
    assert streams.added == {ALICE: list(range(1, 31)), BOB: list(range(1, 31))}
    assert max(streams.sent_bytes()) <= 5_000
    assert sum(streams.sent_bytes()) < 1.5 * sum(len(raw) for _, raw in events), "each event is sent about once"


async def test_where_events_are_not_shared_each_copy_counts() -> None:
    streams, users = Streams(shares_events=False), [UserId(f"u{number}") for number in range(9)]
    await outgoing(streams, MemoryBroker(1)).send(Publication([], [changed(1, *users)], []))
    copies = [sum(len(a.event) for of in each.values() for a in of) for each in streams.asked]
    assert max(copies) <= 5_000
    assert streams.added == {user: [1] for user in users}


async def test_an_event_that_is_larger_goes_alone() -> None:
    streams, events = Streams(), [changed(1, ALICE), changed(2, ALICE, size=9_000), changed(3, ALICE)]
    await outgoing(streams, MemoryBroker(1)).send(Publication([], events, []))
    assert [[each.version for each in asked[ALICE]] for asked in streams.asked] == [[1], [2], [3]]


async def test_what_is_interrupted_goes_on_where_it_was() -> None:
    streams, broker = Streams(fails={2, 4, 5}), MemoryBroker(1)
    sending = Publication([], [changed(number, ALICE) for number in range(1, 21)], [])
    made, failed = outgoing(streams, broker), 0
    async with broker.inbox(HERE) as inbox:
        while True:
            try:
                await made.send(sending)
                break
            except StoreUnavailable:
                failed += 1
        told: list[int] = []
        while len(told) < 20:
            told += [each.position for each in NODE.decode(await inbox.receive()).places]
    assert (failed, streams.added[ALICE], told) == (3, list(range(1, 21)), list(range(1, 21)))


async def test_lists_that_were_written_are_not_written_again_for_what_failed_beside_them() -> None:
    streams, index = Streams(fails={1}), Index()
    made = EventPublisher(NodeSender(MemoryBroker(1), streams), index, streams, OfAll(), ByteWindow(5_000))
    event = changed(1, ALICE)
    sending = Publication([event[0].call], [event], [])
    with pytest.raises(StoreUnavailable):
        await made.send(sending)
    await made.send(sending)
    assert (index.updated, streams.added) == (1, {ALICE: [1]})


@pytest.mark.parametrize("size", [10, 30_000])
async def test_watchers_get_small_and_large_events_in_order_with_their_own(size: int) -> None:
    streams = Streams(watchers={ALICE: [CAROL]}, watching={CAROL})
    events = [changed(1, ALICE, size=size), changed(2, ALICE, CAROL, size=size), changed(3, CAROL, size=size)]
    broker = MemoryBroker(1)
    async with broker.inbox(HERE) as inbox:
        await outgoing(streams, broker, 100_000, of_all=[BOB]).send(Publication([], events, []))
        told: list[tuple[str, int]] = []
        while len(told) < 8:
            told += [(each.user, each.position) for each in NODE.decode(await inbox.receive()).places]
    assert streams.added == {ALICE: [1, 2], CAROL: [1, 2, 3], BOB: [1, 2, 3]}
    assert sorted(told) == [
        (user, at) for user, count in (("alice", 2), ("bob", 3), ("carol", 3)) for at in range(1, count + 1)
    ]


async def test_large_events_are_sent_once_to_recipients_and_watchers_together() -> None:
    watchers = [UserId(f"w{number}") for number in range(40)]
    streams, events = (
        Streams(watchers={ALICE: watchers}),
        [changed(number, ALICE, size=60_000) for number in range(1, 9)],
    )
    await outgoing(streams, MemoryBroker(1), 1_048_576).send(Publication([], events, []))
    assert sum(streams.sent_bytes()) < 1.1 * sum(len(raw) for _, raw in events)
    assert streams.added == {user: list(range(1, 9)) for user in [ALICE, *watchers]}


class CountingBroker(MemoryBroker):
    sent = 0

    async def send(self, node: NodeId, body: bytes, message_id: str) -> bool:
        self.sent += 1
        return await super().send(node, body, message_id)


async def test_no_message_to_a_node_is_longer_than_a_batch() -> None:
    streams, broker, of_all = Streams(), CountingBroker(1), [UserId(f"w{number}") for number in range(40)]
    events = [changed(number, ALICE) for number in range(1, 31)]
    async with broker.inbox(HERE) as inbox:
        await outgoing(streams, broker, 70_000, of_all).send(Publication([], events, []))
        bodies = [await inbox.receive() for _ in range(broker.sent)]
    assert broker.sent > 1
    assert max(map(len, bodies)) <= 70_000
    versions: dict[str, list[int]] = {}
    for body in map(orjson.loads, bodies):
        for place in body["places"]:
            versions.setdefault(place["user"], []).append(body["events"][place["event"]]["call"]["version"])
    assert versions == {user: list(range(1, 31)) for user in [ALICE, *of_all]}


class BreakingBroker(MemoryBroker):
    """A broker that breaks with the second message."""

    sent = 0

    async def send(self, node: NodeId, body: bytes, message_id: str) -> bool:
        self.sent += 1
        if self.sent == 2:
            raise BrokerUnavailable("away")
        return await super().send(node, body, message_id)


async def test_a_node_that_one_message_did_not_reach_is_told_where_to_look_and_gets_nothing_after_it() -> None:
    streams, broker = Streams(), BreakingBroker(1)
    made = outgoing(streams, broker)
    async with broker.inbox(HERE) as inbox:
        await made.send(Publication([], [changed(number, ALICE) for number in range(1, 21)], []))
        first, look = NODE.decode(await inbox.receive()), NODE.decode(await inbox.receive())
        await made.finish()
    assert [each.position for each in first.places] == list(range(1, len(first.events) + 1))
    assert (look.events, [each.user for each in look.places]) == ((), [ALICE])


async def test_the_time_is_in_proportion_to_events_and_recipients() -> None:
    async def took_s(events: int) -> float:
        of_all = [UserId(f"w{number}") for number in range(40)]
        given = [changed(number, ALICE, size=10) for number in range(events)]
        times = []
        for _ in range(5):
            gc.collect()
            began = time.process_time()
            await outgoing(Streams(), MemoryBroker(1), 1_048_576, of_all).send(Publication([], given, []))
            times.append(time.process_time() - began)
        return min(times)

    # Quadratic would be 256 times as long.
    assert await took_s(512) < 100 * await took_s(32)
