"""The life of one partition in a worker: take over, then batch after batch.

The order within a batch is what the promises rest on: commit, then send, then forget the kept events, then
acknowledge. Wherever it is cut off, the next owner (or this one, in doubt) finds either the operations undone and in
the queue, or done with their events kept; nothing is lost and nothing is done twice.

An operation that fails waits in the lane of its call, in this worker's hands and not acknowledged, with all that come
after it for the same call; other calls go on. What fails for too long is parked.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from calltag.core.bus.ports import BusError, BusRefused, BusUnavailable, Delivery, Partition, PartitionConsumer
from calltag.core.domain.events import Event
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import CallOperation
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.status import StatusCode
from calltag.core.runtime.backoff import backoff_s
from calltag.core.runtime.waiting import unless
from calltag.core.store.ports import NO_MARKS, CommitConflict, Epoch, Fenced, Marks, StateStore, StoreUnavailable
from calltag.core.wire.messages import EVENT, OPERATION, OperationMessage, WireError
from calltag.worker.fault import Fault, Reason, fault_of
from calltag.worker.folding import Applied, Folded, fold
from calltag.worker.lanes import Lane, Lanes, Work
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.outgoing import Outgoing
from calltag.worker.parking import ParkingLot, farewell

log = structlog.get_logger()
T = TypeVar("T")
_FIRST_RETRY_S: Final = 0.05
_SLOWEST_RETRY_S: Final = 2.0
_SUSPICIOUS: Final = 2
"""An operation that came back so often is worked on alone: somebody may have died of it."""


class _Failed(Exception):
    """A batch failed, and not because the store is away."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Patience:
    """How long failures are borne: for how many seconds one operation may fail, and how many workers may die of it."""

    park_after_s: float = 30.0
    max_crashes: int = 3


