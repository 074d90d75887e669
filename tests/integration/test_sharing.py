"""Workers come and go under load: every partition has one owner, the load is even, and what stays is not disturbed."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from calltag.core.broker.ports import Partition
from calltag.core.broker.rabbitmq import RabbitMqBroker
from calltag.core.store.calls import RedisCallStore
from calltag.core.store.ports import (
    NO_BLOCKS,
    CallBlocks,
    Change,
    Committal,
    Epoch,
    Fenced,
    HeldPartition,
    LivingWorker,
    StoreUnavailable,
    WorkerId,
    WorkerRegistry,
)
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.workers import Crew, crew

pytestmark = pytest.mark.alone

PARTITIONS = 32
ALL = [Partition(number) for number in range(PARTITIONS)]
JOIN_OR_LEAVE_S = 5.0
KILL_S = 10.0
PACE_S = 0.4
UP_AND_DOWN = (2, 3, 4, 8, 16, 15, 8, 4, 3, 2, 1)

Owner = tuple[RedisCallStore, Epoch]


@dataclass
class Commits:
    """Every commit that took place, in its order within the partition: by whose store, and in which epoch."""

    of: dict[Partition, list[Owner]] = field(default_factory=lambda: {each: [] for each in ALL})
    fenced: int = 0
    waiting: int = 0
    held_up: dict[RedisCallStore, asyncio.Event] = field(default_factory=dict)
    """Whose commits wait on their way to Redis, and for what."""

    def last(self) -> dict[Partition, Owner]:
        return {partition: done[-1] for partition, done in self.of.items() if done}

    def assert_owners_never_interleave(self) -> None:
        """An epoch belongs to one worker, and when a later one has committed, no earlier one does any more."""
        for partition, done in self.of.items():
            epochs = [epoch for _, epoch in done]
            assert epochs == sorted(epochs), partition
            assert len(set(done)) == len(set(epochs)), partition


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    seen, commit = Commits(), RedisCallStore.commit

    async def recorded(
        self: RedisCallStore,
        partition: Partition,
        epoch: Epoch,
        changes: Sequence[Change],
        events: Sequence[bytes],
        marks: CallBlocks = NO_BLOCKS,
        **more: Any,
    ) -> Committal:
        if self in seen.held_up:
            seen.waiting += 1
            await seen.held_up[self].wait()
        try:
            made = await commit(self, partition, epoch, changes, events, marks, **more)
        except Fenced:
            seen.fenced += 1
            raise
        seen.of[partition].append((self, epoch))
        return made

    monkeypatch.setattr(RedisCallStore, "commit", recorded)
    return seen


@dataclass
class Load:
    """Operations on the call of every partition, one after another."""

    crew: Crew
    sent: Counter[Partition] = field(default_factory=Counter)

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for partition in ALL:
                group.create_task(self._send(partition, ending))
            try:
                yield
            finally:
                ending.set()
        await self._all_done()

    async def _send(self, partition: Partition, ending: asyncio.Event) -> None:
        while not ending.is_set():
            await self.crew.publish(partition, self.sent[partition])
            self.sent[partition] += 1
            await asyncio.sleep(PACE_S)

    async def _all_done(self) -> None:
        """Everything takes effect, once and in order."""

        async def is_done(partition: Partition) -> bool:
            return len(await self.crew.values(partition)) >= self.sent[partition] - 1

        async def are_done() -> bool:
            return all([await is_done(partition) for partition in ALL])

        await eventually(are_done, within_s=90)
        for partition in ALL:
            assert await self.crew.values(partition) == tuple(range(1, self.sent[partition]))


async def settled(here: Crew, commits: Commits, within_s: float) -> dict[Partition, str]:
    """Who owns what, once each partition has one owner, who works on it, and the load is even."""
    found: dict[Partition, str] = {}

    async def is_settled() -> bool:
        owners, last = await here.owners() or {}, commits.last()
        found.clear()
        found.update(owners)
        stores = {str(each.made.worker): each.store for each in here.members}
        counts = Counter(owners.values())
        return (
            len(owners) == len(last) == PARTITIONS
            and len(counts) == len(stores)
            and max(counts.values()) - min(counts.values()) <= 1
            and all(stores[worker] is last[partition][0] for partition, worker in owners.items())
        )

    await eventually(is_settled, within_s=within_s)
    return found


@pytest.mark.timeout(240)
async def test_from_one_to_sixteen_workers_and_back(
    rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str, commits: Commits
) -> None:
    async with crew(rabbitmq.url, redis_url, amqp_prefix) as here:
        await here.join()
        load = Load(here)
        async with load.sending():
            before = await settled(here, commits, JOIN_OR_LEAVE_S)
            for size in UP_AND_DOWN:
                owners_before, members_before = commits.last(), len(here.members)
                while len(here.members) < size:
                    await here.join()
                await asyncio.gather(*(here.leave(each) for each in here.members[size:]))
                after = await settled(here, commits, JOIN_OR_LEAVE_S)
                stayed = [partition for partition in ALL if before[partition] == after[partition]]
                if size == members_before + 1:
                    assert PARTITIONS - len(stayed) == PARTITIONS // size
                # Whoever kept a partition has it in the same epoch still: it was not even taken over anew.
                now = commits.last()
                assert {each: now[each] for each in stayed} == {each: owners_before[each] for each in stayed}
                before = after
        commits.assert_owners_never_interleave()
        assert commits.fenced == 0


async def test_the_partitions_of_one_that_is_killed_find_owners(
    rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str, commits: Commits
) -> None:
    async with crew(rabbitmq.url, redis_url, amqp_prefix) as here:
        for _ in range(3):
            await here.join()
        async with Load(here).sending():
            before, owners_before = await settled(here, commits, JOIN_OR_LEAVE_S), commits.last()
            await here.lose(here.members[0])
            after = await settled(here, commits, KILL_S)
            stayed = [partition for partition in ALL if before[partition] == after[partition]]
            assert len(stayed) >= PARTITIONS - 2 * 11
            assert all(commits.last()[each] == owners_before[each] for each in stayed)
        commits.assert_owners_never_interleave()


class Unreached:
    """A registry that one worker does not reach any more."""

    async def renew(self, *_: object) -> Sequence[WorkerId]:
        raise StoreUnavailable("cut off")


async def test_a_worker_that_cannot_renew_its_lease_makes_way_and_comes_back(
    rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str, commits: Commits
) -> None:
    async with crew(rabbitmq.url, redis_url, amqp_prefix, worker={"lease_s": 2.0}) as here:
        await here.join()
        await here.join()
        async with Load(here).sending():
            await settled(here, commits, JOIN_OR_LEAVE_S)
            cut = here.members.pop()
            registry, unreached = cut.made._registry, cast(WorkerRegistry, Unreached())
            cut.made._registry = unreached
            await settled(here, commits, KILL_S)
            assert cut.made.partitions == frozenset()
            assert not cut.made.all_consumed()
            cut.made._registry = registry
            here.members.append(cut)
            await settled(here, commits, JOIN_OR_LEAVE_S)
        commits.assert_owners_never_interleave()


@dataclass
class Stalled:
    """The registry of a worker that does not get on, and says nothing meanwhile."""

    registry: WorkerRegistry
    goes_on: asyncio.Event

    async def renew(self, worker: WorkerId, held: Sequence[HeldPartition] = ()) -> Sequence[WorkerId]:
        await self.goes_on.wait()
        return await self.registry.renew(worker, held)

    async def leave(self, worker: WorkerId) -> None:
        await self.registry.leave(worker)

    async def living(self) -> Sequence[LivingWorker]:
        return await self.registry.living()


async def test_what_a_stalled_worker_still_has_in_hand_does_not_take_effect(
    rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str, commits: Commits
) -> None:
    async with crew(rabbitmq.url, redis_url, amqp_prefix, partitions=1, worker={"lease_s": 2.0}) as here:
        stalled, other = await here.join(), await here.join()
        await here.publish(ALL[0], 0)
        await eventually(lambda: len(commits.of[ALL[0]]) == 1)
        goes_on = commits.held_up[stalled.store] = asyncio.Event()
        await here.publish(ALL[0], 1)
        await eventually(lambda: commits.waiting == 1)
        stalled.made._registry = Stalled(stalled.made._registry, goes_on)
        broker = stalled.backends.broker
        assert isinstance(broker, RabbitMqBroker)
        try:
            # Where the process does not move, RabbitMQ ends its connection when it misses the heartbeats.
            for link in broker.links:
                link.broken()
            await here.publish(ALL[0], 2)
            await eventually(lambda: commits.of[ALL[0]][-1][0] is other.store)
        finally:
            goes_on.set()
        await eventually(lambda: commits.fenced == 1)
        await here.publish(ALL[0], 3)

        async def done() -> bool:
            return len(await here.values(ALL[0])) >= 3

        await eventually(done)
        assert await here.values(ALL[0]) == (1, 2, 3)
        commits.assert_owners_never_interleave()
