"""The loop of one partition in a worker: take a batch, commit it, publish its events, acknowledge it.

An operation that fails waits unacknowledged in the retry queue of its call, with all later operations of the same
call; other calls go on. An operation that fails for too long is parked.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import structlog

from calltag.core.broker.ports import BrokerError, Delivery, Partition, PartitionConsumer
from calltag.core.contracts.operations import OPERATION, OperationMessage, WireError
from calltag.core.domain.ids import OperationId
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.status import StatusCode
from calltag.core.process.waiting import restart_forever, run_until
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.ports import CallStore, CommitPosition, Epoch, StoreUnavailable
from calltag.core.telemetry.conditions import Condition
from calltag.worker.batch import Failure, Folded, ParkingReason
from calltag.worker.crash_guard import CrashGuard
from calltag.worker.event_publisher import EventPublisher
from calltag.worker.expiry import Sweep
from calltag.worker.loss_recovery import RecentOperations
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.parking import Parking, refuse
from calltag.worker.partition_owner import BatchFailed, PartitionOwner
from calltag.worker.reports import Lag
from calltag.worker.retry_queues import RetryQueue, RetryQueues, Work

log = structlog.get_logger()
_NOT_PARKED: Final = Condition("park_failed")
_LOOK_S: Final = 1.0
_SUSPICIOUS: Final = 2
"""Redeliveries from which on an operation is a possible poison message, and is applied alone."""


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """When an operation is parked: after it failed for so many seconds, or crashed so many workers."""

    park_after_s: float = 30.0
    max_crashes: int = 3


class PartitionRunner:
    """Applies the operations of one partition while `run` runs."""

    def __init__(
        self,
        partition: Partition,
        store: CallStore,
        publisher: EventPublisher,
        limits: CallLimits,
        metrics: WorkerMetrics,
        *,
        parking_lot: Parking,
        batch_limit: int = 100,
        retry_limits: RetryLimits = RetryLimits(),
        lag: Lag | None = None,
        sweep: Sweep | None = None,
        recent: RecentOperations | None = None,
        window: ByteWindow | None = None,
        call_cache_bytes: int = 524_288,
    ) -> None:
        self._partition = partition
        self._store = store
        self._parking_lot = parking_lot
        self._metrics = metrics
        self._batch_limit = batch_limit
        self._retry_limits = retry_limits
        self._queues = RetryQueues(retry_limits.park_after_s)
        self._acknowledgeable: list[int] = []
        self._crash_guard = CrashGuard(partition, store)
        self._lag = lag or Lag(lambda: 0)
        self._sweep = sweep
        kept = RecentOperations() if recent is None else recent
        sending = ByteWindow() if window is None else window
        self._max_batch_bytes = sending.max_batch_bytes
        self._owner = PartitionOwner(
            partition,
            store,
            publisher,
            limits,
            metrics,
            recent=kept,
            batch_limit=batch_limit,
            window=sending,
            call_cache_bytes=call_cache_bytes,
            on_wait=self._restart_timers,
        )

    @property
    def epoch(self) -> Epoch | None:
        """The epoch of the ownership; None before the first delivery and while the ownership is uncertain."""
        return self._owner.epoch

    @property
    def position(self) -> CommitPosition:
        """The position of the last commit whose operations are all acknowledged."""
        return self._owner.position

    @property
    def oldest_at_ms(self) -> int | None:
        """When the oldest unfinished operation was accepted; those in the queue are younger."""
        waiting = self._queues.oldest_at_ms()
        return min((at for at in (self._lag.oldest_in_progress_ms, waiting) if at is not None), default=None)

    async def run(self, consumer: PartitionConsumer, released: asyncio.Event) -> None:
        """Work until `released` is set and the current batch is finished. Raises BrokerInterrupted, Fenced."""
        async with self._watching(released) as wake:
            try:
                while not released.is_set():
                    deliveries = await run_until(
                        wake, consumer.batch(self._batch_limit, self._max_batch_bytes), within_s=self._due_in_s()
                    )
                    if wake.is_set() and not released.is_set():
                        wake.clear()
                        self._owner.doubt()
                        await self._owner.ensure_owned()
                    await self._take(deliveries or (), consumer)
                    for queue in self._queues.due(time.monotonic()):
                        await self._tend(queue, consumer)
                    await self._acknowledge(consumer)
                    # After a release the next owner sweeps.
                    if self._sweep is not None and not self._sweep.due_in_s() and not released.is_set():
                        await self._end(self._sweep)
                    if released.is_set() or self._owner.trim_due_in_s() == 0:
                        await self._trim()
                    self._metrics.operations_blocked.labels(self._partition).set(len(self._queues))
            finally:
                self._metrics.released(self._partition)
                await self._crash_guard.abandon()

    @asynccontextmanager
    async def _watching(self, released: asyncio.Event) -> AsyncIterator[asyncio.Event]:
        """Yield an event that is set when the partition is released, and when Redis has lost commits."""
        wake = asyncio.Event()

        async def look() -> None:
            while True:
                # All partitions look at the same moment, so that they share one exchange with Redis.
                await asyncio.sleep(_LOOK_S - time.monotonic() % _LOOK_S)
                if await self._owner.has_lost():
                    wake.set()

        async def end() -> None:
            await released.wait()
            wake.set()

        name = f"partition-{self._partition}-watch"
        # A release does not wait for Redis, nor for an error of the watch.
        watching = [asyncio.create_task(each, name=name) for each in (end(), restart_forever(look, name))]
        try:
            yield wake
        finally:
            for each in watching:
                each.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _trim(self) -> None:
        """Empty the outbox of published events; the next owner would publish them again, without effect."""
        try:
            await self._owner.trim()
        except StoreUnavailable as error:
            log.info("outbox_trim_failed", partition=self._partition, reason=str(error))

    def _due_in_s(self) -> float | None:
        """Return the seconds until the next retry, sweep or trim; None if there is none."""
        swept = self._sweep.due_in_s() if self._sweep is not None else None
        retried = self._queues.next_due_s(time.monotonic())
        dues = (swept, retried, self._owner.trim_due_in_s())
        return min((due for due in dues if due is not None), default=None)

    def _restart_timers(self) -> None:
        self._queues.restart_timers(time.monotonic())

    async def _take(self, deliveries: Sequence[Delivery], consumer: PartitionConsumer) -> None:
        works = [self._read(each) for each in deliveries]
        accepted = [work.message.operation.accepted_at_ms for work in works if work.message is not None]
        if accepted:
            self._lag.took(min(accepted))
        try:
            await self._work(works, consumer)
        finally:
            self._lag.finished()

    async def _end(self, sweep: Sweep) -> None:
        """End silent calls by operations like any other; those that fail are left to the next sweep."""
        silent = await sweep.operations(owned=self._owner.epoch is not None)
        messages = [each for each in silent if not self._queues.has(each.operation.order_key)]
        ended = await self._ended(messages)
        if ended:
            self._metrics.silent_calls_ended.inc(ended)
        sweep.ended(ended)

    async def _ended(self, messages: Sequence[OperationMessage]) -> int:
        """Return the number of calls that were ended. If the batch fails as a whole, each call is tried alone."""
        ended = 0
        while messages:
            try:
                folded = await self._owner.process(messages)
            except BatchFailed as failed:
                if len(messages) == 1:
                    log.warning("silent_call_end_failed", key=messages[0].operation.key, detail=failed.fault.detail)
                    return ended
                return ended + sum([await self._ended([each]) for each in messages])
            for key, fault in folded.faults.items():
                log.warning("silent_call_end_failed", key=key, detail=fault.detail)
            ended += sum(each.done.code is StatusCode.SUCCESS for each in folded.applied)
            messages = messages[folded.taken :]
        return ended

    async def _acknowledge(self, consumer: PartitionConsumer) -> None:
        if self._acknowledgeable:
            await consumer.ack(self._acknowledgeable)
            self._acknowledgeable = []
        self._owner.acknowledged()

    async def _work(self, works: Sequence[Work], consumer: PartitionConsumer) -> None:
        """Apply operations in order; those that fail, and later ones of the same call, enter retry queues."""
        batch: list[Work] = []
        for suspects, together in groupby(works, _suspects):
            if suspects:
                await self._apply(batch)
                batch = []
                await self._suspected(suspects, list(together), consumer)
                continue
            for work in together:
                if self._queues.enqueue(work):
                    continue
                if work.problem is not None:
                    self._queues.open([work], work.problem, time.monotonic(), ParkingReason.UNREADABLE)
                else:
                    batch.append(work)
        await self._apply(batch)

    async def _suspected(self, name: str, works: Sequence[Work], consumer: PartitionConsumer) -> None:
        """Apply the operations of a message that may have crashed workers.

        A worker that stops in order returns its prefetched messages as well: so they are applied together, and one by
        one only where a worker has crashed on the message.
        """
        if len(works) == 1:
            await self._singly(works, consumer)
            return
        await self._acknowledge(consumer)
        epoch = await self._owner.ensure_owned()
        if await self._owner.retry(lambda: self._crash_guard.begin(epoch, name)) == 1:
            await self._apply([work for work in works if not self._queues.enqueue(work)])
            await self._acknowledge(consumer)
        else:
            await self._singly(works, consumer)
        # An operation that waits may still crash a worker when it is retried.
        if not self._queues.has_part_of(works[0].delivery.together):
            await self._owner.retry(lambda: self._crash_guard.end(name))

    async def _singly(self, works: Sequence[Work], consumer: PartitionConsumer) -> None:
        for work in works:
            if not self._queues.enqueue(work):
                await self._alone(work, consumer)

    async def _alone(self, work: Work, consumer: PartitionConsumer) -> None:
        """Apply a possible poison message alone, so that a crash counts for no other operation."""
        # Earlier operations are acknowledged first, so that a crash does not redeliver them.
        await self._acknowledge(consumer)
        epoch, name = await self._owner.ensure_owned(), work.name
        tries = await self._owner.retry(lambda: self._crash_guard.begin(epoch, name))
        if tries > self._retry_limits.max_crashes and not await self._is_done(work):
            fault = Failure(f"{self._retry_limits.max_crashes} workers crashed on it, one after another")
            self._queues.open([work], fault, time.monotonic(), ParkingReason.CRASH)
            return
        await self._apply([work])
        await self._acknowledge(consumer)
        if not self._queues.has(work.key):
            await self._owner.retry(lambda: self._crash_guard.end(name))

    async def _is_done(self, work: Work) -> bool:
        """Return whether it took effect before the crash: then it is recognised as done instead of refused."""
        if work.message is None:
            return False
        operation = work.message.operation
        return await self._owner.retry(
            lambda: self._store.is_done(self._partition, operation.key, operation.id)
        )  # fmt: skip

    async def _apply(self, works: Sequence[Work]) -> None:
        """Apply operations in batches. A batch that fails as a whole is applied one by one, so that only the calls that
        fail wait."""
        while works:
            try:
                folded = await self._owner.process(_messages(works))
            except BatchFailed as failed:
                if len(works) == 1:
                    self._open(works[0], failed.fault)
                    return
                for work in works:
                    if not self._queues.enqueue(work):
                        await self._apply([work])
                return
            self._account(works[: folded.taken], folded)
            works = [work for work in works[folded.taken :] if not self._queues.enqueue(work)]

    def _account(self, works: Sequence[Work], folded: Folded) -> None:
        held, behind = set(folded.held), dict(folded.behind)
        for place, work in enumerate(works):
            if place in behind:
                if not self._queues.enqueue(work):
                    self._queues.open([work], _fault_behind(behind[place]), time.monotonic(), ParkingReason.BEHIND)
            elif place not in held:
                self._acknowledgeable.append(work.delivery.tag)
            elif not self._queues.enqueue(work):
                self._open(work, folded.faults[work.key])

    def _open(self, work: Work, fault: Failure) -> None:
        _log_failed(work, fault, 1)
        self._queues.open([work], fault, time.monotonic())

    async def _tend(self, queue: RetryQueue, consumer: PartitionConsumer) -> None:
        """Retry the first operation of a queue, or park it; once it is out of the way, apply those behind it."""
        if queue.parking is None:
            await self._retry(queue)
        if queue.parking is not None and not await self._park(queue, queue.parking):
            self._queues.postpone(queue, time.monotonic())
        if queue.is_unblocked:
            await self._work(self._queues.close(queue), consumer)

    async def _retry(self, queue: RetryQueue) -> None:
        self._metrics.operations_retried.inc()
        try:
            folded = await self._owner.process(_messages([queue.first]))
            faults = list(folded.faults.values())
        except BatchFailed as failed:
            faults = [failed.fault]
        if faults:
            self._queues.failed(queue, faults[0], time.monotonic())
            _log_failed(queue.first, queue.fault, queue.attempts)
        else:
            await self._pass(queue)

    async def _park(self, queue: RetryQueue, reason: ParkingReason) -> bool:
        """Block the call, notify the sender, park the operation. False if only the parking failed."""
        work = queue.first
        if not queue.sender_notified:
            refusal = refuse(work, queue)
            if not await self._owner.record(refusal.folded, refusal.blocks):
                return False
            queue.notified()
        try:
            await self._parking_lot.park(self._partition, work, queue)
        except BrokerError as error:
            _NOT_PARKED.fails(error, operation_id=work.name)
            return False
        self._metrics.operations_parked.labels(reason.value).inc()
        log.error(
            "operation_parked", operation_id=work.name, key=queue.key, reason=reason.value,
            detail=queue.fault.detail, attempts=queue.attempts,
        )  # fmt: skip
        await self._pass(queue)
        return True

    async def _pass(self, queue: RetryQueue) -> None:
        """Remove the first operation of a queue."""
        work = queue.first
        if work.delivery.returned >= _SUSPICIOUS:
            await self._owner.retry(lambda: self._crash_guard.end(work.name))
        self._acknowledgeable.append(queue.take_first().delivery.tag)

    def _read(self, delivery: Delivery) -> Work:
        seen_ms = time.time_ns() // 1_000_000
        try:
            return Work(delivery, OPERATION.decode(delivery.body), seen_ms)
        except WireError as error:
            self._metrics.operations_malformed.inc()
            log.error("operation_unreadable", message_id=delivery.message_id, reason=str(error))
            return Work(delivery, None, seen_ms, Failure(str(error), "WireError"))


def _suspects(work: Work) -> str:
    """Return the name of the possible poison message that the operation came in, "" for none."""
    if work.problem is not None or work.delivery.returned < _SUSPICIOUS:
        return ""
    return f"message:{work.delivery.together or work.delivery.tag}"


def _messages(works: Sequence[Work]) -> list[OperationMessage]:
    return [work.message for work in works if work.message is not None]


def _fault_behind(operation_id: OperationId) -> Failure:
    return Failure(f"operation {operation_id} of the same call is parked", after=operation_id)


def _log_failed(work: Work, fault: Failure, attempts: int) -> None:
    log.warning(
        "operation_failed", operation_id=work.name, key=work.key, detail=fault.detail, exception=fault.exception,
        where=fault.where, attempts=attempts,
    )  # fmt: skip
