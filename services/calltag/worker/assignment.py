"""Assignment of partitions: each worker renews a lease in the registry, and works on its share of the partitions.

A new worker takes its share; a crashed one is noticed when its lease lapses. A partition that stays here keeps its task
and consumer.

A worker consumes a new partition at once, also while the former owner still does: the queue has a single active
consumer, and the broker activates the next one when the former cancels.

A worker that cannot consume anything while others can leaves the registry, and joins again when it can."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Final

import structlog

from calltag.core.broker.ports import Broker, BrokerError, Partition, PartitionConsumer
from calltag.core.process.waiting import backoff_s, run_until, set_within
from calltag.core.store.ports import Fenced, HeldPartition, StoreUnavailable, WorkerId, WorkerRegistry
from calltag.core.telemetry.conditions import Condition
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.partition_runner import PartitionRunner

log = structlog.get_logger()
_NOT_YET: Final = Condition("broker_not_connected", level="info")
_NOT_RENEWED: Final = Condition("lease_not_renewed", over="lease_renewed")
_UNSEEN: Final = Condition("registry_read_failed", over="registry_read_again")
_INTERRUPTED: Final = Condition("partition_interrupted", over="partitions_consumed")


def owned_by(worker: WorkerId, workers: Sequence[WorkerId], partitions: int) -> frozenset[Partition]:
    """Return the partitions of a worker; `workers` are in the order of their places.

    The numbers of partitions of any two workers differ by at most one.
    """
    if worker not in workers:
        return frozenset()
    place = workers.index(worker)
    return frozenset(
        Partition(partition) for partition, at in enumerate(places(len(workers), partitions)) if at == place
    )


@lru_cache(maxsize=64)
def places(workers: int, partitions: int) -> Sequence[int]:
    """Return the place of the owner of each partition, for that number of workers.

    Workers join one after another; each takes, from those with the most partitions, those of highest weight for it.
    """
    owners = [0] * partitions
    for newcomer in range(1, min(workers, partitions)):
        _share_with(newcomer, owners)
    return tuple(owners)


def _share_with(newcomer: int, owners: list[int]) -> None:
    """Give the newcomer its share of the partitions; the load of the earlier workers is even, and stays so."""
    counts = [0] * newcomer
    for place in owners:
        counts[place] += 1
    wanted = len(owners) // (newcomer + 1)
    ranked = sorted(range(len(owners)), key=lambda partition: _weight(partition, newcomer), reverse=True)
    while wanted:
        most = max(counts)
        for partition in ranked:
            place = owners[partition]
            if wanted and place != newcomer and counts[place] == most:
                counts[place] -= 1
                owners[partition] = newcomer
                wanted -= 1


def _weight(partition: int, place: int) -> bytes:
    return sha256(f"{partition}:{place}".encode()).digest()


@dataclass(slots=True)
class BrokerReach:
    """The broker connectivity of one worker; after `patience_s` without any consumer it leaves."""

    worker: WorkerId
    broker: Broker
    registry: WorkerRegistry
    patience_s: float
    clock_s: Callable[[], float] = time.monotonic
    _nothing_since_s: float | None = None
    _given_up: deque[Partition] = field(default_factory=deque)

    @property
    def lost(self) -> bool:
        """Whether the worker has left because it could not consume."""
        return bool(self._given_up)

    async def is_lost(self, assigned: Collection[Partition], missing: Collection[Partition]) -> bool:
        """Return whether to leave the assigned partitions to other workers, which consume; `missing` are those without
        a consumer here. Called with every heartbeat. Raises StoreUnavailable.
        """
        if not assigned or len(missing) < len(assigned):
            self._nothing_since_s = None
            return False
        now_s = self.clock_s()
        if self._nothing_since_s is None:
            self._nothing_since_s = now_s
        return now_s - self._nothing_since_s > self.patience_s and await self._others_consume()

    def give_up(self, partitions: Collection[Partition]) -> None:
        """Note that the worker has left its partitions."""
        self._nothing_since_s = None
        self._given_up.extend(sorted(partitions))

    async def is_back(self) -> bool:
        """Return whether to join again: one of the partitions can be consumed, or no other worker consumes.

        Raises StoreUnavailable.
        """
        if await self._consumes(self._given_up[0]) or not await self._others_consume():
            self._given_up.clear()
            return True
        self._given_up.rotate(-1)
        return False

    async def _consumes(self, partition: Partition) -> bool:
        try:
            # A consumer behind the active one gets no deliveries; any that it gets are requeued.
            async with self.broker.partition(partition, 1):
                return True
        except Exception as error:  # noqa: BLE001 - nothing could be consumed
            _NOT_YET.fails(error, partition=partition)
            return False

    async def _others_consume(self) -> bool:
        return any(each.held for each in await self.registry.living() if each.worker != self.worker)


@dataclass(slots=True, eq=False)
class _Assignment:
    """A partition assigned to this worker; `task` works on it, through `consumer` while there is one."""

    partition: Partition
    released: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    consumer: PartitionConsumer | None = None
    work: PartitionRunner | None = None

    def as_held(self) -> HeldPartition | None:
        if self.consumer is None or self.work is None:
            return None
        work = self.work
        return HeldPartition(
            self.partition, work.epoch, self.consumer.unacknowledged(), work.oldest_at_ms, work.position
        )


class Assignments:
    """Keeps one task running for each partition assigned to this worker.

    A lease not renewed for `lease_s` is lost, and other workers take its partitions. `on_other_owner` is called with
    the reports of other workers about their partitions, `finish` at the end.
    """

    def __init__(
        self,
        worker: WorkerId,
        broker: Broker,
        registry: WorkerRegistry,
        make: Callable[[Partition], PartitionRunner],
        metrics: WorkerMetrics,
        *,
        partitions: int,
        prefetch: int = 200,
        heartbeat_s: float = 1.0,
        lease_s: float = 6.0,
        on_other_owner: Callable[[HeldPartition], None] = lambda _: None,
        finish: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.worker = worker
        self._broker = broker
        self._registry = registry
        self._make = make
        self._metrics = metrics
        self._partitions = partitions
        self._prefetch = prefetch
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s
        self._on_other_owner = on_other_owner
        self._finish = finish
        self._reach = BrokerReach(worker, broker, registry, lease_s)
        self._held: dict[Partition, _Assignment] = {}
        self._leaving: set[_Assignment] = set()
        self._others = False
        self._renewed_at_s: float | None = None

    @property
    def partitions(self) -> frozenset[Partition]:
        """The partitions assigned to this worker."""
        return frozenset(self._held)

    def missing(self) -> Sequence[Partition]:
        """The assigned partitions without a consumer."""
        return sorted(each.partition for each in self._held.values() if each.consumer is None)

    def held(self) -> Sequence[HeldPartition]:
        """The consumed partitions, including those being released."""
        as_held = (each.as_held() for each in (*self._held.values(), *self._leaving))
        return sorted((each for each in as_held if each is not None), key=lambda each: each.partition)

    def all_consumed(self) -> bool:
        """Whether every assigned partition has its consumer (for readiness)."""
        return self._renewed_at_s is not None and not self.missing()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish the current batches and release the partitions."""
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                if await run_until(stop, self._is_of_use()):
                    await self._adjust(group)
                await set_within(stop, self._heartbeat_s)
            await self._leave()
            for partition in self.partitions:
                self._release(partition)
        if self._finish is not None:
            await self._finish()

    async def _is_of_use(self) -> bool:
        """Return whether to be in the registry: not while only this worker cannot reach the broker."""
        try:
            if self._reach.lost:
                return await self._reach.is_back()
            if not await self._reach.is_lost(self.partitions, self.missing()):
                return True
            await self._registry.leave(self.worker)
        except StoreUnavailable as error:
            # Without Redis the lease lapses.
            _UNSEEN.fails(error)
            return not self._reach.lost
        log.error(
            "broker_unreachable",
            partitions=sorted(self.partitions),
            reason="other workers take them over",
        )
        self._renewed_at_s = None
        self._reach.give_up(self.partitions)
        for partition in self.partitions:
            self._release(partition)
        self._metrics.partitions_owned.set(0)
        return False

    async def _adjust(self, group: asyncio.TaskGroup) -> None:
        began_s = time.monotonic()
        try:
            workers = await self._registry.renew(self.worker, self.held())
        except StoreUnavailable as error:
            _NOT_RENEWED.fails(error)
            self._withdraw_lease()
            return
        _NOT_RENEWED.holds()
        self._renewed_at_s = began_s
        self._others = len(workers) > 1
        # Before a take-over from a worker that has reported.
        await self._listen()
        mine = owned_by(self.worker, workers, self._partitions)
        if mine != self.partitions:
            log.info("partitions_assigned", partitions=sorted(mine), workers=len(workers))
        for partition in self.partitions - mine:
            self._release(partition)
        for partition in mine - self.partitions:
            self._held[partition] = self._started(group, _Assignment(partition))
        self._metrics.partitions_owned.set(len(self._held))

    async def _listen(self) -> None:
        try:
            living = await self._registry.living() if self._others else ()
        except StoreUnavailable as error:
            _UNSEEN.fails(error)
            return
        _UNSEEN.holds()
        for each in living:
            if each.worker != self.worker:
                for held in each.held:
                    self._on_other_owner(held)

    def _started(self, group: asyncio.TaskGroup, assignment: _Assignment) -> _Assignment:
        assignment.task = group.create_task(self._work(assignment), name=f"partition-{assignment.partition}")
        assignment.task.add_done_callback(lambda _: self._leaving.discard(assignment))
        return assignment

    def _withdraw_lease(self) -> None:
        """Release all partitions if the lease has lapsed; current batches cannot be finished without Redis."""
        if self._renewed_at_s is None or time.monotonic() - self._renewed_at_s < self._lease_s:
            return
        self._renewed_at_s = None
        log.error("lease_lost", partitions=sorted(self.partitions))
        for partition in self.partitions:
            task = self._held[partition].task
            self._release(partition)
            if task is not None:
                task.cancel()
        self._metrics.partitions_owned.set(0)

    def _release(self, partition: Partition) -> None:
        assignment = self._held.pop(partition)
        self._leaving.add(assignment)
        assignment.released.set()

    async def _leave(self) -> None:
        """Leave the registry, and work on until the others consume: so each partition pauses for a moment only."""
        try:
            await self._registry.leave(self.worker)
        except StoreUnavailable as error:
            log.warning("lease_release_failed", reason=str(error))
            return
        if self._others:
            await asyncio.sleep(self._heartbeat_s)

    async def _work(self, assignment: _Assignment) -> None:
        """Consume the partition until it is released, again after each interruption."""
        structlog.contextvars.bind_contextvars(partition=assignment.partition)
        delays = backoff_s(0.05, 2.0)
        released = assignment.released
        while not released.is_set():
            try:
                await self._consume(assignment)
            except Fenced as error:
                self._metrics.partitions_fenced.inc()
                log.info("partition_fenced", reason=str(error))
            except BrokerError as error:
                _INTERRUPTED.fails(error, assignment.partition)
            except Exception:
                # A failure of one partition does not affect others; its batch is redelivered.
                self._metrics.partitions_failed.inc()
                log.exception("partition_failed")
            else:
                break
            await set_within(released, next(delays))
        _INTERRUPTED.forget(assignment.partition)

    async def _consume(self, assignment: _Assignment) -> None:
        async with self._broker.partition(assignment.partition, self._prefetch) as consumer:
            _INTERRUPTED.holds(assignment.partition)
            assignment.consumer, assignment.work = consumer, self._make(assignment.partition)
            try:
                await assignment.work.run(consumer, assignment.released)
            finally:
                assignment.consumer = assignment.work = None
