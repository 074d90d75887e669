"""What a store has lost comes back before anything else is written, whatever happened to its worker meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import BrokerInterrupted, Partition, partition_of
from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.domain.call import CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId
from calltag.core.domain.operations import AttachUserData, CallOperation, CallStarted
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.connection import Request
from calltag.core.store.embedded import embedded_store
from calltag.core.store.ports import NEVER, CommitPosition, Epoch, Published, StoreUnavailable, TakeOver, WorkerId
from calltag.core.store.workers import RedisWorkerRegistry
from calltag.core.telemetry.metrics import Metrics
from calltag.worker.assignment import Assignments
from calltag.worker.loss_recovery import RecentByPartition, RecentLimits
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.parking import Parking
from calltag.worker.partition_runner import PartitionRunner
from integration.test_lost_writes import counted, until_attached
from integration.test_partition_runner import (
    ALICE,
    CALL,
    HERE,
    KEYS,
    LIMITS,
    PARTITIONS,
    Unreliable,
    begin,
    outgoing_of,
    publish,
    versions_told,
)
from parts.eventually import eventually
from parts.snapshot import Snapshot, put_back, snapshot
from parts.store_commands import library

LEASE_S = 0.6


class MayBeAway(RedisClient):
    """A client that may be cut off from the store."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(client.router, client.deadline_s)
        self.away: list[str] = []

    async def send(self, requests: Sequence[Request]) -> None:
        if self.away:
            raise StoreUnavailable(self.away[0])
        await super().send(requests)


@dataclass
class Worker:
    """One worker on all partitions, and the store before it."""

    client: MayBeAway
    limits: RecentLimits = field(default_factory=RecentLimits)
    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(PARTITIONS))
    metrics: Metrics = field(default_factory=Metrics)
    name: str = "w"

    def __post_init__(self) -> None:
        self.store = Unreliable(self.client, KEYS)
        self.recent = RecentByPartition(self.limits)
        self.assignments = Assignments(
            WorkerId(self.name), self.broker, RedisWorkerRegistry(self.client, KEYS, lease_ms=round(LEASE_S * 1000)),
            self._make, WorkerMetrics(self.metrics), partitions=PARTITIONS, heartbeat_s=0.2, lease_s=LEASE_S,
            on_other_owner=self.recent.note_other_owner,
        )  # fmt: skip

    def _make(self, partition: Partition) -> PartitionRunner:
        return PartitionRunner(
            partition, self.store, outgoing_of(self.broker, self.client), LIMITS, WorkerMetrics(self.metrics),
            parking_lot=Parking(self.broker), recent=self.recent.of(partition),
        )  # fmt: skip

    async def attach(self, number: int) -> None:
        await publish(self.broker, number, AttachUserData((("n", number),)))

    async def attached(self, *numbers: int) -> None:
        """Wait until these are on the call, and everybody was told."""
        await until_attached(self.client, numbers)

        async def told() -> bool:
            return len(await versions_told(self.client)) > len(numbers) and await self.all_sent()

        await eventually(told)

    async def all_sent(self) -> bool:
        return bool(await library(self.client).llen(KEYS.outbox(HERE)) == 0)

    async def without_two(self) -> Snapshot:
        """The call begins and gets two values; what the store held when it had the first one only."""
        await begin(self.broker)
        await self.attach(1)
        await self.attached(1)
        before = await snapshot(self.client)
        await self.attach(2)
        await self.attached(1, 2)
        return before


async def heartbeats(worker: Worker, count: int) -> None:
    """Wait for so many heartbeats of the worker."""
    for _ in range(count):
        last_s = worker.assignments._renewed_at_s
        await eventually(lambda last_s=last_s: worker.assignments._renewed_at_s != last_s)  # type: ignore[misc]


@pytest.fixture
async def worker(request: pytest.FixtureRequest) -> AsyncIterator[Worker]:
    async with embedded_store(None, deadline_s=20) as embedded:
        client = MayBeAway(embedded.client)
        made, stop = Worker(client, getattr(request, "param", RecentLimits())), asyncio.Event()
        running = asyncio.create_task(made.assignments.run(stop))
        yield made
        stop.set()
        await running


