"""What a worker lives through is no death, and what took effect is not refused for the deaths that follow."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from calltag.core.bayeux.events import BEGINNING
from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import BrokerInterrupted, Delivery, NodeId, PartitionConsumer
from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import AttachUserData, CallOperation
from calltag.core.process.limits import MAX_BATCH_BYTES
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.embedded import embedded_store
from calltag.core.store.event_log import RedisEventLog
from calltag.core.store.ports import Fenced, StoreUnavailable
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.telemetry.metrics import Metrics
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.parking import Parking
from calltag.worker.partition_runner import PartitionRunner, RetryLimits
from integration.test_partition_runner import (
    ALICE,
    CALL,
    HERE,
    KEYS,
    LIMITS,
    PARTITIONS,
    begin,
    outgoing_of,
    publish,
    working,
)
from parts.eventually import eventually
from parts.store_commands import library

PATIENCE = RetryLimits(600, 2)
SUSPECT = "o1"
Ack = Callable[[PartitionConsumer, Collection[int]], Awaitable[None]]


@pytest.fixture
async def client() -> AsyncIterator[RedisClient]:
    async with embedded_store(None, deadline_s=20) as store:
        yield store.client


@dataclass
class Suspicious:
    """A consumer to which everything came back often; `acked` is how it acknowledges."""

    inner: PartitionConsumer
    acked: Ack
    together: str = ""
    """The message that all of it came in."""

    async def batch(self, limit: int, max_bytes: int = MAX_BATCH_BYTES) -> Sequence[Delivery]:
        return [replace(each, returned=9, together=self.together) for each in await self.inner.batch(limit, max_bytes)]

    async def ack(self, tags: Collection[int]) -> None:
        await self.acked(self.inner, tags)

    async def ack_through(self, tag: int) -> None:
        await self.inner.ack_through(tag)

    def unacknowledged(self) -> int:
        return self.inner.unacknowledged()


@dataclass
class Here:
    """One partition, with a call, and an operation on it that somebody may have died of."""

    client: RedisClient
    broker: MemoryBroker
    store: RedisCallStore
    together: str = ""

    async def work(self, acked: Ack, until: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Work in the partition until that is so, or it ends by itself."""
        lot, observations = Parking(self.broker), WorkerMetrics(Metrics())
        worker = PartitionRunner(
            HERE, self.store, outgoing_of(self.broker, self.client), LIMITS, observations, parking_lot=lot,
            retry_limits=PATIENCE,
        )  # fmt: skip
        released = asyncio.Event()
        async with self.broker.partition(HERE, 10) as consumer:
            running = asyncio.create_task(worker.run(Suspicious(consumer, acked, self.together), released))
            if until is not None:
                await eventually(until)
                released.set()
            await asyncio.wait({running})
            if not running.cancelled() and not isinstance(running.exception(), BrokerInterrupted | Fenced):
                running.result()

    async def acknowledged(self) -> bool:
        """Whether the queue is through."""
        queue = self.broker._queues[HERE]
        return not queue.waiting and await self.attached() == [1]

    async def attached(self) -> list[object]:
        call = await RedisCallReader(self.client, KEYS, PARTITIONS).call(CALL)
        return list(call.user_data.values.get("n", ())) if call is not None else []

    async def counted(self) -> bool:
        """Whether a try at an operation is counted."""
        return bool(await library(self.client).exists(KEYS.attempts(HERE)))

    async def refused(self) -> bool:
        """Whether alice was told that something was not applied."""
        page = await RedisEventLog(self.client, ScriptBatcher(self.client), KEYS).read(ALICE, BEGINNING, 100)
        return any(orjson.loads(entry.event)["kind"] == "refused" for entry in page.entries)


@pytest.fixture
async def here(client: RedisClient) -> Here:
    made = Here(client, MemoryBroker(PARTITIONS), RedisCallStore(client, KEYS))
    reader = RedisCallReader(client, KEYS, PARTITIONS)

    async def there() -> bool:
        return await reader.call(CALL) is not None

    await begin(made.broker)
    async with working(made.broker, client, made.store):
        await eventually(there)
    return made


async def sound(consumer: PartitionConsumer, tags: Collection[int]) -> None:
    await consumer.ack(tags)


def failing(error: BaseException) -> Ack:
    async def acked(_: PartitionConsumer, __: Collection[int]) -> None:
        raise error

    return acked


@pytest.mark.parametrize("error", [BrokerInterrupted("no channel"), Fenced("taken over"), asyncio.CancelledError()])
async def test_what_a_worker_lives_through_is_no_death(here: Here, error: BaseException) -> None:
    await publish(here.broker, 1, AttachUserData((("n", 1),)))
    for _ in range(PATIENCE.max_crashes + 1):
        await here.work(failing(error))
        assert not await here.counted()
    await here.work(sound, here.acknowledged)
    assert (here.broker.parked, await here.refused(), await here.attached()) == ([], False, [1])


