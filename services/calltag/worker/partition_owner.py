"""Ownership of a partition: take-over, commits in its epoch, and the events that they produce.

The promises rest on the order: commit, wait for replicas where configured, publish, acknowledge; trim the outbox last.
After a crash at any point the next owner finds the operations either undone in the queue, or done with their events in
the outbox.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import structlog

from calltag.core.broker.ports import BrokerRefused, BrokerUnavailable, Partition
from calltag.core.contracts.operations import EVENT, OperationMessage, WireError
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, Event
from calltag.core.domain.ids import OperationId, call_key
from calltag.core.domain.operations import CallOperation
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.status import StatusCode
from calltag.core.process.waiting import backoff_s
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.event_log import AppendWithCommit
from calltag.core.store.ports import (
    NO_BLOCKS,
    CallBlocks,
    CallStore,
    CommitConflict,
    CommitPosition,
    Epoch,
    Fenced,
    Loaded,
    Published,
    StoreUnavailable,
    TakeOver,
)
from calltag.core.telemetry.conditions import Condition
from calltag.worker.batch import Applied, Failure, Folded, fault_of, fold
from calltag.worker.call_cache import CallCache, CallIndexCache
from calltag.worker.event_publisher import EventPublisher, Publication
from calltag.worker.loss_recovery import LossRecovery, RecentOperations
from calltag.worker.metrics import WorkerMetrics

log = structlog.get_logger()
_UNCERTAIN: Final = Condition("commit_uncertain", over="commits_certain")
_WAITS: Final = Condition("partition_blocked", over="partitions_unblocked")
T = TypeVar("T")
_FIRST_RETRY_S: Final = 0.05
_SLOWEST_RETRY_S: Final = 2.0
_TRIM_AFTER_S: Final = 1.0


class BatchFailed(Exception):
    """A batch failed as a whole though Redis is available."""

    def __init__(self, fault: Failure) -> None:
        super().__init__(fault.detail)
        self.fault = fault


class PartitionOwner:
    """Owns one partition for this worker, and is the only one that retries; `on_wait` is called before each retry."""

    def __init__(
        self,
        partition: Partition,
        store: CallStore,
        publisher: EventPublisher,
        limits: CallLimits,
        metrics: WorkerMetrics,
        *,
        recent: RecentOperations,
        batch_limit: int,
        window: ByteWindow,
        call_cache_bytes: int,
        on_wait: Callable[[], None],
    ) -> None:
        self._partition = partition
        self._store = store
        self._publisher = publisher
        self._limits = limits
        self._metrics = metrics
        self._recent = recent
        self._window = window
        self._recovery = LossRecovery(partition, store, recent, metrics, batch_limit, window=window)
        self._on_wait = on_wait
        self._listed = CallIndexCache(publisher.index_fresh_s)
        self._cache = CallCache(call_cache_bytes)
        self._published: Published | None = None
        """None until the first take-over."""
        self._trim_at_s: float | None = None
        """When the outbox is trimmed, if no commit does so before; None if it is empty."""
        self.epoch: Epoch | None = None
        """None before the first delivery, and while the ownership is uncertain."""
        self.position: CommitPosition = recent.position
        """The last commit whose operations are all acknowledged: the queue cannot redeliver what it holds."""

    def acknowledged(self) -> None:
        """Note that all committed operations are acknowledged."""
        self.position = self._recent.position

    def doubt(self) -> None:
        """Demand a new take-over, which fences off commits that are still under way."""
        self.epoch = None

    async def has_lost(self) -> bool:
        """Return whether Redis has lost commits of this owner."""
        return await self._recovery.has_lost()

    async def ensure_owned(self) -> Epoch:
        """Return the epoch of the ownership, retrying the take-over while Redis is unavailable. Raises Fenced."""
        delays = backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S)
        while True:
            try:
                return await self._owned()
            except (CommitConflict, StoreUnavailable) as error:
                _UNCERTAIN.fails(error, self._partition)
                self._on_wait()
                await asyncio.sleep(next(delays))

    async def process(self, messages: Sequence[OperationMessage]) -> Folded:
        """Commit and publish the first operations, as many as fit in a batch; retry while Redis is unavailable.

        Raises Fenced; BatchFailed: an operation that took effect nevertheless is recognised when it is retried.
        """
        delays, conflicts = backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S), 0
        while True:
            epoch = await self.ensure_owned()
            try:
                folded, publication = await self._commit(epoch, messages)
            except Fenced:
                raise
            except (CommitConflict, StoreUnavailable) as error:
                # The commit may have taken place. A new take-over fences off one that is still under way, and finds
                # the events of one that took place.
                _UNCERTAIN.fails(error, self._partition)
                self.doubt()
                conflicts += isinstance(error, CommitConflict)
                if conflicts > 1:
                    raise BatchFailed(fault_of(error)) from error
                if isinstance(error, StoreUnavailable):
                    self._on_wait()
                await asyncio.sleep(next(delays))
            except Exception as error:
                self.doubt()
                raise BatchFailed(fault_of(error)) from error
            else:
                _UNCERTAIN.holds(self._partition)
                await self._publish(epoch, publication)
                return folded

    async def record(self, folded: Folded, blocks: CallBlocks) -> bool:
        """Commit and publish the refusal of an operation that is to be parked; False if Redis failed."""
        epoch = await self.ensure_owned()
        try:
            publication = await self._write(epoch, folded, blocks)
        except Fenced:
            raise
        except Exception as error:  # noqa: BLE001 - it is retried
            _UNCERTAIN.fails(error, self._partition)
            self.doubt()
            return False
        await self._publish(epoch, publication)
        return True

    async def _owned(self) -> Epoch:
        """Return the epoch of the ownership; take the partition over with the first delivery and after `doubt`.

        A take-over fences off the former owner, publishes what is left in the outbox, and applies lost commits again.
        Raises StoreUnavailable, CommitConflict, Fenced.
        """
        while self.epoch is None:
            if self._recent.was_elsewhere and self._recent.found is None:
                found, _ = await self.retry(lambda: self._store.read_position(self._partition))
                self._recent.taking_over(found)
            taken = await self.retry(
                lambda: self._store.take_over(self._partition, self._recent.latest_epoch, self._published)
            )
            self._metrics.partition_takeovers.inc()
            # Another owner may have changed these calls.
            self._listed = CallIndexCache(self._publisher.index_fresh_s)
            self._cache.forget()
            log.info("partition_taken_over", epoch=taken.epoch, kept=taken.kept)
            if taken.kept:
                await self._send_kept(taken)
            self._published, self._trim_at_s = Published(taken.epoch, taken.position), None
            if not await self._recovery.recover(taken, self._again):
                self.acknowledged()
                # The recovery may have changed calls past the cache.
                self._cache.forget()
                self.epoch = taken.epoch
        return self.epoch

    async def _send_kept(self, taken: TakeOver) -> None:
        """Publish the events of the outbox in order, a batch at a time, and trim it once all are published: an
        interrupted take-over leaves all of them to the next one."""
        await self._store.wait_for_replicas(self._partition, taken.epoch, taken.position)
        sent = 0
        while page := await self.retry(partial(self._read_kept, taken.epoch, sent)):
            kept = list(_kept(page))
            # The former owner may not have listed these calls.
            calls = {event.call.id: event.call for event, _ in kept if isinstance(event, CallChanged)}
            await self._send(Publication([*calls.values()], kept, ()))
            sent += len(page)
        await self.retry(lambda: self._store.sent(self._partition, taken.epoch, taken.position))

    async def _read_kept(self, epoch: Epoch, skip: int) -> Sequence[bytes]:
        async with self._window.reading() as max_bytes:
            return await self._store.kept(self._partition, epoch, skip, max_bytes)

    async def _again(self, epoch: Epoch, messages: Sequence[OperationMessage]) -> Folded:
        """Apply operations again whose commits are lost, as many of the first as fit in a batch."""
        folded, publication = await self._commit(epoch, messages)
        await self._publish(epoch, publication)
        return folded

    async def _commit(self, epoch: Epoch, messages: Sequence[OperationMessage]) -> tuple[Folded, Publication]:
        """Apply the first operations, as many as fit in a batch, and commit the result. Raises StoreError."""
        loaded = await self._load(messages)
        folded = fold(messages, loaded, self._limits, self._window.batch_bytes)
        began = time.perf_counter()
        publication = await self._write(epoch, folded, dict.fromkeys(folded.unblocked), messages[: folded.taken])
        self._cache.note(loaded, folded)
        if folded.changes or folded.events:
            self._metrics.committed(folded.taken, time.perf_counter() - began)
        self._metrics.applied(folded.applied)
        _log_refused(folded.applied)
        return folded, publication

    async def _load(self, messages: Sequence[OperationMessage]) -> dict[str, Loaded]:
        """Read the calls and agents that operations name, as many as fit in a batch, and all that these are related to.

        Raises StoreUnavailable.
        """
        wanted: dict[str, list[OperationId]] = {}
        for message in messages:
            operation = message.operation
            wanted.setdefault(operation.key, []).append(operation.id)
            for other in operation.others if isinstance(operation, CallOperation) else ():
                wanted.setdefault(call_key(other), [])
        loaded = await self._read(wanted)
        # Whatever else fits, the first operation has to have all of its calls. Most calls are related to none.
        first = messages[0].operation if messages else None
        named = [call_key(each) for each in first.others] if isinstance(first, CallOperation) else []
        while missing := [key for key in (*named, *_related(loaded.values())) if key not in loaded]:
            loaded |= await self._read({key: wanted.get(key, ()) for key in missing})
        return loaded

    async def _read(self, wanted: Mapping[str, Sequence[OperationId]]) -> dict[str, Loaded]:
        loaded = self._cache.loaded(wanted)
        if len(loaded) < len(wanted):
            missing = {key: operations for key, operations in wanted.items() if key not in loaded}
            async with self._window.reading() as max_bytes:
                loaded.update(await self._store.load(self._partition, missing, max_bytes))
        return loaded

    async def _write(
        self, epoch: Epoch, folded: Folded, blocks: CallBlocks = NO_BLOCKS, messages: Sequence[OperationMessage] = ()
    ) -> Publication:
        """Commit the result of a batch, and return what is to be published. Raises StoreError."""
        calls = self._listed.changed(folded.calls, time.monotonic())
        publication = Publication(calls, list(zip(folded.events, folded.encoded, strict=True)), folded.replies)
        if folded.changes or folded.events or blocks:
            append = self._append_with_commit(epoch, publication)
            async with self._window.exchange(folded.size_bytes if append is None else 2 * folded.size_bytes):
                made = await self._store.commit(
                    self._partition,
                    epoch,
                    folded.changes,
                    folded.encoded,
                    blocks,
                    after=self._recent.position,
                    published=None if self._published is None else self._published.position,
                    following=() if append is None else (append.request,),
                )
            if append is not None:
                self._publisher.committed(publication, append)
            self._metrics.calls_blocked.labels(self._partition).set(made.blocks)
            self._cache.blocked(made.blocks)
            self._recovery.confirmed(made.position, messages, folded)
        else:
            self._recovery.recognised(messages, folded)
        # An earlier commit that is recognised now has to be safe as well before its events are published.
        await self._store.wait_for_replicas(self._partition, epoch, self._recent.position)
        return publication

    def _append_with_commit(self, epoch: Epoch, publication: Publication) -> AppendWithCommit | None:
        # Nothing is published before the replicas have it.
        if self._store.waits_for_replicas:
            return None
        position = CommitPosition(self._recent.position + 1)
        return self._publisher.append_with_commit(publication, self._partition, epoch, position)

    async def _publish(self, epoch: Epoch, publication: Publication) -> None:
        """Publish events and replies, retrying until that succeeds. The next commit, or `trim`, empties the outbox."""
        # Each commit is published before the next one.
        position = self._recent.position
        await self._send(publication)
        self._listed.note(publication.calls, time.monotonic())
        self._published = Published(epoch, position)
        if publication.events:
            self._trim_at_s = time.monotonic() + _TRIM_AFTER_S

    def trim_due_in_s(self) -> float | None:
        """Return the seconds until the outbox is to be trimmed; None if it is empty."""
        return None if self._trim_at_s is None else max(0.0, self._trim_at_s - time.monotonic())

    async def trim(self) -> None:
        """Empty the outbox of published events, which would take memory. Raises Fenced, StoreUnavailable."""
        is_due, self._trim_at_s = self._trim_at_s is not None, None
        if is_due and self.epoch is not None and self._published is not None:
            await self._store.sent(self._partition, self.epoch, self._published.position)

    async def _send(self, sending: Publication) -> None:
        # A retry continues where the last attempt stopped.
        await self.retry(lambda: self._publisher.send(sending))

    async def retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Retry while RabbitMQ or Redis is unavailable; the operations stay unacknowledged, in order."""
        delays = backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S)
        try:
            while True:
                try:
                    done = await attempt()
                except (StoreUnavailable, BrokerUnavailable, BrokerRefused) as error:
                    _WAITS.fails(error, self._partition)
                    self._on_wait()
                    await asyncio.sleep(next(delays))
                else:
                    _WAITS.holds(self._partition)
                    return done
        finally:
            _WAITS.forget(self._partition)


def _related(loaded: Iterable[Loaded]) -> Iterator[str]:
    for each in loaded:
        if isinstance(each.state, Call):
            yield from map(call_key, each.state.related)


def _kept(outbox: Sequence[bytes]) -> Iterator[tuple[Event, bytes]]:
    for raw in outbox:
        try:
            yield EVENT.decode(raw), raw
        except WireError as error:
            log.error("event_unreadable", reason=str(error))


def _log_refused(applied: Sequence[Applied]) -> None:
    """Log each operation that was refused now, without values of user data."""
    for each in applied:
        if each.repeated or each.done.code is StatusCode.SUCCESS:
            continue
        operation = each.operation
        log.info(
            "operation_refused",
            operation_id=operation.id,
            operation=operation.operation_name,
            call_id=operation.call_id if isinstance(operation, CallOperation) else None,
            code=int(each.done.code),
        )