async def test_nothing_new_is_written_onto_what_is_missing(worker: Worker) -> None:
    await put_back(worker.client, await worker.without_two())
    await worker.attach(3)
    await worker.attached(1, 2, 3)
    await eventually(lambda: counted(worker.metrics, "operations_reapplied") == 1)
    assert counted(worker.metrics, "commits_unrecoverable") == 0


async def test_what_was_only_recognised_is_at_hand_too(worker: Worker) -> None:
    await begin(worker.broker)
    await worker.attach(1)
    await worker.attached(1)
    before = await snapshot(worker.client)
    worker.store.faults = iter([StoreUnavailable])
    await worker.attach(2)
    await worker.attached(1, 2)
    await worker.attach(3)
    await worker.attached(1, 2, 3)
    await put_back(worker.client, before)
    await worker.attached(1, 2, 3)
    await eventually(lambda: counted(worker.metrics, "operations_reapplied") == 2)
    assert counted(worker.metrics, "commits_unrecoverable") == 0


async def test_a_loss_is_seen_though_nothing_comes_after_an_interruption(worker: Worker) -> None:
    before = await worker.without_two()
    worker.client.away.append("away")
    await eventually(lambda: not worker.assignments.partitions)
    worker.client.away.clear()
    await put_back(worker.client, before)
    await worker.attached(1, 2)
    await eventually(lambda: counted(worker.metrics, "commits_lost") == 1)