async def let_it_wait(here: Here) -> None:
    """The call cannot be written to: operations on it wait whenever the partition is released. Then it can."""
    name = KEYS.state(HERE, f"call:{CALL}").data
    await library(here.client).set(name, "no hash")
    for _ in range(PATIENCE.max_crashes + 1):
        await here.work(sound, here.counted)
        assert not await here.counted()
    await library(here.client).delete(name)


async def test_an_operation_that_waits_when_the_partition_is_released_killed_nobody(here: Here) -> None:
    await publish(here.broker, 1, AttachUserData((("n", 1),)))
    await let_it_wait(here)
    await here.work(sound, here.acknowledged)
    assert (here.broker.parked, await here.attached()) == ([], [1])


async def test_a_message_of_which_an_operation_waits_is_counted_until_that_is_over(here: Here) -> None:
    """Somebody may die of it when it is tried again."""
    here.together = "m"
    await publish(here.broker, 1, AttachUserData((("n", 1),)))
    await publish(here.broker, 2, AttachUserData((("n", 2),)))
    await let_it_wait(here)

    async def done() -> bool:
        return await here.attached() == [1, 2]

    await here.work(sound, done)
    assert (here.broker.parked, await here.counted()) == ([], False)


async def test_a_try_is_taken_back_though_the_store_is_away_for_a_moment(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    withdraw_attempt, away = here.store.withdraw_attempt, iter([True, True, False])

    async def at_last(*arguments: object) -> None:
        if next(away, False):
            raise StoreUnavailable("away")
        await withdraw_attempt(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(here.store, "withdraw_attempt", at_last)
    await publish(here.broker, 1, AttachUserData((("n", 1),)))
    await here.work(failing(BrokerInterrupted("no channel")))
    assert not await here.counted()


async def test_what_took_effect_before_workers_died_is_told_as_done(here: Here) -> None:
    """Others died after the commit, before the acknowledgement."""
    action, broker, node = AttachUserData((("n", 1),)), here.broker, NodeId("gateway")
    operation = CallOperation(OperationId(SUSPECT), CALL, action, 1, ALICE)
    body = OPERATION.encode(OperationMessage(operation=operation, reply_to=node))
    await broker.publish_operation(HERE, body, SUSPECT)
    async with working(broker, here.client, here.store):
        await eventually(here.acknowledged)
    taken = await here.store.take_over(HERE)
    for each in range(PATIENCE.max_crashes):
        await here.store.attempt(HERE, taken.epoch, SUSPECT, f"crash-{each}")
    async with broker.inbox(node) as inbox:
        await broker.publish_operation(HERE, body, SUSPECT)
        told = asyncio.create_task(inbox.receive())

        async def answered() -> bool:
            return told.done()

        await here.work(sound, answered)
        assert b'"code":0' in told.result()
    assert (broker.parked, await here.refused(), await here.attached()) == ([], False, [1])
    assert await RedisCallReader(here.client, KEYS, PARTITIONS).block(CALL) is None
    assert not await here.counted()


async def test_what_took_no_effect_is_parked_after_as_many_deaths_as_before(here: Here) -> None:
    taken = await here.store.take_over(HERE)
    for each in range(PATIENCE.max_crashes):
        await here.store.attempt(HERE, taken.epoch, SUSPECT, f"crash-{each}")
    await publish(here.broker, 1, AttachUserData((("n", 1),)))
    await here.work(sound, here.refused)
    assert [(each.message_id, each.parking.reason) for each in here.broker.parked] == [(SUSPECT, "crashes_workers")]
    assert not await here.counted()


async def test_an_answer_that_is_lost_is_no_death(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt, lost = here.store.attempt, iter([True] * (PATIENCE.max_crashes + 1))

    async def unheard(*arguments: Any) -> int:
        tries = await attempt(*arguments)
        if next(lost, False):
            raise StoreUnavailable("the answer was lost")
        return tries

    monkeypatch.setattr(here.store, "attempt", unheard)
    await publish(here.broker, 1, AttachUserData((("n", 1),)))
    await here.work(sound, here.acknowledged)
    assert (here.broker.parked, await here.refused(), await here.attached()) == ([], False, [1])


async def test_a_worker_that_lets_go_in_order_forgets_no_deaths_of_others(here: Here) -> None:
    """It could not be parked: the parking queue is full. The next one is not to die of it again."""
    full = Here(here.client, MemoryBroker(PARTITIONS, parking_limit=0), here.store)
    taken = await here.store.take_over(HERE)
    for each in range(PATIENCE.max_crashes):
        await here.store.attempt(HERE, taken.epoch, SUSPECT, f"crash-{each}")
    await publish(full.broker, 1, AttachUserData((("n", 1),)))
    for _ in range(2):
        await full.work(sound, full.refused)
        assert await full.attached() == []
        assert await library(here.client).hget(KEYS.attempts(HERE), SUSPECT) == b"crash-0 crash-1"
