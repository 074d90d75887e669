"""A call that its owner knows is not read again; where what is known turns out wrong, it is."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Partition
from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.contracts.stored_call import encode_block
from calltag.core.domain.call import Call
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import AttachUserData, CallEnded, CallOperation
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.embedded import embedded_store
from calltag.core.store.ports import CallBlock, Loaded
from calltag.core.telemetry.metrics import Metrics
from integration.test_partition_runner import (
    ALICE,
    CALL,
    HERE,
    KEYS,
    PARTITIONS,
    begin,
    publish,
    versions_told,
    working,
)
from parts.eventually import eventually
from parts.store_commands import library

STATE = KEYS.state(HERE, f"call:{CALL}")


class Counting(RedisCallStore):
    """Notes which keys are read."""

    reads: list[str]

    async def load(
        self, partition: Partition, wanted: Mapping[str, Sequence[OperationId]], max_bytes: int | None = None
    ) -> Mapping[str, Loaded]:
        self.reads += wanted
        return await super().load(partition, wanted, max_bytes)


@pytest.fixture
async def client() -> AsyncIterator[RedisClient]:
    async with embedded_store(None, deadline_s=20) as store:
        yield store.client


class Worker:
    """A worker at work on one call, which was begun."""

    def __init__(self, broker: MemoryBroker, client: RedisClient, store: Counting, metrics: Metrics) -> None:
        self.broker, self.client, self.store, self.metrics = broker, client, store, metrics

    async def attach(self, number: int) -> None:
        await publish(self.broker, number, AttachUserData((("n", number),)))

    async def publish_as(self, operation_id: str, number: int) -> None:
        operation = CallOperation(OperationId(operation_id), CALL, AttachUserData((("n", number),)), 1, ALICE)
        await self.broker.publish_operation(HERE, OPERATION.encode(OperationMessage(operation=operation)), operation.id)

    async def until_told(self, *versions: int) -> None:
        async def so() -> bool:
            return await versions_told(self.client) == list(versions)

        await eventually(so)

    async def call(self) -> Call | None:
        return await RedisCallReader(self.client, KEYS, PARTITIONS).call(CALL)

    async def values(self) -> Sequence[object]:
        call = await self.call()
        return call.user_data.values.get("n", ()) if call else ()

    def taken_over(self) -> float:
        return self.metrics.registry.get_sample_value("calltag_partition_takeovers_total") or 0


@asynccontextmanager
async def at_work(client: RedisClient) -> AsyncIterator[Worker]:
    broker, store, metrics = MemoryBroker(PARTITIONS), Counting(client, KEYS), Metrics()
    store.reads = []
    await begin(broker)
    async with working(broker, client, store, metrics):
        made = Worker(broker, client, store, metrics)
        await made.until_told(1)
        yield made


async def test_it_is_read_but_once(client: RedisClient) -> None:
    async with at_work(client) as worker:
        for number in (1, 2, 3):
            await worker.attach(number)
            await worker.until_told(*range(1, number + 2))
        assert worker.store.reads == [f"call:{CALL}"]
        assert await worker.values() == (1, 2, 3)


async def test_an_operation_that_comes_again_takes_effect_once(client: RedisClient) -> None:
    async with at_work(client) as worker:
        await worker.attach(1)
        await worker.until_told(1, 2)
        before = worker.taken_over()
        # The broker, or a rig, gives the same once more; nothing says that it was there before.
        await worker.attach(1)
        await worker.attach(2)
        await worker.until_told(1, 2, 3)
        assert await worker.values() == (1, 2)
        assert worker.taken_over() == before + 1


@pytest.mark.parametrize("derived", ["ik1", "sw1"])
async def test_what_may_well_come_again_is_looked_for_first(client: RedisClient, derived: str) -> None:
    async with at_work(client) as worker:
        before = worker.taken_over()
        for _ in range(2):
            await worker.publish_as(derived, 1)
        await worker.attach(2)
        await worker.until_told(1, 2, 3)
        assert await worker.values() == (1, 2)
        assert worker.taken_over() == before


async def test_a_call_that_has_changed_behind_its_owners_back_is_read_anew(client: RedisClient) -> None:
    async with at_work(client) as worker:
        await library(client).hset(STATE.state, "version", 7)
        await worker.attach(1)
        await worker.until_told(1, 8)


async def test_a_call_that_is_gone_is_not_brought_back(client: RedisClient) -> None:
    async with at_work(client) as worker:
        await library(client).delete(STATE.state, STATE.data)
        await worker.attach(1)

        async def refused() -> bool:
            return bool(await library(client).hexists(STATE.done, "o1"))

        await eventually(refused)
        assert await worker.call() is None


async def test_of_a_partition_with_marks_everything_is_read(client: RedisClient) -> None:
    async with at_work(client) as worker:
        mark = CallBlock(OperationId("parked"), "failed", 1)
        await library(client).hset(KEYS.blocks(HERE), "call:other", encode_block(mark))
        for number in (1, 2, 3):
            await worker.attach(number)
            await worker.until_told(*range(1, number + 2))
        # The first of them told of the mark.
        assert len(worker.store.reads) == 1 + 2
        await library(client).hdel(KEYS.blocks(HERE), "call:other")
        for number in (4, 5, 6):
            await worker.attach(number)
            await worker.until_told(*range(1, number + 2))
        assert len(worker.store.reads) == 1 + 2 + 1


async def test_a_released_call_is_not_kept_at_hand(client: RedisClient) -> None:
    async with at_work(client) as worker:
        await publish(worker.broker, 1, CallEnded())
        await worker.until_told(1, 2)
        await worker.attach(2)

        async def read_again() -> bool:
            return len(worker.store.reads) == 2

        await asyncio.wait_for(eventually(read_again), 30)
