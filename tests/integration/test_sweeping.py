"""Who looks for silent calls: the one to whom the partition falls, unless another one is still at work on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Partition
from calltag.core.domain.operations import AttachUserData
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.embedded import embedded_store
from calltag.core.store.ports import Committal, StoreUnavailable
from calltag.core.telemetry.metrics import Metrics
from calltag.worker.expiry import Sweep
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.parking import Parking
from calltag.worker.partition_runner import PartitionRunner
from integration.test_partition_runner import CALL, HERE, KEYS, LIMITS, PARTITIONS, begin, outgoing_of, publish
from parts.eventually import eventually

EVERY_S = 0.02


@pytest.fixture
async def client() -> AsyncIterator[RedisClient]:
    async with embedded_store(None, deadline_s=20) as store:
        yield store.client


@dataclass
class Rounds:
    """A clock by which it is time for a round of sweeping only when the test says so."""

    now_s: float = 0.0

    def next(self) -> None:
        self.now_s += EVERY_S


class Held(RedisCallStore):
    """Commits wait until they may take place."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(client, KEYS)
        self.may = asyncio.Event()
        self.waiting = asyncio.Event()

    async def commit(self, *given: Any, **named: Any) -> Committal:
        self.waiting.set()
        await self.may.wait()
        return await super().commit(*given, **named)


@dataclass
class Here:
    """A partition with one call, which every look finds silent."""

    client: RedisClient
    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(PARTITIONS))
    rounds: Rounds = field(default_factory=Rounds)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def working(
        self, metrics: Metrics | None = None, *, sweeping: bool = False, store: RedisCallStore | None = None
    ) -> AsyncIterator[None]:
        """A worker to which the partition falls, while the context is open, or until `released` is set."""
        kept, counted = store or RedisCallStore(self.client, KEYS), metrics or Metrics()
        sweep = Sweep(HERE, kept, 0, EVERY_S, lambda: self.rounds.now_s, lambda: 1) if sweeping else None
        worker = PartitionRunner(
            HERE, kept, outgoing_of(self.broker, self.client), LIMITS, WorkerMetrics(counted),
            parking_lot=Parking(self.broker), sweep=sweep,
        )  # fmt: skip
        released = self.released if store is not None else asyncio.Event()
        async with self.broker.partition(HERE, 10) as consumer:
            running = asyncio.create_task(worker.run(consumer, released))
            try:
                yield
            finally:
                released.set()
                await running

    async def attached(self) -> int:
        call = await RedisCallReader(self.client, KEYS, PARTITIONS).call(CALL)
        return -1 if call is None else len(call.user_data.values.get("n", ()))

    async def until_attached(self, count: int) -> None:
        async def so() -> bool:
            return await self.attached() == count

        await eventually(so)

    async def is_over(self) -> bool:
        call = await RedisCallReader(self.client, KEYS, PARTITIONS).call(CALL)
        return call is not None and call.released


@pytest.fixture
async def here(client: RedisClient) -> Here:
    made = Here(client)
    await begin(made.broker)
    return made


def counted(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"calltag_{name}_total") or 0.0


async def test_who_waits_for_a_partition_that_another_works_on_does_not_sweep_it(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, due_in_s = 0, Sweep.due_in_s

    def noted(self: Sweep) -> float:
        nonlocal looks
        looks += 1
        return due_in_s(self)

    monkeypatch.setattr(Sweep, "due_in_s", noted)
    waiting = Metrics()
    async with here.working():
        await here.until_attached(0)
        async with here.working(waiting, sweeping=True):
            for number in range(1, 6):
                await publish(here.broker, number, AttachUserData((("n", number),)))
                await here.until_attached(number)
                here.rounds.next()
                # It has gone round more than once: whatever it did about this round is done.
                goal = looks + 6
                await eventually(lambda goal=goal: looks >= goal)  # type: ignore[misc]
            assert counted(waiting, "partition_takeovers") == 0
            assert not await here.is_over()


async def test_a_partition_that_nobody_works_on_is_swept_though_nothing_was_ever_delivered(here: Here) -> None:
    async with here.working():
        await here.until_attached(0)

    async def swept() -> bool:
        here.rounds.next()
        return await here.is_over()

    async with here.working(sweeping=True):
        await eventually(swept)


async def test_who_has_to_let_go_of_a_partition_does_not_sweep_it_any_more(here: Here) -> None:
    store = Held(here.client)
    async with here.working(sweeping=True, store=store):
        await store.waiting.wait()
        here.rounds.next()
        here.released.set()
        store.may.set()
    assert await here.attached() == 0
    assert not await here.is_over()


async def test_while_the_store_does_not_tell_nobody_takes_over_to_sweep(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with here.working():
        await here.until_attached(0)
    asked, read_position, away = 0, RedisCallStore.read_position, True

    async def unsure(self: RedisCallStore, partition: Partition) -> object:
        nonlocal asked
        asked += 1
        if away:
            raise StoreUnavailable("away")
        return await read_position(self, partition)

    monkeypatch.setattr(RedisCallStore, "read_position", unsure)

    async def asked_often() -> bool:
        here.rounds.next()
        return asked >= 4

    async def swept() -> bool:
        here.rounds.next()
        return await here.is_over()

    async with here.working(sweeping=True):
        await eventually(asked_often)
        assert not await here.is_over()
        away = False
        await eventually(swept)
