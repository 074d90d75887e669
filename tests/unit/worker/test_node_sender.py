"""Messages to nodes: few are unconfirmed, and what comes meanwhile goes together."""

import asyncio
from collections.abc import Sequence

import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import BrokerRefused, BrokerUnavailable, NodeId
from calltag.core.contracts.node_messages import StreamPosition
from calltag.core.contracts.operations import NODE
from calltag.core.domain.ids import UserId
from calltag.core.store.ports import StoreUnavailable
from calltag.worker.node_sender import MOST_UNCONFIRMED, NodeSender, Parcel
from parts.eventually import eventually, turns
from unit.worker.test_event_publisher import Streams, changed

HERE, THERE = NodeId("here"), NodeId("there")
ALICE = UserId("alice")


class SlowBroker(MemoryBroker):
    """A broker whose confirms the test gives."""

    def __init__(self) -> None:
        super().__init__(1)
        self.bodies: list[bytes] = []
        self.confirms: list[asyncio.Future[bool]] = []

    async def send(self, node: NodeId, body: bytes, message_id: str) -> bool:  # noqa: ARG002 - the interface's
        self.bodies.append(body)
        self.confirms.append(asyncio.get_running_loop().create_future())
        return await self.confirms[-1]

    def positions(self) -> list[list[int]]:
        """Positions in each message so far."""
        return [[place.position for place in NODE.decode(body).places] for body in self.bodies]


def parcel(position: int, *, size: int = 300) -> Parcel:
    _, body = changed(position, ALICE, size=size)
    return Parcel([body], {0: [StreamPosition(ALICE, position, position - 1)]})


async def begun(sender: NodeSender, count: int) -> list[asyncio.Task[None]]:
    """Send so many parcels, each in an iteration of the event loop of its own."""
    sent = []
    for position in range(1, count + 1):
        sent.append(asyncio.create_task(sender.send(HERE, parcel(position))))
        await turns()
    return sent


async def test_what_comes_while_two_messages_are_unconfirmed_goes_together_in_the_next() -> None:
    broker = SlowBroker()
    sender = NodeSender(broker, Streams())
    sent = await begun(sender, 10)
    assert broker.positions() == [[1], [2]]
    assert len(broker.bodies) == MOST_UNCONFIRMED
    broker.confirms[0].set_result(True)
    await turns()
    assert broker.positions()[2:] == [list(range(3, 11))]
    assert [each.done() for each in sent] == [True] + 9 * [False]
    broker.confirms[2].set_result(True)
    broker.confirms[1].set_result(True)
    await asyncio.gather(*sent)


async def test_what_goes_together_is_bounded_in_bytes() -> None:
    broker = SlowBroker()
    sender = NodeSender(broker, Streams(), max_message_bytes=3_000)
    sent = [asyncio.create_task(sender.send(HERE, parcel(position, size=1_000))) for position in range(1, 8)]
    while not all(each.done() for each in sent):
        await turns()
        for confirm in broker.confirms:
            if not confirm.done():
                confirm.set_result(True)
    assert max(map(len, broker.bodies)) <= 3_000
    assert [position for each in broker.positions() for position in each] == list(range(1, 8))


async def test_one_node_does_not_wait_for_another() -> None:
    broker = SlowBroker()
    sender = NodeSender(broker, Streams())
    slow = await begun(sender, 4)
    quick = asyncio.create_task(sender.send(THERE, parcel(9)))
    await turns()
    broker.confirms[-1].set_result(True)
    await quick
    assert not any(each.done() for each in slow)
    slow[2].cancel()
    for confirm in broker.confirms[:2]:
        confirm.set_result(True)
    await turns()
    assert broker.positions()[3:] == [[3, 4]], "who no longer waits does not keep the others' from going"


@pytest.mark.parametrize("failure", [BrokerUnavailable("away"), BrokerRefused("full")])
async def test_what_the_broker_does_not_take_is_owed_and_holds_up_nobody(failure: Exception) -> None:
    broker = SlowBroker()
    sender = NodeSender(broker, Streams())
    sent = asyncio.create_task(sender.send(HERE, parcel(1)))
    await turns()
    broker.confirms[0].set_exception(failure)
    await sent
    finishing = asyncio.create_task(sender.finish())
    await eventually(lambda: len(broker.bodies) == 2)
    broker.confirms[1].set_result(True)
    await finishing
    assert NODE.decode(broker.bodies[1]).stale_users == (ALICE,)


async def test_all_whose_parcels_go_together_learn_that_the_store_is_away() -> None:
    class Away(Streams):
        async def forget(self, node: NodeId, users: Sequence[UserId]) -> None:  # noqa: ARG002 - the interface's
            raise StoreUnavailable("away")

    broker = SlowBroker()
    sender = NodeSender(broker, Away())
    sent = [asyncio.create_task(sender.send(HERE, parcel(position))) for position in (1, 2)]
    await turns()
    assert broker.positions() == [[1, 2]]
    broker.confirms[0].set_result(False)
    assert [type(each) for each in await asyncio.gather(*sent, return_exceptions=True)] == 2 * [StoreUnavailable]
    # Nothing of the failure is left behind.
    again = asyncio.create_task(sender.send(HERE, parcel(3)))
    await turns()
    broker.confirms[1].set_result(True)
    await again
