"""Setting right what a fail-over of the store has lost, as far as it is at hand; what is not is told."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from calltag.core.bus.ports import Partition
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, NotificationType
from calltag.core.domain.ids import EventId, OperationId
from calltag.core.domain.status import StatusCode
from calltag.core.store.ports import (
    Change,
    CommitPosition,
    Epoch,
    State,
    StateStore,
    StoreUnavailable,
    TakeOver,
    WritesLost,
)
from calltag.core.wire.messages import EVENT, OPERATION, OperationMessage
from calltag.worker.folding import Folded
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.recent_operations import Commit, RecentOperations

log = structlog.get_logger()
_NONE: Final = OperationId("-")
Batch = Callable[[Epoch, Sequence[OperationMessage]], Awaitable[Folded]]


class Recovery:
    """Of one partition. It knows what the store confirmed, and compares."""

    def __init__(
        self, partition: Partition, store: StateStore, recent: RecentOperations, metrics: WorkerMetrics, batch: int
    ) -> None:
        self._partition = partition
        self._store = store
        self._recent = recent
        self._metrics = metrics
        self._batch = batch
        self._lost = self._gone = self._reapplied = self._refused = 0
        self._versions: dict[str, int] = {}

    def confirmed(self, position: CommitPosition, messages: Sequence[OperationMessage], folded: Folded) -> None:
        """The store has confirmed a commit of this batch. Raises WritesLost if it lacks earlier ones."""
        recorded = {operation for change in folded.changes for operation, _ in change.done}
        # Nobody waits for an answer any more when they are applied again.
        kept = [each.model_copy(update={"reply_to": None}) for each in messages if each.operation.id in recorded]
        versions = {change.key: change.after.version for change in folded.changes if change.after is not None}
        size_bytes = sum(len(OPERATION.encode(message)) for message in kept)
        known = self._recent.position
        self._recent.committed(Commit(position, time.monotonic(), kept, versions, size_bytes))
        if position <= known:
            raise WritesLost(f"the store is at commit {position} after {known} were confirmed")

    async def has_lost(self) -> bool:
        """Whether the store is behind what this owner left there. One that is away is not (yet)."""
        self._recent.forget(time.monotonic())
        if not self._recent:
            return False
        try:
            epoch, position = await self._store.standing(self._partition)
        except StoreUnavailable:
            return False
        return self._recent.is_ahead_of(epoch, position)

    async def recover(self, taken: TakeOver, handle: Batch) -> bool:
        """After a take-over: apply again what the store has lost, through `handle`, and tell of it.

        What is at hand is looked up each time: positions alone do not tell when commits were lost and others made
        since. Returns whether the partition has to be taken over once more, as there is something more to send.
        Raises what `handle` raises: then it begins again with the next take-over.
        """
        recent = self._recent
        recent.forget(time.monotonic())
        if recent.epoch:
            self._lost = max(self._lost, recent.lost(taken.position))
            self._gone = max(self._gone, recent.gone(taken.position))
        commits = recent.commits()
        for key, version in recent.versions().items():
            self._versions[key] = max(version, self._versions.get(key, 0))
        recent.taken_over(taken.epoch, taken.position)
        missing = await self._missing([message for commit in commits for message in commit.messages])
        if missing:
            ids = {message.operation.id for message in missing}
            self._lost = max(self._lost, sum(any(m.operation.id in ids for m in each.messages) for each in commits))
        for start in range(0, len(missing), self._batch):
            for applied in (await handle(taken.epoch, missing[start : start + self._batch])).applied:
                self._reapplied += not applied.repeated
                self._refused += not applied.repeated and applied.done.code is not StatusCode.SUCCESS
        raised = bool(self._lost) and await self._raise_versions(taken.epoch, self._versions)
        self._versions.clear()
        if self._lost:
            await self._tell()
        return raised

    async def _tell(self) -> None:
        await self._store.note_loss(self._partition, self._lost, self._gone, time.time_ns() // 1_000_000)
        log.error(
            "store_lost_writes",
            partition=self._partition,
            commits=self._lost,
            reapplied=self._reapplied,
            refused=self._refused,
            commits_gone=self._gone,
        )
        self._metrics.lost(self._lost, self._reapplied, self._gone)
        self._lost = self._gone = self._reapplied = self._refused = 0

    async def _missing(self, messages: Sequence[OperationMessage]) -> list[OperationMessage]:
        wanted: dict[str, list[OperationId]] = {}
        for message in messages:
            wanted.setdefault(message.operation.key, []).append(message.operation.id)
        if not wanted:
            return []
        loaded = await self._store.load(self._partition, wanted)
        return [
            each
            for each in messages
            if each.operation.id not in (found := loaded[each.operation.key]).done and found.unreadable is None
        ]

    async def _raise_versions(self, epoch: Epoch, versions: dict[str, int]) -> bool:
        """No call may come by a version again that subscribers have seen with something else: where not all could be
        applied again, the version goes on from the highest, and the call is told as it is now."""
        if not versions:
            return False
        loaded = await self._store.load(self._partition, {key: [_NONE] for key in versions})
        changes = [
            Change(key, found.state, replace(found.state, version=versions[key] + 1), ())
            for key, found in loaded.items()
            if found.state is not None and found.state.version < versions[key]
        ]
        events = [EVENT.encode(_restored(change.after)) for change in changes if change.after is not None]
        if changes:
            await self._store.commit(self._partition, epoch, changes, events)
        return bool(changes)


def _restored(state: State) -> Event:
    """What tells subscribers how the state is after a loss."""
    now_ms = time.time_ns() // 1_000_000
    if isinstance(state, Call):
        event_id = EventId(f"restored-{state.id}-{state.version}")
        return CallChanged(event_id, NotificationType.ATTACHED_DATA_CHANGED, state, state.users(), now_ms)
    event_id = EventId(f"restored-{state.user}-{state.version}")
    return DevicesChanged(event_id, state.user, state.devices, state.version, now_ms)