class PartitionWorker:
    """Works on one partition for as long as `run` runs."""

    def __init__(
        self,
        partition: Partition,
        store: StateStore,
        outgoing: Outgoing,
        limits: CallLimits,
        metrics: WorkerMetrics,
        *,
        parking_lot: ParkingLot,
        batch_limit: int = 100,
        most_waiting: int = 100,
        patience: Patience = Patience(),
    ) -> None:
        self._partition = partition
        self._store = store
        self._outgoing = outgoing
        self._parking_lot = parking_lot
        self._limits = limits
        self._metrics = metrics
        self._batch_limit = batch_limit
        self._patience = patience
        self._lanes = Lanes(patience.park_after_s, most_waiting)
        self._settled: list[int] = []
        self._epoch: Epoch | None = None

    async def run(self, consumer: PartitionConsumer, released: asyncio.Event) -> None:
        """Work until `released` is set; a batch in hand is finished first. Raises BusInterrupted, Fenced."""
        try:
            while not released.is_set():
                due_in_s = self._lanes.next_due_s(time.monotonic())
                deliveries = await unless(released, consumer.batch(self._batch_limit), due_in_s) or ()
                await self._work([self._read(each) for each in deliveries], consumer)
                for lane in self._lanes.due(time.monotonic()):
                    await self._tend(lane, consumer)
                await self._acknowledge(consumer)
                self._metrics.waiting(self._partition, len(self._lanes))
        finally:
            self._metrics.left(self._partition)

    async def _acknowledge(self, consumer: PartitionConsumer) -> None:
        if self._settled:
            await consumer.ack(self._settled)
            self._settled = []

    async def _work(self, works: Sequence[Work], consumer: PartitionConsumer) -> None:
        """Carry out operations in order; those that fail, and those behind them, wait in lanes."""
        batch: list[Work] = []
        for work in works:
            if self._lanes.hold(work):
                continue
            if work.problem is not None:
                self._lanes.open([work], work.problem, time.monotonic(), Reason.UNREADABLE)
            elif work.delivery.returned >= _SUSPICIOUS:
                await self._apply(batch)
                batch = []
                if not self._lanes.hold(work):
                    await self._alone(work, consumer)
            else:
                batch.append(work)
        await self._apply(batch)

    async def _alone(self, work: Work, consumer: PartitionConsumer) -> None:
        """Work on an operation that somebody may have died of, so that only the one that kills is counted."""
        # What came before is acknowledged first: it must not come again because of this one.
        await self._acknowledge(consumer)
        epoch, name = await self._owned(), work.name
        tries = await self._insist(lambda: self._store.attempt(self._partition, epoch, name))
        if tries > self._patience.max_crashes:
            fault = Fault(f"workers died {self._patience.max_crashes} times while they worked on it")
            self._lanes.open([work], fault, time.monotonic(), Reason.CRASH)
            return
        await self._apply([work])
        await self._acknowledge(consumer)
        if not self._lanes.has(work.key):
            await self._insist(lambda: self._store.survived(self._partition, name))

    async def _apply(self, works: Sequence[Work]) -> None:
        """Carry out a batch; if that fails as a whole, one operation after another, so that only faulty calls wait."""
        if not works:
            return
        try:
            self._account(works, await self._carry_out(works))
        except _Failed as failed:
            if len(works) == 1:
                self._open(works[0], failed.fault)
                return
            for work in works:
                if not self._lanes.hold(work):
                    await self._apply([work])

    def _account(self, works: Sequence[Work], folded: Folded) -> None:
        held, behind = set(folded.held), dict(folded.behind)
        for place, work in enumerate(works):
            if place in behind:
                if not self._lanes.hold(work):
                    self._lanes.open([work], _fault_behind(behind[place]), time.monotonic(), Reason.BEHIND)
            elif place not in held:
                self._settled.append(work.delivery.tag)
            elif not self._lanes.hold(work):
                self._open(work, folded.faults[work.key])

    def _open(self, work: Work, fault: Fault) -> None:
        _log_failed(work, fault, 1)
        self._lanes.open([work], fault, time.monotonic())

    async def _tend(self, lane: Lane, consumer: PartitionConsumer) -> None:
        """Try the first operation of a lane again, or park it; where that ends the lane, go on with those behind it."""
        if lane.parking is None:
            await self._retry(lane)
        if lane.parking is not None and not await self._park(lane, lane.parking):
            self._lanes.put_off(lane, time.monotonic())
        if lane.through:
            await self._work(self._lanes.close(lane), consumer)

    async def _retry(self, lane: Lane) -> None:
        self._metrics.retried()
        try:
            folded = await self._carry_out([lane.first])
            faults = list(folded.faults.values())
        except _Failed as failed:
            faults = [failed.fault]
        if faults:
            self._lanes.failed(lane, faults[0], time.monotonic())
            _log_failed(lane.first, lane.fault, lane.attempts)
        else:
            await self._pass(lane)

    async def _park(self, lane: Lane, reason: Reason) -> bool:
        """Mark the call, tell the sender, park the operation. False if it could not be parked; the rest is done."""
        work = lane.first
        if not lane.told:
            goodbye = farewell(work, lane)
            if not await self._tell(goodbye.folded, goodbye.marks):
                return False
            lane.told = True
        try:
            await self._parking_lot.park(self._partition, work, lane)
        except BusError as error:
            log.warning("cannot_park", operation_id=work.name, reason=str(error))
            return False
        self._metrics.parked(reason)
        log.error(
            "operation_parked", operation_id=work.name, key=lane.key, reason=reason.value,
            detail=lane.fault.detail, attempts=lane.attempts,
        )  # fmt: skip
        await self._pass(lane)
        return True

    async def _pass(self, lane: Lane) -> None:
        """The first operation of a lane is done with."""
        work = lane.waiting.popleft()
        if work.delivery.returned >= _SUSPICIOUS:
            await self._insist(lambda: self._store.survived(self._partition, work.name))
        self._settled.append(work.delivery.tag)
        lane.through = True

    async def _tell(self, folded: Folded, marks: Marks) -> bool:
        epoch = await self._owned()
        try:
            committed = await self._written(epoch, folded, marks)
        except Fenced:
            raise
        except Exception as error:  # noqa: BLE001 - it is tried again
            log.warning("mark_uncertain", exception=type(error).__name__)
            self._epoch = None
            return False
        await self._send(epoch, committed)
        return True

    async def _carry_out(self, works: Sequence[Work]) -> Folded:
        """Commit and send; while the store is away, wait. Raises _Failed, with nothing done that is not found done."""
        messages = [work.message for work in works if work.message is not None]
        delays, conflicts = backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S), 0
        while True:
            epoch = await self._owned()
            try:
                committed = await self._commit(epoch, messages)
            except Fenced:
                raise
            except (CommitConflict, StoreUnavailable) as error:
                # Whether the commit took place is not known. The partition is taken over anew: that fences off a commit
                # which is still on its way, and shows the events of one that took place.
                log.warning("commit_uncertain", reason=str(error))
                self._epoch = None
                conflicts += isinstance(error, CommitConflict)
                if conflicts > 1:
                    raise _Failed(fault_of(error)) from error
                if isinstance(error, StoreUnavailable):
                    self._lanes.forgive(time.monotonic())
                await asyncio.sleep(next(delays))
            except Exception as error:
                self._epoch = None
                raise _Failed(fault_of(error)) from error
            else:
                await self._send(epoch, committed)
                return committed.folded

    async def _owned(self) -> Epoch:
        """The epoch of this ownership; with the first delivery, and after doubt, the partition is taken over.

        A former owner that is still at work is fenced off from here on. Events that were committed and perhaps not
        sent are sent first.
        """
        if self._epoch is None:
            taken = await self._insist(lambda: self._store.take_over(self._partition))
            self._metrics.taken_over()
            log.info("partition_taken_over", epoch=taken.epoch, kept=len(taken.outbox))
            if taken.outbox:
                events = list(self._kept(taken.outbox))
                await self._insist(lambda: self._outgoing.send((), events, ()))
                await self._insist(lambda: self._store.sent(self._partition, taken.epoch, len(taken.outbox)))
            self._epoch = taken.epoch
        return self._epoch

    def _kept(self, outbox: Sequence[bytes]) -> Iterator[tuple[Event, bytes]]:
        for raw in outbox:
            try:
                yield EVENT.decode(raw), raw
            except WireError as error:
                log.error("event_unreadable", reason=str(error))

    async def _commit(self, epoch: Epoch, messages: Sequence[OperationMessage]) -> "Committed":
        wanted: dict[str, list[OperationId]] = {}
        for message in messages:
            wanted.setdefault(message.operation.key, []).append(message.operation.id)
        loaded = await self._store.load(self._partition, wanted)
        folded = fold(messages, loaded, self._limits)
        began = time.perf_counter()
        committed = await self._written(epoch, folded, dict.fromkeys(folded.unmarked))
        if folded.changes or folded.events:
            self._metrics.committed(len(messages), time.perf_counter() - began)
        self._metrics.applied(folded.applied)
        _log_refused(folded.applied)
        return committed

    async def _written(self, epoch: Epoch, folded: Folded, marks: Marks = NO_MARKS) -> "Committed":
        encoded = [EVENT.encode(event) for event in folded.events]
        if folded.changes or encoded or marks:
            marked = await self._store.commit(self._partition, epoch, folded.changes, encoded, marks)
            self._metrics.marked(self._partition, marked)
        return Committed(folded, encoded)

    async def _send(self, epoch: Epoch, committed: "Committed") -> None:
        folded = committed.folded
        events = list(zip(folded.events, committed.encoded, strict=True))
        sent = await self._insist(lambda: self._outgoing.send(folded.calls, events, folded.replies))
        self._metrics.sent(sent)
        if events:
            await self._insist(lambda: self._store.sent(self._partition, epoch, len(events)))

    async def _insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again for as long as broker or store is away: the operations wait, in order, in this worker's hands."""
        delays = backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S)
        while True:
            try:
                return await attempt()
            except (StoreUnavailable, BusUnavailable, BusRefused) as error:
                log.warning("partition_waits", reason=str(error))
                self._lanes.forgive(time.monotonic())
                await asyncio.sleep(next(delays))

    def _read(self, delivery: Delivery) -> Work:
        seen_ms = time.time_ns() // 1_000_000
        try:
            return Work(delivery, OPERATION.decode(delivery.body), seen_ms)
        except WireError as error:
            self._metrics.unreadable()
            log.error("operation_unreadable", message_id=delivery.message_id, reason=str(error))
            return Work(delivery, None, seen_ms, Fault(str(error), "WireError"))


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch that the store has, with its events as they were kept."""

    folded: Folded
    encoded: Sequence[bytes]


def _fault_behind(operation_id: OperationId) -> Fault:
    return Fault(f"operation {operation_id} of the same call is parked", after=operation_id)


def _log_failed(work: Work, fault: Fault, attempts: int) -> None:
    log.warning(
        "operation_failed", operation_id=work.name, key=work.key, detail=fault.detail, exception=fault.exception,
        where=fault.where, attempts=attempts,
    )  # fmt: skip


def _log_refused(applied: Sequence[Applied]) -> None:
    """A line for each operation that was refused now; what it was about is in the names, never in values."""
    for each in applied:
        if each.repeated or each.done.code is StatusCode.SUCCESS:
            continue
        operation = each.operation
        log.info(
            "operation_refused",
            operation_id=operation.id,
            operation=operation.action.name,
            call_id=operation.call_id if isinstance(operation, CallOperation) else None,
            code=int(each.done.code),
        )
