"""The life of one partition in a worker: take over, then batch after batch.

The order within a batch is what the promises rest on: commit, wait for replicas where that is wanted, then send, then
forget the kept events, then acknowledge. Wherever it is cut off, the next owner (or this one, in doubt) finds either
the operations undone and in the queue, or done with their events kept; nothing is lost and nothing is done twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from calltag.core.bus.ports import BusRefused, BusUnavailable, Delivery, Partition, PartitionConsumer
from calltag.core.domain.events import Event
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import CallOperation
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.status import StatusCode
from calltag.core.runtime.backoff import backoff_s
from calltag.core.runtime.waiting import set_within, unless
from calltag.core.store.ports import CommitConflict, Epoch, StateStore, StoreUnavailable, TakeOver
from calltag.core.wire.messages import EVENT, OPERATION, OperationMessage, WireError
from calltag.worker.folding import Applied, Folded, fold
from calltag.worker.lag import Lag
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.outgoing import Outgoing
from calltag.worker.recent_operations import RecentOperations
from calltag.worker.recovery import Recovery
from calltag.worker.sweep import Sweep

log = structlog.get_logger()
T = TypeVar("T")
_FIRST_RETRY_S: Final = 0.05
_SLOWEST_RETRY_S: Final = 2.0
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch that the store has, with its events as they were kept."""

    folded: Folded
    encoded: Sequence[bytes]


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
        batch_limit: int = 100,
        lag: Lag | None = None,
        sweep: Sweep | None = None,
        recent: RecentOperations | None = None,
    ) -> None:
        self._partition = partition
        self._store = store
        self._outgoing = outgoing
        self._limits = limits
        self._metrics = metrics
        self._batch_limit = batch_limit
        self._lag = lag or Lag(lambda: 0)
        self._sweep = sweep
        self._epoch: Epoch | None = None
        self._recent = RecentOperations() if recent is None else recent
        self._recovery = Recovery(partition, store, self._recent, metrics, batch_limit)

    @property
    def epoch(self) -> Epoch | None:
        """The epoch in which the partition is owned; None before the first delivery, and while that is in doubt."""
        return self._epoch

    @property
    def oldest_at_ms(self) -> int | None:
        """When the oldest operation in hand was accepted; operations come in order, so none that waits is older."""
        return self._lag.in_hand_of_ms

    async def run(self, consumer: PartitionConsumer, released: asyncio.Event) -> None:
        """Work until `released` is set; a batch in hand is finished first. Raises BusInterrupted, Fenced."""
        async with self._watching(released) as wake:
            await self._work(consumer, released, wake)

    @asynccontextmanager
    async def _watching(self, released: asyncio.Event) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the partition is released, and when the store has lost something meanwhile."""
        wake = asyncio.Event()

        async def watch() -> None:
            while not await set_within(released, _LOOK_S):
                if self._epoch is not None and await self._recovery.has_lost():
                    wake.set()
            wake.set()

        watching = asyncio.create_task(watch(), name=f"partition-{self._partition}-watch")
        try:
            yield wake
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _work(self, consumer: PartitionConsumer, released: asyncio.Event, wake: asyncio.Event) -> None:
        while not released.is_set():
            within_s = self._sweep.due_in_s() if self._sweep is not None else None
            deliveries = await unless(wake, consumer.batch(self._batch_limit), within_s=within_s)
            if wake.is_set() and not released.is_set():
                wake.clear()
                self._epoch = None
                if not deliveries:
                    await self._handle(())
            if deliveries:
                readable, unreadable = self._read(deliveries)
                if readable:
                    self._lag.took(min(message.operation.accepted_at_ms for _, message in readable))
                try:
                    set_aside = await self._handle([message for _, message in readable]) if readable else ()
                    for delivery in (*unreadable, *(readable[place][0] for place in set_aside)):
                        await consumer.reject(delivery.tag)
                    await consumer.ack_through(deliveries[-1].tag)
                finally:
                    self._lag.finished()
            if self._sweep is not None:
                await self._end(await self._sweep.operations())

    async def _end(self, messages: Sequence[OperationMessage]) -> None:
        """End calls that are silent, the way in which everything is done."""
        if messages:
            await self._handle(messages)
            self._metrics.silent(len(messages))

    async def _handle(self, messages: Sequence[OperationMessage]) -> Sequence[int]:
        """Carry out the operations of a batch; returns the places of those that are to be set aside.

        Without any, the partition is only taken over, if it is not owned.
        """
        delays = backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S)
        while True:
            try:
                epoch = await self._owned()
                if not messages:
                    return ()
                committed = await self._commit(epoch, messages)
            except (CommitConflict, StoreUnavailable) as error:
                # Whether the commit took place is not known. The partition is taken over anew: that fences off a commit
                # which is still on its way, and shows the events of one that took place.
                log.warning("commit_uncertain", reason=str(error))
                self._epoch = None
                await asyncio.sleep(next(delays))
            else:
                await self._send(epoch, committed)
                return committed.folded.set_aside

    async def _owned(self) -> Epoch:
        """The epoch of this ownership; with the first delivery, and after doubt, the partition is taken over.

        A former owner that is still at work is fenced off from here on. Events that were committed and perhaps not
        sent are sent first.
        """
        while self._epoch is None:
            taken = await self._insist(lambda: self._store.take_over(self._partition, self._recent.epoch))
            self._metrics.taken_over()
            log.info("partition_taken_over", epoch=taken.epoch, kept=len(taken.outbox))
            if taken.outbox:
                await self._send_kept(taken)
            if not await self._recovery.recover(taken, self._again):
                self._epoch = taken.epoch
        return self._epoch

    async def _send_kept(self, taken: TakeOver) -> None:
        await self._store.settle(self._partition, taken.epoch, taken.position)
        events = list(self._kept(taken.outbox))
        await self._insist(lambda: self._outgoing.send((), events, ()))
        await self._insist(lambda: self._store.sent(self._partition, taken.epoch, len(taken.outbox)))

    async def _again(self, epoch: Epoch, messages: Sequence[OperationMessage]) -> Folded:
        """Carry out operations that the store has lost."""
        committed = await self._commit(epoch, messages)
        await self._send(epoch, committed)
        return committed.folded

    def _kept(self, outbox: Sequence[bytes]) -> Iterator[tuple[Event, bytes]]:
        for raw in outbox:
            try:
                yield EVENT.decode(raw), raw
            except WireError as error:
                log.error("event_unreadable", reason=str(error))

    async def _commit(self, epoch: Epoch, messages: Sequence[OperationMessage]) -> Committed:
        wanted: dict[str, list[OperationId]] = {}
        for message in messages:
            wanted.setdefault(message.operation.key, []).append(message.operation.id)
        loaded = await self._store.load(self._partition, wanted)
        for each in loaded.values():
            if each.unreadable is not None:
                log.error("state_unreadable", partition=self._partition, reason=str(each.unreadable))
        folded = fold(messages, loaded, self._limits)
        encoded = [EVENT.encode(event) for event in folded.events]
        if folded.changes or encoded:
            began = time.perf_counter()
            position = await self._store.commit(self._partition, epoch, folded.changes, encoded)
            self._metrics.committed(len(messages), time.perf_counter() - began)
            self._recovery.confirmed(position, messages, folded)
        # What was committed before and is only recognised now has to be safe, too, before anybody is told of it.
        await self._store.settle(self._partition, epoch, self._recent.position)
        self._metrics.applied(folded.applied)
        _log_refused(folded.applied)
        return Committed(folded, encoded)

    async def _send(self, epoch: Epoch, committed: Committed) -> None:
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
                await asyncio.sleep(next(delays))

    def _read(
        self, deliveries: Sequence[Delivery]
    ) -> tuple[Sequence[tuple[Delivery, OperationMessage]], Sequence[Delivery]]:
        """The deliveries of a batch with their operations, and those that are none, whatever sent them."""
        readable: list[tuple[Delivery, OperationMessage]] = []
        unreadable: list[Delivery] = []
        for delivery in deliveries:
            try:
                readable.append((delivery, OPERATION.decode(delivery.body)))
            except WireError as error:
                self._metrics.unreadable()
                log.error("operation_unreadable", message_id=delivery.message_id, reason=str(error))
                unreadable.append(delivery)
        return readable, unreadable


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
