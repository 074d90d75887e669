"""The life of one partition in a worker: batch after batch, each carried out and then acknowledged.

An operation that fails waits in the lane of its call, in this worker's hands and not acknowledged, with all that come
after it for the same call; other calls go on. What fails for too long is parked.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import structlog

from calltag.core.bus.ports import BusError, Delivery, Partition, PartitionConsumer
from calltag.core.domain.ids import OperationId
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.status import StatusCode
from calltag.core.runtime.backoff import backoff_s
from calltag.core.runtime.waiting import unless
from calltag.core.runtime.without_end import without_end
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.ports import CommitConflict, CommitPosition, Epoch, Fenced, Marks, StateStore, StoreUnavailable
from calltag.core.telemetry.conditions import Condition
from calltag.core.wire.messages import OPERATION, OperationMessage, WireError
from calltag.worker.attempts import Attempts
from calltag.worker.fault import Fault, Reason, fault_of
from calltag.worker.folding import Folded
from calltag.worker.lag import Lag
from calltag.worker.lanes import Lane, Lanes, Work
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.outgoing import Outgoing
from calltag.worker.ownership import Ownership
from calltag.worker.parking import ParkingLot, farewell
from calltag.worker.recent_operations import RecentOperations
from calltag.worker.sweep import Sweep

log = structlog.get_logger()
_NOT_PARKED: Final = Condition("cannot_park")
_UNCERTAIN: Final = Condition("commit_uncertain", over="commits_certain")
_FIRST_RETRY_S: Final = 0.05
_SLOWEST_RETRY_S: Final = 2.0
_LOOK_S: Final = 1.0
_SUSPICIOUS: Final = 2
"""An operation that came back so often is looked at apart from others: somebody may have died of it."""


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
        patience: Patience = Patience(),
        lag: Lag | None = None,
        sweep: Sweep | None = None,
        recent: RecentOperations | None = None,
        window: ByteWindow | None = None,
        known_bytes: int = 524_288,
    ) -> None:
        self._partition = partition
        self._store = store
        self._parking_lot = parking_lot
        self._metrics = metrics
        self._batch_limit = batch_limit
        self._patience = patience
        self._lanes = Lanes(patience.park_after_s)
        self._settled: list[int] = []
        self._attempts = Attempts(partition, store)
        self._lag = lag or Lag(lambda: 0)
        self._sweep = sweep
        kept = RecentOperations() if recent is None else recent
        sending = ByteWindow() if window is None else window
        self._max_batch_bytes = sending.max_batch_bytes
        self._ownership = Ownership(
            partition,
            store,
            outgoing,
            limits,
            metrics,
            recent=kept,
            batch_limit=batch_limit,
            window=sending,
            known_bytes=known_bytes,
            on_wait=self._forgive,
        )

    @property
    def epoch(self) -> Epoch | None:
        """The epoch in which the partition is owned; None before the first delivery, and while that is in doubt."""
        return self._ownership.epoch

    @property
    def position(self) -> CommitPosition:
        """How many commits the store has confirmed in that epoch and before, of which nothing comes again."""
        return self._ownership.position

    @property
    def oldest_at_ms(self) -> int | None:
        """When the oldest operation in hand was accepted; operations come in order, so none that waits is older."""
        waiting = self._lanes.oldest_at_ms()
        return min((at for at in (self._lag.in_hand_of_ms, waiting) if at is not None), default=None)

    async def run(self, consumer: PartitionConsumer, released: asyncio.Event) -> None:
        """Work until `released` is set; a batch in hand is finished first. Raises BusInterrupted, Fenced."""
        async with self._watching(released) as wake:
            try:
                while not released.is_set():
                    deliveries = await unless(
                        wake, consumer.batch(self._batch_limit, self._max_batch_bytes), within_s=self._due_in_s()
                    )
                    if wake.is_set() and not released.is_set():
                        wake.clear()
                        self._ownership.doubt()
                        await self._carry_out(())
                    await self._take(deliveries or (), consumer)
                    for lane in self._lanes.due(time.monotonic()):
                        await self._tend(lane, consumer)
                    await self._acknowledge(consumer)
                    # Whom the partition does not fall to any more leaves that to whom it does.
                    if self._sweep is not None and not self._sweep.due_in_s() and not released.is_set():
                        await self._end(self._sweep)
                    self._metrics.waiting(self._partition, len(self._lanes))
            finally:
                self._metrics.left(self._partition)
                await self._attempts.abandon()

    @asynccontextmanager
    async def _watching(self, released: asyncio.Event) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the partition is released, and when the store has lost something meanwhile."""
        wake = asyncio.Event()

        async def look() -> None:
            while True:
                # All partitions look in the same moment, which takes one exchange with the store for all of them.
                await asyncio.sleep(_LOOK_S - time.monotonic() % _LOOK_S)
                if await self._ownership.has_lost():
                    wake.set()

        async def end() -> None:
            await released.wait()
            wake.set()

        name = f"partition-{self._partition}-watch"
        # Who waits for the partition does not wait for the store, nor for what its watch runs into.
        watching = [asyncio.create_task(each, name=name) for each in (end(), without_end(look, name))]
        try:
            yield wake
        finally:
            for each in watching:
                each.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    def _due_in_s(self) -> float | None:
        """In how many seconds there is something to do though nothing comes; None if there is nothing to wait for."""
        swept = self._sweep.due_in_s() if self._sweep is not None else None
        retried = self._lanes.next_due_s(time.monotonic())
        return min((due for due in (swept, retried) if due is not None), default=None)

    def _forgive(self) -> None:
        self._lanes.forgive(time.monotonic())

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
        """End calls that are silent, the way in which everything is done; what fails is left to the next sweep."""
        silent = await sweep.operations(owned=self._ownership.epoch is not None)
        messages = [each for each in silent if not self._lanes.has(each.operation.key)]
        ended = await self._ended(messages)
        if ended:
            self._metrics.silent(ended)
        sweep.ended(ended)

    async def _ended(self, messages: Sequence[OperationMessage]) -> int:
        """How many of the calls could be ended: if all fail together, one after another is tried."""
        ended = 0
        while messages:
            try:
                folded = await self._carry_out(messages)
            except _Failed as failed:
                if len(messages) == 1:
                    log.warning("silent_call_not_ended", key=messages[0].operation.key, detail=failed.fault.detail)
                    return ended
                return ended + sum([await self._ended([each]) for each in messages])
            for key, fault in folded.faults.items():
                log.warning("silent_call_not_ended", key=key, detail=fault.detail)
            ended += sum(each.done.code is StatusCode.SUCCESS for each in folded.applied)
            messages = messages[folded.taken :]
        return ended

    async def _acknowledge(self, consumer: PartitionConsumer) -> None:
        if self._settled:
            await consumer.ack(self._settled)
            self._settled = []
        self._ownership.acknowledged()

    async def _work(self, works: Sequence[Work], consumer: PartitionConsumer) -> None:
        """Carry out operations in order; those that fail, and those behind them, wait in lanes."""
        batch: list[Work] = []
        for suspects, together in groupby(works, _suspects):
            if suspects:
                await self._apply(batch)
                batch = []
                await self._suspected(suspects, list(together), consumer)
                continue
            for work in together:
                if self._lanes.hold(work):
                    continue
                if work.problem is not None:
                    self._lanes.open([work], work.problem, time.monotonic(), Reason.UNREADABLE)
                else:
                    batch.append(work)
        await self._apply(batch)

    async def _suspected(self, name: str, works: Sequence[Work], consumer: PartitionConsumer) -> None:
        """Work on what came in one message that somebody may have died of.

        A worker that ends in order makes what it had taken ahead come back as well: so it is done at once, and each
        alone only where somebody did die of the message.
        """
        if len(works) == 1:
            await self._singly(works, consumer)
            return
        await self._acknowledge(consumer)
        epoch = await self._owned()
        if await self._ownership.insist(lambda: self._attempts.begin(epoch, name)) == 1:
            await self._apply([work for work in works if not self._lanes.hold(work)])
            await self._acknowledge(consumer)
        else:
            await self._singly(works, consumer)
        # Somebody may still die of what waits, when it is tried again.
        if not self._lanes.has_of(works[0].delivery.together):
            await self._ownership.insist(lambda: self._attempts.end(name))

    async def _singly(self, works: Sequence[Work], consumer: PartitionConsumer) -> None:
        for work in works:
            if not self._lanes.hold(work):
                await self._alone(work, consumer)

    async def _alone(self, work: Work, consumer: PartitionConsumer) -> None:
        """Work on an operation that somebody may have died of, so that only the one that kills is counted."""
        # What came before is acknowledged first: it must not come again because of this one.
        await self._acknowledge(consumer)
        epoch, name = await self._owned(), work.name
        tries = await self._ownership.insist(lambda: self._attempts.begin(epoch, name))
        if tries > self._patience.max_crashes and not await self._is_done(work):
            fault = Fault(f"workers died {self._patience.max_crashes} times while they worked on it")
            self._lanes.open([work], fault, time.monotonic(), Reason.CRASH)
            return
        await self._apply([work])
        await self._acknowledge(consumer)
        if not self._lanes.has(work.key):
            await self._ownership.insist(lambda: self._attempts.end(name))

    async def _is_done(self, work: Work) -> bool:
        """Whether it took effect before somebody died: then it is not refused, but recognised as done."""
        if work.message is None:
            return False
        operation = work.message.operation
        return await self._ownership.insist(
            lambda: self._store.is_done(self._partition, operation.key, operation.id)
        )  # fmt: skip

    async def _apply(self, works: Sequence[Work]) -> None:
        """Carry out operations, as many at a time as fit in a batch; if one fails as a whole, one operation after
        another, so that only faulty calls wait."""
        while works:
            try:
                folded = await self._carry_out(_messages(works))
            except _Failed as failed:
                if len(works) == 1:
                    self._open(works[0], failed.fault)
                    return
                for work in works:
                    if not self._lanes.hold(work):
                        await self._apply([work])
                return
            self._account(works[: folded.taken], folded)
            works = [work for work in works[folded.taken :] if not self._lanes.hold(work)]

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
            folded = await self._carry_out(_messages([lane.first]))
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
            _NOT_PARKED.fails(error, operation_id=work.name)
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
            await self._ownership.insist(lambda: self._attempts.end(work.name))
        self._settled.append(work.delivery.tag)
        lane.through = True

    async def _tell(self, folded: Folded, marks: Marks) -> bool:
        epoch = await self._owned()
        try:
            await self._ownership.write(epoch, folded, marks)
        except Fenced:
            raise
        except Exception as error:  # noqa: BLE001 - it is tried again
            _UNCERTAIN.fails(error, self._partition)
            self._ownership.doubt()
            return False
        await self._ownership.send(epoch, folded)
        return True

    async def _owned(self) -> Epoch:
        """The epoch of the ownership, however long the store keeps a take-over waiting. Raises Fenced."""
        delays = backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S)
        while True:
            try:
                return await self._ownership.owned()
            except (CommitConflict, StoreUnavailable) as error:
                _UNCERTAIN.fails(error, self._partition)
                self._forgive()
                await asyncio.sleep(next(delays))

    async def _carry_out(self, messages: Sequence[OperationMessage]) -> Folded:
        """Commit and send the first operations, as many as fit in a batch; while the store is away, wait. Without
        operations, the partition is only taken over.

        Raises _Failed, with nothing done that is not found done.
        """
        delays, conflicts = backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S), 0
        while True:
            epoch = await self._owned()
            if not messages:
                return Folded()
            try:
                folded = await self._ownership.commit(epoch, messages)
            except Fenced:
                raise
            except (CommitConflict, StoreUnavailable) as error:
                # Whether the commit took place is not known. The partition is taken over anew: that fences off a commit
                # which is still on its way, and shows the events of one that took place.
                _UNCERTAIN.fails(error, self._partition)
                self._ownership.doubt()
                conflicts += isinstance(error, CommitConflict)
                if conflicts > 1:
                    raise _Failed(fault_of(error)) from error
                if isinstance(error, StoreUnavailable):
                    self._forgive()
                await asyncio.sleep(next(delays))
            except Exception as error:
                self._ownership.doubt()
                raise _Failed(fault_of(error)) from error
            else:
                _UNCERTAIN.holds(self._partition)
                await self._ownership.send(epoch, folded)
                return folded

    def _read(self, delivery: Delivery) -> Work:
        seen_ms = time.time_ns() // 1_000_000
        try:
            return Work(delivery, OPERATION.decode(delivery.body), seen_ms)
        except WireError as error:
            self._metrics.unreadable()
            log.error("operation_unreadable", message_id=delivery.message_id, reason=str(error))
            return Work(delivery, None, seen_ms, Fault(str(error), "WireError"))


def _suspects(work: Work) -> str:
    """What somebody may have died of, if this belongs to it: a message by the name of its first operation."""
    if work.problem is not None or work.delivery.returned < _SUSPICIOUS:
        return ""
    return f"message:{work.delivery.together or work.delivery.tag}"


def _messages(works: Sequence[Work]) -> list[OperationMessage]:
    return [work.message for work in works if work.message is not None]


def _fault_behind(operation_id: OperationId) -> Fault:
    return Fault(f"operation {operation_id} of the same call is parked", after=operation_id)


def _log_failed(work: Work, fault: Fault, attempts: int) -> None:
    log.warning(
        "operation_failed", operation_id=work.name, key=work.key, detail=fault.detail, exception=fault.exception,
        where=fault.where, attempts=attempts,
    )  # fmt: skip