async def test_a_recovery_that_is_interrupted_tells_of_the_loss_the_next_time(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await worker.without_two()
    note_loss, interrupted = RedisCallStore.note_loss, asyncio.Event()

    async def interrupt(*_: object) -> None:
        interrupted.set()
        raise StoreUnavailable("away")

    monkeypatch.setattr(RedisCallStore, "note_loss", interrupt)
    await put_back(worker.client, before)
    await interrupted.wait()
    worker.client.away.append("away")
    await eventually(lambda: not worker.assignments.partitions)
    monkeypatch.setattr(RedisCallStore, "note_loss", note_loss)
    worker.client.away.clear()
    await eventually(lambda: counted(worker.metrics, "commits_lost") == 1)
    await worker.attached(1, 2)


@pytest.mark.parametrize("worker", [RecentLimits(operations=1)], indirect=True)
async def test_a_version_that_was_told_after_a_loss_is_not_told_again_after_the_next_one(worker: Worker) -> None:
    """Only the last operation is at hand: the call is one version behind when that was applied again."""

    async def last_told_is(version: int) -> bool:
        return (await versions_told(worker.client))[-1:] == [version] and await worker.all_sent()

    before = await worker.without_two()
    await worker.attach(3)
    await worker.attached(1, 2, 3)
    await eventually(lambda: last_told_is(4))
    for version in (5, 6, 7):
        await put_back(worker.client, before)
        await until_attached(worker.client, (1, 3))
        await eventually(lambda version=version: last_told_is(version))  # type: ignore[misc]


async def test_a_list_that_lost_a_call_gets_it_back_with_a_later_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """No commit is lost with it: the list may be on another server, or was written later."""
    monkeypatch.setattr("calltag.worker.event_publisher._LISTS_FRESH_S", 0.0)
    async with embedded_store(None) as embedded:
        made, stop = Worker(MayBeAway(embedded.client)), asyncio.Event()
        running = asyncio.create_task(made.assignments.run(stop))
        await made.without_two()
        await library(made.client).delete(KEYS.calls_of(ALICE))
        await made.attach(3)
        await made.attached(1, 2, 3)
        assert await library(made.client).smembers(KEYS.calls_of(ALICE)) == {CALL.encode()}
        stop.set()
        await running


class Interrupted(Unreliable):
    """Its first take-over takes place, and the worker is kept from what follows: it has to take over once more."""

    interruption: type[Exception] | None = None

    async def take_over(
        self, partition: Partition, after: Epoch = NEVER, published: Published | None = None
    ) -> TakeOver:
        taken = await super().take_over(partition, after, published)
        interruption, self.interruption = self.interruption, None
        if interruption is not None:
            raise interruption("the answer was lost")
        return taken


@pytest.mark.parametrize("interruption", [None, StoreUnavailable, BrokerInterrupted])
async def test_what_a_worker_has_committed_that_died_with_the_store_is_told_by_the_next_owner(
    interruption: type[Exception] | None,
) -> None:
    """It cannot be applied again: nobody else had it. The next owner has heard how far the dead one was."""
    async with embedded_store(None, deadline_s=20) as embedded:
        client = MayBeAway(embedded.client)
        dead = Worker(client)
        heir, stop = Worker(client, broker=dead.broker, name="x"), asyncio.Event()
        heir.store = store = Interrupted(client, KEYS)
        running = asyncio.create_task(dead.assignments.run(asyncio.Event()))
        before = await dead.without_two()
        inheriting = asyncio.create_task(heir.assignments.run(stop))
        told = dead.recent.of(HERE)
        await eventually(lambda: heir.recent.of(HERE).reported == (told.epoch, told.position))
        assert HERE not in heir.assignments.partitions
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await put_back(client, before)
        store.interruption = interruption
        await heir.attach(3)
        await heir.attached(1, 3)
        assert store.interruption is None
        assert counted(heir.metrics, "commits_lost") == counted(heir.metrics, "commits_unrecoverable") == 1
        losses = await library(client).hgetall(KEYS.losses(HERE))
        assert (losses[b"commits"], losses[b"lost_for_good"]) == (b"1", b"1")
        stop.set()
        await inheriting


async def test_what_comes_again_from_the_queue_is_not_told_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead owner had committed it, and acknowledged nothing yet."""
    async with embedded_store(None) as embedded:
        client = MayBeAway(embedded.client)
        dead = Worker(client)
        heir, stop = Worker(client, broker=dead.broker, name="x"), asyncio.Event()
        running = asyncio.create_task(dead.assignments.run(asyncio.Event()))
        await begin(dead.broker)
        await dead.attach(1)
        await dead.attached(1)
        inheriting = asyncio.create_task(heir.assignments.run(stop))
        committed = dead.recent.of(HERE).position
        await eventually(lambda: heir.recent.of(HERE).reported[1] == committed)
        before = await snapshot(client)

        async def hang(*_: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(dead.store, "wait_for_replicas", hang)
        await dead.attach(2)
        await until_attached(client, (1, 2))
        for worker in (dead, heir):
            # The first may have begun before.
            await heartbeats(worker, 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await put_back(client, before)
        await heir.attached(1, 2)
        assert counted(heir.metrics, "commits_lost") == counted(heir.metrics, "commits_unrecoverable") == 0
        stop.set()
        await inheriting


async def test_an_owner_s_epoch_is_higher_than_any_that_another_one_told_of(worker: Worker) -> None:
    """The store may have lost that take-over."""
    theirs = Epoch(1 << 40)
    worker.recent.of(HERE).reported = (theirs, CommitPosition(0))
    await begin(worker.broker)
    await eventually(lambda: worker.recent.of(HERE).epoch > theirs)


async def test_a_call_that_cannot_be_set_right_holds_up_no_other(worker: Worker) -> None:
    """What the store has lost of it is gone, and told."""
    await put_back(worker.client, await worker.without_two())
    await library(worker.client).set(KEYS.state(HERE, f"call:{CALL}").order, "no list")
    other = next(each for each in map(CallId, map(str, range(100))) if partition_of(each, PARTITIONS) == HERE)
    leg = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), ALICE)
    operation = CallOperation(OperationId("x"), other, CallStarted(ConnId("c"), CallType.INBOUND, "", (leg,)), 1, ALICE)
    await worker.broker.publish_operation(HERE, OPERATION.encode(OperationMessage(operation=operation)), operation.id)
    reader = RedisCallReader(worker.client, KEYS, PARTITIONS)

    async def is_there() -> bool:
        return await reader.call(other) is not None

    await eventually(is_there)
    await eventually(lambda: counted(worker.metrics, "commits_unrecoverable") == 1)
