"""The worker of a partition step by step: in which order it works, and how it lets go of what it has."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Delivery, Partition, PartitionConsumer
from calltag.core.domain.operations import AttachUserData
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.embedded import embedded_store
from calltag.core.store.ports import CallStore, CommitPosition, Epoch, WorkerId
from calltag.core.store.workers import RedisWorkerRegistry
from calltag.core.telemetry.metrics import Metrics
from calltag.worker.event_publisher import EventPublisher
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.parking import Parking
from calltag.worker.partition_runner import PartitionRunner
from integration.test_partition_runner import (
    CALL,
    HERE,
    KEYS,
    LIMITS,
    PARTITIONS,
    begin,
    outgoing_of,
    publish,
    versions_told,
    working,
)
from parts.eventually import eventually


@pytest.fixture
async def client() -> AsyncIterator[RedisClient]:
    async with embedded_store(None, deadline_s=20) as store:
        yield store.client


class Recorded:
    """Notes the name of each method of `inner` that is called, once it has done its work."""

    def __init__(self, inner: object, steps: list[str]) -> None:
        self._inner = inner
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*given: Any, **named: Any) -> Any:
            result = await found(*given, **named)
            self._steps.append(name)
            return result

        return call


@asynccontextmanager
async def consuming(
    broker: MemoryBroker, store: CallStore, outgoing: EventPublisher, steps: list[str] | None = None
) -> AsyncIterator[None]:
    """Work on the partition in batches of up to three, while the context is open."""
    released = asyncio.Event()
    observations = WorkerMetrics(Metrics())
    lot = Parking(broker)
    worker = PartitionRunner(HERE, store, outgoing, LIMITS, observations, parking_lot=lot, batch_limit=3)
    async with broker.partition(HERE, 10) as consumer:
        recorded: Any = consumer if steps is None else Recorded(consumer, steps)
        running = asyncio.create_task(worker.run(recorded, released))
        yield
        released.set()
        await running


async def next_of(consumer: PartitionConsumer) -> Delivery:
    async with asyncio.timeout(10):
        return (await consumer.batch(1))[0]


async def test_the_steps_of_a_batch_are_taken_in_the_order_that_the_promises_rest_on(client: RedisClient) -> None:
    broker, steps = MemoryBroker(PARTITIONS), list[str]()
    await begin(broker)
    store: Any = Recorded(RedisCallStore(client, KEYS), steps)
    outgoing: Any = Recorded(outgoing_of(broker, client), steps)
    async with consuming(broker, store, outgoing, steps):
        await eventually(lambda: "ack" in steps)
    # Each second a watch looks whether the store has lost something, whatever the batch is at.
    taken = [step for step in steps if step != "read_position"]
    # The outbox is emptied by the next commit, or at the end.
    assert taken == ["batch", "take_over", "load", "commit", "wait_for_replicas", "send", "ack", "sent"]


class Replicated(RedisCallStore):
    """A store whose replicas have a commit once the test sets an event."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(client, KEYS)
        self.waits_for_replicas = True
        self.asked, self.have_it = asyncio.Event(), asyncio.Event()

    async def wait_for_replicas(self, partition: Partition, epoch: Epoch, position: CommitPosition) -> None:
        self.asked.set()
        await self.have_it.wait()
        await super().wait_for_replicas(partition, epoch, position)


async def test_nothing_is_told_before_the_replicas_have_it(client: RedisClient) -> None:
    broker, store = MemoryBroker(PARTITIONS), Replicated(client)
    await begin(broker)
    async with consuming(broker, store, outgoing_of(broker, client)):
        await store.asked.wait()
        assert await versions_told(client) == []
        store.have_it.set()

        async def is_told() -> bool:
            return await versions_told(client) == [1]

        await eventually(is_told)


async def test_all_operations_of_a_batch_are_acknowledged(client: RedisClient) -> None:
    broker, store = MemoryBroker(PARTITIONS), RedisCallStore(client, KEYS)
    await begin(broker)
    for number in (1, 2):
        await publish(broker, number, AttachUserData((("n", number),)))
    async with consuming(broker, store, outgoing_of(broker, client)):

        async def all_told() -> bool:
            return await versions_told(client) == [1, 2, 3]

        await eventually(all_told)
    await publish(broker, 3, AttachUserData((("n", 3),)))
    async with broker.partition(HERE, 10) as consumer:
        delivery = await next_of(consumer)
        assert (delivery.message_id, delivery.redelivered) == ("o3", False)


async def test_a_partition_that_another_worker_took_over_is_left_and_nothing_is_lost(client: RedisClient) -> None:
    broker, store, metrics = MemoryBroker(PARTITIONS), RedisCallStore(client, KEYS), Metrics()
    reader = RedisCallReader(client, KEYS, PARTITIONS)

    async def told(versions: Sequence[int]) -> bool:
        return await versions_told(client) == list(versions)

    await begin(broker)
    async with working(broker, client, store, metrics):
        await publish(broker, 1, AttachUserData((("n", 1),)))
        await eventually(lambda: told([1, 2]))
        await store.take_over(HERE)
        await publish(broker, 2, AttachUserData((("n", 2),)))
        await eventually(lambda: told([1, 2, 3]))
    call = await reader.call(CALL)
    assert call is not None
    assert call.user_data.values == {"n": (1, 2)}
    assert metrics.registry.get_sample_value("calltag_partitions_fenced_total") == 1
    assert metrics.registry.get_sample_value("calltag_partitions_failed_total") == 0


async def test_a_worker_that_ends_is_not_counted_on_any_more(client: RedisClient) -> None:
    broker, store = MemoryBroker(PARTITIONS), RedisCallStore(client, KEYS)
    registry = RedisWorkerRegistry(client, KEYS)
    async with working(broker, client, store) as made:
        await eventually(made.all_consumed)
        assert set(await registry.renew(WorkerId("other"))) == {"w", "other"}
    assert await registry.renew(WorkerId("other")) == ["other"]
