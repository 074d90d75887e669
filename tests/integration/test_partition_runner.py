"""The worker of a partition when the store's answers get lost, or something unforeseen happens."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import orjson
import pytest

from calltag.core.bayeux.events import BEGINNING
from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Partition, partition_of
from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.domain.call import CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.operations import AttachUserData, CallAction, CallOperation, CallStarted
from calltag.core.domain.outcome import CallLimits
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.embedded import embedded_store
from calltag.core.store.event_log import RedisEventLog
from calltag.core.store.keys import Keys
from calltag.core.store.ports import (
    CommitConflict,
    CommitPosition,
    Committal,
    Epoch,
    StoreUnavailable,
    WorkerId,
)
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.watches import RedisWatches
from calltag.core.store.workers import RedisCallIndex, RedisWorkerRegistry
from calltag.core.telemetry.metrics import Metrics
from calltag.worker.assignment import Assignments
from calltag.worker.event_publisher import EventPublisher
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.node_sender import NodeSender
from calltag.worker.parking import Parking
from calltag.worker.partition_runner import PartitionRunner
from parts.eventually import eventually
from parts.store_commands import library

KEYS = Keys("t")
ALICE = UserId("alice")
CALL = CallId("C1")
PARTITIONS = 2
HERE = partition_of(CALL, PARTITIONS)
LIMITS = CallLimits(lambda value: len(orjson.dumps(value)))


class Unreliable(RedisCallStore):
    """Does what it is asked to, and then sometimes says that it did not."""

    faults: Iterator[type[Exception] | None] = iter(())

    async def commit(self, *given: Any, **named: Any) -> Committal:
        made = await super().commit(*given, **named)
        fault = next(self.faults, None)
        if fault is not None:
            raise fault("the answer was lost")
        return made


@pytest.fixture
async def client() -> AsyncIterator[RedisClient]:
    async with embedded_store(None, deadline_s=20) as store:
        yield store.client


async def publish(broker: MemoryBroker, number: int, action: CallAction) -> None:
    operation = CallOperation(OperationId(f"o{number}"), CALL, action, 1, ALICE)
    await broker.publish_operation(HERE, OPERATION.encode(OperationMessage(operation=operation)), operation.id)


async def begin(broker: MemoryBroker) -> None:
    leg = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), ALICE)
    await publish(broker, 0, CallStarted(ConnId("c"), CallType.INBOUND, "", (leg,)))


def outgoing_of(broker: MemoryBroker, client: RedisClient) -> EventPublisher:
    batcher = ScriptBatcher(client)
    streams, watches = RedisEventLog(client, batcher, KEYS), RedisWatches(client, batcher, KEYS)
    return EventPublisher(NodeSender(broker, streams), RedisCallIndex(client, KEYS), streams, watches)


@contextmanager
def assignments(
    broker: MemoryBroker, client: RedisClient, store: RedisCallStore, metrics: Metrics | None = None
) -> Iterator[Assignments]:
    outgoing, observations = outgoing_of(broker, client), WorkerMetrics(metrics or Metrics())

    def make(partition: Partition) -> PartitionRunner:
        lot = Parking(broker)
        return PartitionRunner(partition, store, outgoing, LIMITS, observations, parking_lot=lot, batch_limit=1)

    yield Assignments(
        WorkerId("w"),
        broker,
        RedisWorkerRegistry(client, KEYS),
        make,
        observations,
        partitions=PARTITIONS,
        heartbeat_s=0.05,
    )


@asynccontextmanager
async def working(
    broker: MemoryBroker, client: RedisClient, store: RedisCallStore, metrics: Metrics | None = None
) -> AsyncIterator[Assignments]:
    with assignments(broker, client, store, metrics) as made:
        stop = asyncio.Event()
        running = asyncio.create_task(made.run(stop))
        try:
            yield made
        finally:
            stop.set()
            await running


async def versions_told(client: RedisClient) -> list[int]:
    page = await RedisEventLog(client, ScriptBatcher(client), KEYS).read(ALICE, BEGINNING, 100)
    return [orjson.loads(entry.event)["call"]["version"] for entry in page.entries]


@pytest.mark.parametrize("fault", [StoreUnavailable, CommitConflict])
async def test_events_of_a_commit_whose_answer_is_lost_are_told(client: RedisClient, fault: type[Exception]) -> None:
    broker, store = MemoryBroker(PARTITIONS), Unreliable(client, KEYS)
    store.faults = iter([None, None, fault, None, fault, fault])
    await begin(broker)
    for number in range(1, 8):
        await publish(broker, number, AttachUserData((("n", number),)))
    async with working(broker, client, store):

        async def all_told() -> bool:
            return (await versions_told(client))[-1:] == [8]

        await eventually(all_told)
    assert await versions_told(client) == list(range(1, 9))
    call = await RedisCallReader(client, KEYS, PARTITIONS).call(CALL)
    assert call is not None
    assert call.user_data.values == {"n": tuple(range(1, 8))}
    assert (await store.take_over(HERE)).kept == 0


async def test_a_kept_event_that_cannot_be_read_holds_nothing_up(client: RedisClient) -> None:
    broker, store = MemoryBroker(PARTITIONS), RedisCallStore(client, KEYS)
    await library(client).rpush(KEYS.outbox(HERE), b"{}")
    await begin(broker)
    async with working(broker, client, store):

        async def told() -> bool:
            return await versions_told(client) == [1]

        await eventually(told)
    assert (await store.take_over(HERE)).kept == 0


async def test_a_failure_that_nobody_foresaw_stays_in_its_partition(client: RedisClient) -> None:
    broker, store = MemoryBroker(PARTITIONS), Unreliable(client, KEYS)
    store.faults = iter([ZeroDivisionError])
    await begin(broker)
    async with working(broker, client, store) as made:

        async def told() -> bool:
            return await versions_told(client) == [1]

        await eventually(told)
        await eventually(made.all_consumed)


async def test_a_worker_is_ready_when_its_partitions_are_consumed(client: RedisClient) -> None:
    broker, store = MemoryBroker(PARTITIONS), RedisCallStore(client, KEYS)
    with assignments(broker, client, store) as made:
        assert not made.all_consumed()
    async with working(broker, client, store) as made:
        await eventually(made.all_consumed)
        assert len(made.partitions) == PARTITIONS
    assert made.partitions == frozenset()


@pytest.mark.parametrize("ends_in", [RuntimeError, asyncio.CancelledError, None])
async def test_a_watch_of_the_store_that_fails_or_hangs_holds_up_no_release(
    client: RedisClient, monkeypatch: pytest.MonkeyPatch, ends_in: type[BaseException] | None
) -> None:
    broker, store, looks = MemoryBroker(PARTITIONS), RedisCallStore(client, KEYS), 0

    async def read_position(_: Partition) -> tuple[Epoch, CommitPosition]:
        nonlocal looks
        looks += 1
        if ends_in is not None:
            raise ends_in
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(store, "read_position", read_position)
    monkeypatch.setattr("calltag.worker.partition_runner._LOOK_S", 0.01)
    worker = PartitionRunner(
        HERE, store, outgoing_of(broker, client), LIMITS, WorkerMetrics(Metrics()), parking_lot=Parking(broker)
    )
    released = asyncio.Event()
    await begin(broker)
    async with broker.partition(HERE, 10) as consumer:
        running = asyncio.create_task(worker.run(consumer, released))
        # It goes on looking, and has nothing in hand.
        await eventually(lambda: looks >= (1 if ends_in is None else 3))

        async def idle() -> bool:
            return await versions_told(client) == [1] and not consumer.unacknowledged()

        await eventually(idle)
        released.set()
        async with asyncio.timeout(30):
            await running
