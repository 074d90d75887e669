"""Recovery after a Redis failover: applies lost commits again from memory, and reports those it cannot."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog

from calltag.core.bus.ports import Partition
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, NotificationType
from calltag.core.domain.ids import EventId, OperationId
from calltag.core.domain.status import StatusCode
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.ports import (
    NEVER,
    Change,
    CommitPosition,
    Epoch,
    Loaded,
    State,
    StateStore,
    StoreUnavailable,
    TakeOver,
    WriteRefused,
)
from calltag.core.wire.messages import EVENT, OPERATION, OperationMessage
from calltag.worker.folding import Applied, Folded
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.recent_operations import Commit, Loss, RecentOperations

log = structlog.get_logger()
_NONE: Final = OperationId("-")
_LARGE_BYTES: Final = 4_096
Batch = Callable[[Epoch, Sequence[OperationMessage]], Awaitable[Folded]]


class LossRecovery:
    """Recovers one partition: compares the commits that Redis confirmed with those that it has."""

    def __init__(
        self,
        partition: Partition,
        store: StateStore,
        recent: RecentOperations,
        metrics: WorkerMetrics,
        batch: int,
        *,
        window: ByteWindow | None = None,
    ) -> None:
        self._partition = partition
        self._store = store
        self._recent = recent
        self._metrics = metrics
        self._batch = batch
        self._window = ByteWindow() if window is None else window

    def confirmed(self, position: CommitPosition, messages: Sequence[OperationMessage], folded: Folded) -> None:
        """Note a confirmed commit; the commit script has checked that Redis has all earlier ones."""
        self._keep(position, messages, folded)

    def recognised(self, messages: Sequence[OperationMessage], folded: Folded) -> None:
        """Note a batch of repeated operations, whose first owner may have crashed."""
        if any(each.repeated for each in folded.applied):
            self._keep(self._recent.position, messages, folded)

    def _keep(self, position: CommitPosition, messages: Sequence[OperationMessage], folded: Folded) -> None:
        there = {operation for change in folded.changes for operation, _ in change.done}
        versions = {f"call:{call.id}": call.version for call in folded.calls}
        versions |= {change.key: change.after.version for change in folded.changes if change.after is not None}
        # An old repeat is not lost, and Redis may forget its id before this memory does.
        there |= {
            each.operation.id
            for each in folded.applied
            if each.repeated and versions.get(each.operation.key, 0) - each.done.version < self._batch
        }
        kept = [each for each in messages if each.operation.id in there]
        encoded_sizes = {event.id: len(raw) for event, raw in zip(folded.events, folded.encoded, strict=True)}
        size_bytes = sum(_size_bytes(each, encoded_sizes.get(EventId(each.operation.id))) for each in kept)
        self._recent.committed(Commit(position, time.monotonic(), kept, versions, size_bytes))

    async def has_lost(self) -> bool:
        """Return whether Redis is behind the last confirmed commit, or a loss was not reported yet."""
        self._recent.forget(time.monotonic())
        if self._recent.epoch == NEVER:
            return False
        # A commit that is confirmed meanwhile is not in the reply. A higher epoch is that of another owner, who is not
        # disturbed.
        known = self._recent.epoch, self._recent.position
        try:
            stored = await self._store.read_position(self._partition)
        except StoreUnavailable:
            return False
        unreported = stored[0] == self._recent.epoch and bool(self._recent.loss.commits)
        return unreported or stored < known

    async def recover(self, taken: TakeOver, handle: Batch) -> bool:
        """After a take-over, apply lost operations again through `handle`, and report the loss.

        All remembered operations are looked up each time, since the position does not show a loss that was followed
        by new commits. Returns whether the partition has to be taken over once more to publish further events. Raises
        what `handle` raises; the next take-over then starts anew.
        """
        recent, loss = self._recent, self._recent.loss
        recent.forget(time.monotonic())
        lost_for_good = 0
        if recent.was_elsewhere:
            # Another worker made those commits, and may have them in memory, but is no longer the owner.
            former = taken.former if recent.found is None else min(recent.found, taken.former)
            lost_for_good = recent.lost_elsewhere(former, taken.position)
            loss.commits = max(loss.commits, lost_for_good)
        elif recent.epoch:
            loss.commits = max(loss.commits, recent.lost(taken.position))
            lost_for_good = recent.lost_for_good(taken.position)
        loss.lost_for_good = max(loss.lost_for_good, lost_for_good)
        commits = recent.commits()
        for key, version in recent.versions().items():
            loss.versions[key] = max(version, loss.versions.get(key, 0))
        recent.taken_over(taken.epoch, taken.position)
        missing = await self._missing([message for commit in commits for message in commit.messages])
        loss.commits = max(loss.commits, _touched(commits, missing))
        for start in range(0, len(missing), self._batch):
            await self._again(taken.epoch, missing[start : start + self._batch], handle)
        unrecoverable = [each for each in missing if each.operation.key in loss.unrecoverable]
        loss.lost_for_good = max(loss.lost_for_good, lost_for_good + _touched(commits, unrecoverable))
        raised = bool(loss.commits) and await self._raise_versions(taken.epoch, loss.versions)
        if loss.commits:
            await self._report(loss)
        recent.discard(unrecoverable)
        # A recovery that is interrupted before this reports the loss the next time.
        recent.loss = Loss()
        return raised

    async def _again(self, epoch: Epoch, messages: Sequence[OperationMessage], handle: Batch) -> None:
        """Apply operations again, except those of calls given up: one that cannot be written holds up no other."""
        loss = self._recent.loss
        messages = [each for each in messages if each.operation.key not in loss.unrecoverable]
        if not messages:
            return
        try:
            while messages:
                folded = await handle(epoch, messages)
                messages = messages[folded.taken :]
                loss.reapplied += sum(not each.repeated for each in folded.applied)
                loss.refused += sum(_is_refused(each) for each in folded.applied)
        except WriteRefused as error:
            if error.__cause__ is not None:
                # The server as a whole refuses writes.
                raise
            if len(messages) == 1:
                loss.unrecoverable.add(messages[0].operation.key)
                log.warning("operation_not_reapplied", key=messages[0].operation.key, reason=str(error))
                return
            for each in messages:
                await self._again(epoch, [each], handle)

    async def _report(self, loss: Loss) -> None:
        at_ms = time.time_ns() // 1_000_000
        await self._store.note_loss(self._partition, loss.id, loss.commits, loss.lost_for_good, at_ms)
        log.error(
            "store_lost_writes",
            partition=self._partition,
            commits=loss.commits,
            reapplied=loss.reapplied,
            refused=loss.refused,
            commits_gone=loss.lost_for_good,
        )
        self._metrics.lost(loss.commits, loss.reapplied, loss.lost_for_good)

    async def _missing(self, messages: Sequence[OperationMessage]) -> list[OperationMessage]:
        wanted: dict[str, list[OperationId]] = {}
        for message in messages:
            wanted.setdefault(message.operation.key, []).append(message.operation.id)
        there = {
            operation
            async for page in self._loaded(wanted)
            for key, found in page.items()
            for operation in (wanted[key] if found.unreadable is not None else found.done)
        }
        # Their callers have timed out.
        return [each.model_copy(update={"reply_to": None}) for each in messages if each.operation.id not in there]

    async def _loaded(self, wanted: Mapping[str, Sequence[OperationId]]) -> AsyncIterator[Mapping[str, Loaded]]:
        """Load the keys, a batch at a time."""
        keys = list(wanted)
        while keys:
            some = {key: wanted[key] for key in keys[: self._batch]}
            async with self._window.reading() as max_bytes:
                page = await self._store.load(self._partition, some, max_bytes)
            yield page
            keys = keys[len(page) :]

    async def _raise_versions(self, epoch: Epoch, versions: dict[str, int]) -> bool:
        """Continue the versions of calls from the highest that subscribers have seen, and publish their state, where
        not all operations could be applied again: no version is used twice."""
        keys = versions.keys() - self._recent.loss.unrecoverable
        has_raised = False
        async for page in self._loaded({key: [_NONE] for key in keys}):
            raised = {
                key: (found.state, replace(found.state, version=versions[key] + 1))
                for key, found in page.items()
                if found.state is not None and found.state.version < versions[key]
            }
            if raised:
                has_raised = True
                changes = [Change(key, before, after, ()) for key, (before, after) in raised.items()]
                events = [EVENT.encode(_restored(after)) for _, after in raised.values()]
                async with self._window.exchange(sum(map(len, events))):
                    made = await self._store.commit(
                        self._partition, epoch, changes, events, after=self._recent.position
                    )
                # Should this be lost as well, versions continue from here.
                after_it = {key: after.version for key, (_, after) in raised.items()}
                self._recent.committed(Commit(made.position, time.monotonic(), (), after_it, 0))
        return has_raised


def _size_bytes(message: OperationMessage, event_bytes: int | None) -> int:
    """Return the approximate size of an operation: that of its event if that is small, as a large event consists mostly
    of earlier data."""
    return event_bytes if event_bytes is not None and event_bytes < _LARGE_BYTES else len(OPERATION.encode(message))


def _touched(commits: Sequence[Commit], messages: Sequence[OperationMessage]) -> int:
    """Return the number of commits that recorded one of these."""
    ids = {each.operation.id for each in messages}
    return sum(any(each.operation.id in ids for each in commit.messages) for commit in commits)


def _is_refused(applied: Applied) -> bool:
    return not applied.repeated and applied.done.code is not StatusCode.SUCCESS


def _restored(state: State) -> Event:
    """Return the event with the state after a loss."""
    now_ms = time.time_ns() // 1_000_000
    if isinstance(state, Call):
        event_id = EventId(f"restored-{state.id}-{state.version}")
        return CallChanged(event_id, NotificationType.ATTACHED_DATA_CHANGED, state, state.users(), now_ms)
    event_id = EventId(f"restored-{state.user}-{state.version}")
    return DevicesChanged(event_id, state.user, state.devices, state.version, now_ms)
