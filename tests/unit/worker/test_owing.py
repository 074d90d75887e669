"""What could not be sent to a node goes there when the broker is back."""

import pytest

from calltag.core.bus.memory import MemoryBus
from calltag.core.bus.ports import BusUnavailable, NodeId
from calltag.core.domain.ids import UserId
from calltag.worker.owing import Owing
from parts.eventually import eventually

NODE = NodeId("node-1")
ALICE, BOB = UserId("alice"), UserId("bob")


class AwayBus(MemoryBus):
    """A bus whose broker is away at first."""

    def __init__(self) -> None:
        super().__init__(1)
        self.away = True
        self.refused = 0

    async def send(self, node: NodeId, body: bytes, message_id: str) -> bool:
        if self.away:
            self.refused += 1
            raise BusUnavailable("away")
        return await super().send(node, body, message_id)


@pytest.fixture
def bus() -> AwayBus:
    return AwayBus()


async def test_the_latest_message_of_each_user_goes_to_the_node_when_the_broker_is_back(bus: AwayBus) -> None:
    owing = Owing(bus)
    async with bus.inbox(NODE) as inbox:
        owing.add(NODE, [ALICE, BOB], b"first")
        owing.add(NODE, [ALICE], b"second")
        await eventually(lambda: bus.refused > 1)
        owing.add(NODE, [ALICE], b"third")
        bus.away = False
        received = [await inbox.receive()]
        while received[-1] != b"third":
            received.append(await inbox.receive())
    assert received[0] == b"first"


async def test_what_is_owed_to_a_node_that_is_gone_is_forgotten(bus: AwayBus) -> None:
    owing = Owing(bus)
    owing.add(NODE, [ALICE], b"first")
    bus.away = False
    await eventually(lambda: not owing._sending)
