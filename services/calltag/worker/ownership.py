"""Owning a partition: taking it over, committing in its epoch, and sending what came of that.

The order is what the promises rest on: commit, wait for replicas where that is wanted, then send, then forget the kept
events; the acknowledgement comes last. Wherever it is cut off, the next owner (or this one, in doubt) finds either the
operations undone and in the queue, or done with their events kept; nothing is lost and nothing is done twice.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

import structlog

from calltag.core.bus.ports import BusRefused, BusUnavailable, Partition
from calltag.core.domain.events import Event
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import CallOperation
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.status import StatusCode
from calltag.core.runtime.backoff import backoff_s
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.ports import NO_MARKS, CommitPosition, Epoch, Marks, StateStore, StoreUnavailable, TakeOver
from calltag.core.telemetry.conditions import Condition
from calltag.core.wire.messages import EVENT, OperationMessage, WireError
from calltag.worker.folding import Applied, Folded, fold
from calltag.worker.known_calls import KnownCalls
from calltag.worker.listed import Listed
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.outgoing import Outgoing, Sending
from calltag.worker.recent_operations import RecentOperations
from calltag.worker.recovery import Recovery

log = structlog.get_logger()
_WAITS: Final = Condition("partition_waits", over="partitions_go_on")
T = TypeVar("T")
_FIRST_RETRY_S: Final = 0.05
_SLOWEST_RETRY_S: Final = 2.0


class Ownership:
    """Of one partition by this worker. `on_wait` is called whenever store or broker keep it waiting."""

    def __init__(
        self,
        partition: Partition,
        store: StateStore,
        outgoing: Outgoing,
        limits: CallLimits,
        metrics: WorkerMetrics,
        *,
        recent: RecentOperations,
        batch_limit: int,
        window: ByteWindow,
        known_bytes: int,
        on_wait: Callable[[], None],
    ) -> None:
        self._partition = partition
        self._store = store
        self._outgoing = outgoing
        self._limits = limits
        self._metrics = metrics
        self._recent = recent
        self._window = window
        self._recovery = Recovery(partition, store, recent, metrics, batch_limit, window=window)
        self._on_wait = on_wait
        self._listed = Listed(outgoing.lists_fresh_s)
        self._known = KnownCalls(known_bytes)
        self.epoch: Epoch | None = None
        """None before the first delivery, and while it is in doubt."""
        self.position: CommitPosition = recent.position
        """Up to which commit nothing comes again from the queue, should the store lose it."""

    def acknowledged(self) -> None:
        """All that was committed so far is acknowledged."""
        self.position = self._recent.position

    def doubt(self) -> None:
        """The partition has to be taken over anew: that fences off whatever is still on its way."""
        self.epoch = None

    async def has_lost(self) -> bool:
        """Whether the store is not as this owner left it."""
        return await self._recovery.has_lost()

    async def owned(self) -> Epoch:
        """The epoch of this ownership; with the first delivery, and after doubt, the partition is taken over.

        A former owner that is still at work is fenced off from here on. Events that were committed and perhaps not
        sent are sent first, and what the store has lost is applied again. Raises StoreUnavailable, CommitConflict,
        Fenced.
        """
        while self.epoch is None:
            if self._recent.was_elsewhere and self._recent.found is None:
                # Where the answer to a take-over is lost, or what follows is cut off, the next one finds its own epoch.
                self._recent.found = (await self.insist(lambda: self._store.standing(self._partition)))[0]
            taken = await self.insist(lambda: self._store.take_over(self._partition, self._recent.latest_epoch))
            self._metrics.taken_over()
            # Others may have been at work on these calls.
            self._listed = Listed(self._outgoing.lists_fresh_s)
            self._known.forget()
            log.info("partition_taken_over", epoch=taken.epoch, kept=taken.kept)
            if taken.kept:
                await self._send_kept(taken)
            if not await self._recovery.recover(taken, self._again):
                self.acknowledged()
                # What was set right after a loss was not all by way of a batch.
                self._known.forget()
                self.epoch = taken.epoch
        return self.epoch

    async def _send_kept(self, taken: TakeOver) -> None:
        """Send the kept events in order, as many at a time as fit in a batch. They are forgotten together, once all of
        them are sent: a take-over that is interrupted leaves them all, and the next one begins with the first."""
        await self._store.settle(self._partition, taken.epoch, taken.position)
        sent = 0
        while page := await self.insist(partial(self._read_kept, taken.epoch, sent)):
            await self._send(Sending((), list(_kept(page)), ()))
            sent += len(page)
        await self._forget(taken.epoch, taken.position)

    async def _read_kept(self, epoch: Epoch, skip: int) -> Sequence[bytes]:
        async with self._window.reading() as max_bytes:
            return await self._store.kept(self._partition, epoch, skip, max_bytes)

    async def _again(self, epoch: Epoch, messages: Sequence[OperationMessage]) -> Folded:
        """Carry out operations that the store has lost, as many of the first as fit in a batch."""
        folded = await self.commit(epoch, messages)
        await self.send(epoch, folded)
        return folded

    async def commit(self, epoch: Epoch, messages: Sequence[OperationMessage]) -> Folded:
        """Fold the first operations, as many as fit in a batch, onto what the store has, and commit that.

        Raises StoreError.
        """
        wanted: dict[str, list[OperationId]] = {}
        for message in messages:
            wanted.setdefault(message.operation.key, []).append(message.operation.id)
        loaded = self._known.loaded(wanted)
        if len(loaded) < len(wanted):
            missing = {key: operations for key, operations in wanted.items() if key not in loaded}
            async with self._window.reading() as max_bytes:
                loaded.update(await self._store.load(self._partition, missing, max_bytes))
        folded = fold(messages, loaded, self._limits, self._window.batch_bytes)
        began = time.perf_counter()
        await self.write(epoch, folded, dict.fromkeys(folded.unmarked), messages[: folded.taken])
        self._known.note(loaded, folded)
        if folded.changes or folded.events:
            self._metrics.committed(folded.taken, time.perf_counter() - began)
        self._metrics.applied(folded.applied)
        _log_refused(folded.applied)
        return folded

    async def write(
        self, epoch: Epoch, folded: Folded, marks: Marks = NO_MARKS, messages: Sequence[OperationMessage] = ()
    ) -> None:
        """Commit what was folded. Raises StoreError."""
        if folded.changes or folded.events or marks:
            async with self._window.exchange(folded.size_bytes):
                made = await self._store.commit(
                    self._partition, epoch, folded.changes, folded.encoded, marks, after=self._recent.position
                )
            self._metrics.marked(self._partition, made.marks)
            self._known.marked(made.marks)
            self._recovery.confirmed(made.position, messages, folded)
        else:
            self._recovery.recognised(messages, folded)
        # What was committed before and is only recognised now has to be safe, too, before anybody is told of it.
        await self._store.settle(self._partition, epoch, self._recent.position)

    async def send(self, epoch: Epoch, folded: Folded) -> None:
        """Send events and replies, for as long as it takes, and forget the kept events. Raises Fenced."""
        # Each commit is sent before the next one is made.
        position = self._recent.position
        events = list(zip(folded.events, folded.encoded, strict=True))
        calls = self._listed.changed(folded.calls, time.monotonic())
        await self._send(Sending(calls, events, folded.replies))
        self._listed.note(calls, time.monotonic())
        if events:
            await self._forget(epoch, position)

    async def _send(self, sending: Sending) -> None:
        # One that is interrupted goes on where it was.
        await self.insist(lambda: self._outgoing.send(sending))

    async def _forget(self, epoch: Epoch, position: CommitPosition) -> None:
        await self.insist(lambda: self._store.sent(self._partition, epoch, position))

    async def insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again for as long as broker or store is away: the operations wait, in order, in this worker's hands."""
        delays = backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S)
        try:
            while True:
                try:
                    done = await attempt()
                except (StoreUnavailable, BusUnavailable, BusRefused) as error:
                    _WAITS.fails(error, self._partition)
                    self._on_wait()
                    await asyncio.sleep(next(delays))
                else:
                    _WAITS.holds(self._partition)
                    return done
        finally:
            _WAITS.forget(self._partition)


def _kept(outbox: Sequence[bytes]) -> Iterator[tuple[Event, bytes]]:
    for raw in outbox:
        try:
            yield EVENT.decode(raw), raw
        except WireError as error:
            log.error("event_unreadable", reason=str(error))


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
