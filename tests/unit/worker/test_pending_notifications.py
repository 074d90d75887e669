"""Nodes are notified of missed events when the broker is back."""

import asyncio

import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import BrokerUnavailable, NodeId
from calltag.core.contracts.operations import NODE as NODE_MESSAGE
from calltag.core.domain.ids import UserId
from calltag.core.process.limits import MAX_BATCH_BYTES
from calltag.worker.node_sender import PendingNotifications
from parts.eventually import eventually

NODE = NodeId("node-1")
ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")


class AwayBroker(MemoryBroker):
    """A broker whose broker is away at first."""

    def __init__(self) -> None:
        super().__init__(1)
        self.away = True
        self.refused = 0

    async def send(self, node: NodeId, body: bytes, message_id: str) -> bool:
        if self.away:
            self.refused += 1
            raise BrokerUnavailable("away")
        return await super().send(node, body, message_id)


@pytest.fixture
def broker() -> AwayBroker:
    return AwayBroker()


async def test_a_node_learns_who_missed_events_when_the_broker_is_back(broker: AwayBroker) -> None:
    pending = PendingNotifications(broker, MAX_BATCH_BYTES)
    async with broker.inbox(NODE) as inbox:
        pending.add(NODE, [ALICE, BOB])
        await eventually(lambda: broker.refused > 1)
        pending.add(NODE, [ALICE, CAROL])
        draining = asyncio.create_task(pending.drained())
        broker.away = False
        named: set[str] = set()
        while named != {ALICE, BOB, CAROL}:
            message = NODE_MESSAGE.decode(await inbox.receive())
            assert message.events == ()
            named |= set(message.stale_users)
            # A notifier that does not read that field looks at the streams of places without an event.
            assert [place.user for place in message.places] == list(message.stale_users)
        await draining


async def test_however_many_there_are_no_message_is_large(broker: AwayBroker) -> None:
    pending = PendingNotifications(broker, 65_536)
    broker.away = False
    users = [UserId(f"user-{number}") for number in range(2_500)]
    async with broker.inbox(NODE) as inbox:
        pending.add(NODE, users)
        named: list[UserId] = []
        while len(named) < len(users):
            body = await inbox.receive()
            assert len(body) <= 65_536
            message = NODE_MESSAGE.decode(body)
            assert message.events == ()
            named += message.stale_users
    assert named == users


async def test_notifications_for_a_node_without_inbox_are_dropped(broker: AwayBroker) -> None:
    pending = PendingNotifications(broker, MAX_BATCH_BYTES)
    pending.add(NODE, [ALICE])
    broker.away = False
    await pending.drained()
