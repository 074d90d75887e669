"""Events on their way into the streams of those who watch: each once, those of a call in order."""

from collections.abc import AsyncIterator
from functools import partial

import orjson
import pytest

from calltag.core.bayeux.events import BEGINNING
from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import EVENT
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import CallChanged, Event, NotificationType, OperationRefused
from calltag.core.domain.ids import CallId, ConnId, DeviceId, EventId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.store.client import RedisClient
from calltag.core.store.embedded import embedded_store
from calltag.core.store.event_log import RedisEventLog
from calltag.core.store.keys import Keys
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.sessions import SessionStore
from calltag.core.store.watches import RedisWatches, Watched
from calltag.core.store.workers import RedisCallIndex
from calltag.worker.event_publisher import EventPublisher, Publication
from calltag.worker.node_sender import NodeSender

KEYS = Keys("calltag-test")
BOB, CAROL, ADMIN = (UserId(name) for name in ("bob", "carol", "admin"))
OF_BOB, OF_ALL = Watched(frozenset({BOB})), Watched(all=True)


class Way:
    """The worker's way out, with the streams that it leads to."""

    def __init__(self, client: RedisClient) -> None:
        batcher, self.broker = ScriptBatcher(client), MemoryBroker(1)
        self.streams, self.watches = RedisEventLog(client, batcher, KEYS), RedisWatches(client, batcher, KEYS)
        self.outgoing = EventPublisher(
            NodeSender(self.broker, self.streams), RedisCallIndex(client, KEYS), self.streams, self.watches
        )

        self.sessions = partial(SessionStore, client, batcher, KEYS)

    async def send(self, *events: Event) -> None:
        await self.outgoing.send(Publication([], [(event, EVENT.encode(event)) for event in events], []))

    async def versions(self, user: UserId) -> list[int]:
        """The versions of the call in the user's stream; -1 for what is not about a call."""
        entries = [orjson.loads(entry.event) for entry in (await self.streams.read(user, BEGINNING, 100)).entries]
        return [entry["call"]["version"] if "call" in entry else -1 for entry in entries]


@pytest.fixture
async def way() -> AsyncIterator[Way]:
    async with embedded_store(None, deadline_s=20) as store:
        yield Way(store.client)


def changed(version: int, *users: UserId) -> CallChanged:
    legs = tuple(Leg(f"1{user}", LegState.HELD, DeviceId(user), user) for user in users)
    call = Call(CallId("C"), ConnId("c"), CallType.INBOUND, "", 0, legs, version=version)
    return CallChanged(EventId(f"e{version}"), NotificationType.STATUS_CHANGE, call, users, 0)


async def test_a_change_goes_to_recipients_and_watchers_once(way: Way) -> None:
    await way.watches.begin(CAROL, OF_BOB)
    await way.watches.begin(ADMIN, OF_BOB | OF_ALL)
    await way.send(changed(1, BOB), changed(2, BOB))
    assert [await way.versions(user) for user in (BOB, CAROL, ADMIN)] == [[1, 2]] * 3


async def test_a_watcher_who_becomes_a_party_gets_all_in_order(way: Way) -> None:
    await way.watches.begin(CAROL, OF_BOB)
    await way.send(changed(1, BOB), changed(2, BOB, CAROL), changed(3, CAROL), changed(4, BOB))
    assert await way.versions(CAROL) == [1, 2, 3, 4]
    assert await way.versions(BOB) == [1, 2, 4]


async def test_a_refusal_is_for_its_sender_alone(way: Way) -> None:
    await way.watches.begin(ADMIN, OF_BOB | OF_ALL)
    refused = OperationRefused(EventId("r"), BOB, "Hold", CallId("C"), StatusCode.INVALID_STATE, "no", 0)
    await way.send(refused, changed(1, BOB))
    assert (await way.versions(BOB), await way.versions(ADMIN)) == ([-1, 1], [1])


async def test_watchers_of_all_get_calls_without_any_user(way: Way) -> None:
    await way.watches.begin(ADMIN, OF_ALL)
    await way.send(changed(1))
    assert await way.versions(ADMIN) == [1]


async def test_the_nodes_of_a_watcher_are_told_with_rising_places(way: Way) -> None:
    await way.watches.begin(CAROL, OF_BOB)
    node = NodeId("n")
    async with way.broker.inbox(node) as inbox:
        await way.sessions(node).register([CAROL])
        await way.send(changed(1, BOB), changed(2, BOB, CAROL))
        told = orjson.loads(await inbox.receive())
    places = [(place["event"], place["previous"] < place["position"]) for place in told["places"]]
    assert [event["call"]["version"] for event in told["events"]] == [1, 2]
    assert places == [(0, True), (1, True)]
    assert told["places"][1]["previous"] == told["places"][0]["position"]
