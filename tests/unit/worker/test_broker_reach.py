"""When a worker that consumes nothing leaves, and when it comes back."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Broker, BrokerUnavailable, Partition, PartitionConsumer
from calltag.core.store.ports import HeldPartition, LivingWorker, WorkerId
from calltag.worker.assignment import BrokerReach

ME, OTHER = WorkerId("me"), WorkerId("other")
MINE = frozenset({Partition(1), Partition(3)})
PATIENCE_S = 6.0


@dataclass
class World:
    """A broker of which some partitions can be consumed, and a registry in which others say that they do."""

    others: Sequence[LivingWorker] = (LivingWorker(OTHER, 1, [HeldPartition(Partition(0))]),)
    usable: set[Partition] = field(default_factory=set)
    now_s: float = 100.0
    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(4))

    async def living(self) -> Sequence[LivingWorker]:
        return [LivingWorker(ME, 1, [HeldPartition(Partition(1))]), *self.others]

    @asynccontextmanager
    async def partition(self, partition: Partition, prefetch: int) -> AsyncIterator[PartitionConsumer]:
        if partition not in self.usable:
            raise BrokerUnavailable("there is no connection")
        async with self.broker.partition(partition, prefetch) as consumer:
            yield consumer

    def reach(self) -> BrokerReach:
        return BrokerReach(ME, cast(Broker, self), cast(Any, self), PATIENCE_S, lambda: self.now_s)


async def test_who_consumes_nothing_for_too_long_leaves_where_others_consume() -> None:
    world = World()
    reach = world.reach()
    assert not await reach.is_lost(MINE, MINE)
    world.now_s += PATIENCE_S
    assert not await reach.is_lost(MINE, MINE)
    world.now_s += 0.1
    assert await reach.is_lost(MINE, MINE)


async def test_who_consumes_something_or_has_nothing_to_consume_begins_to_wait_anew() -> None:
    world = World()
    reach = world.reach()
    for missing in ([Partition(1)], []):
        assert not await reach.is_lost(MINE, MINE)
        world.now_s += 2 * PATIENCE_S
        assert not await reach.is_lost(MINE, missing)
        assert not await reach.is_lost(MINE, MINE)
        assert not await reach.is_lost((), ())


async def test_while_nobody_consumes_nobody_leaves() -> None:
    for others in ((), (LivingWorker(OTHER, 1, []),)):
        world = World(others)
        reach = world.reach()
        for _ in range(5):
            assert not await reach.is_lost(MINE, MINE)
            world.now_s += PATIENCE_S
        world.others = World().others
        assert await reach.is_lost(MINE, MINE)


async def test_it_is_back_when_anything_that_fell_to_it_can_be_consumed() -> None:
    world = World(usable={Partition(0), Partition(2)})
    reach = world.reach()
    reach.give_up(MINE)
    for _ in range(3):
        assert not await reach.is_back()
        assert reach.lost
    world.usable.add(Partition(3))
    # One look for each of them is enough.
    looks = [await reach.is_back() for _ in MINE if reach.lost]
    assert (looks[-1], reach.lost) == (True, False)
    assert not await reach.is_lost(MINE, MINE)


async def test_it_is_back_when_nobody_else_consumes() -> None:
    world = World(())
    reach = world.reach()
    reach.give_up(MINE)
    assert await reach.is_back()
