"""Which partitions this worker works on, from moment to moment.

Every worker keeps a lease in the registry, sees who else does, and works on the partitions that fall to it. A worker
that is new takes its share; one that is gone is missed within a lease.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from calltag.core.bus.ports import Bus, BusError, Partition
from calltag.core.runtime.backoff import backoff_s
from calltag.core.runtime.waiting import set_within
from calltag.core.store.ports import Fenced, StoreUnavailable, WorkerId, WorkerRegistry
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.partition_worker import PartitionWorker
from calltag.worker.rendezvous import owned_by

log = structlog.get_logger()


@dataclass(slots=True)
class _Assignment:
    task: asyncio.Task[None]
    released: asyncio.Event = field(default_factory=asyncio.Event)


class Assignments:
    """Keeps one task running for each partition that falls to this worker."""

    def __init__(
        self,
        worker: WorkerId,
        bus: Bus,
        registry: WorkerRegistry,
        make: Callable[[Partition], PartitionWorker],
        metrics: WorkerMetrics,
        *,
        partitions: int,
        prefetch: int = 200,
        heartbeat_s: float = 2.0,
    ) -> None:
        self._worker = worker
        self._bus = bus
        self._registry = registry
        self._make = make
        self._metrics = metrics
        self._partitions = partitions
        self._prefetch = prefetch
        self._heartbeat_s = heartbeat_s
        self._held: dict[Partition, _Assignment] = {}
        self._consumed: set[Partition] = set()
        self._registered = False

    @property
    def partitions(self) -> frozenset[Partition]:
        """The partitions worked on now."""
        return frozenset(self._held)

    def all_consumed(self) -> bool:
        """Whether every partition that falls to this worker has its consumer (for readiness)."""
        return self._registered and self.partitions <= self._consumed

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish what is in hand and give the partitions back."""
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                await self._adjust(group)
                await set_within(stop, self._heartbeat_s)
            await self._leave()
            for partition in list(self._held):
                self._release(partition)

    async def _adjust(self, group: asyncio.TaskGroup) -> None:
        try:
            workers = await self._registry.renew(self._worker)
        except StoreUnavailable as error:
            # Nobody can commit while the store is away: to keep what one has does no harm.
            log.warning("lease_not_renewed", reason=str(error))
            return
        self._registered = True
        mine = owned_by(self._worker, workers, self._partitions)
        if mine != self.partitions:
            log.info("partitions_assigned", partitions=sorted(mine), workers=len(workers))
        for partition in self.partitions - mine:
            self._release(partition)
        for partition in mine - self.partitions:
            released = asyncio.Event()
            task = group.create_task(self._work(partition, released), name=f"partition-{partition}")
            self._held[partition] = _Assignment(task, released)
        self._metrics.owned(len(self._held))

    def _release(self, partition: Partition) -> None:
        assignment = self._held.pop(partition)
        assignment.released.set()

    async def _leave(self) -> None:
        try:
            await self._registry.leave(self._worker)
        except StoreUnavailable as error:
            log.warning("lease_not_given_back", reason=str(error))

    async def _work(self, partition: Partition, released: asyncio.Event) -> None:
        """Consume the partition again and again until it is released. All log lines of this task name it."""
        structlog.contextvars.bind_contextvars(partition=partition)
        delays = backoff_s(0.05, 2.0)
        while not released.is_set():
            try:
                await self._consume(partition, released)
            except Fenced as error:
                self._metrics.fenced()
                log.info("partition_fenced", reason=str(error))
            except BusError as error:
                log.warning("partition_interrupted", reason=str(error))
            except Exception:
                # One partition must not take the others along; what is in hand is delivered again.
                self._metrics.failed()
                log.exception("partition_failed")
            else:
                return
            await set_within(released, next(delays))

    async def _consume(self, partition: Partition, released: asyncio.Event) -> None:
        async with self._bus.partition(partition, self._prefetch) as consumer:
            self._consumed.add(partition)
            try:
                await self._make(partition).run(consumer, released)
            finally:
                self._consumed.discard(partition)
