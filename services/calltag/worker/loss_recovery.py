"""Recovery after a Redis failover: applies lost commits again from memory, and reports those it cannot."""

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Final

import structlog

from calltag.core.broker.ports import Partition
from calltag.core.contracts.operations import EVENT, OPERATION, OperationMessage
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, NotificationType
from calltag.core.domain.ids import EventId, OperationId, call_key, order_key
from calltag.core.domain.status import StatusCode
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.ports import (
    NEVER,
    NOTHING,
    CallStore,
    Change,
    CommitPosition,
    Epoch,
    HeldPartition,
    Loaded,
    State,
    StoreUnavailable,
    TakeOver,
    WriteRefused,
)
from calltag.worker.batch import Applied, Folded
from calltag.worker.metrics import WorkerMetrics

log = structlog.get_logger()
_NONE: Final = OperationId("-")
_LARGE_BYTES: Final = 4_096
Batch = Callable[[Epoch, Sequence[OperationMessage]], Awaitable[Folded]]


@dataclass(frozen=True, slots=True)
class RecentLimits:
    """Bounds of the log of one partition."""

    seconds: float = 60.0
    operations: int = 5_000
    size_bytes: int = 2_097_152


@dataclass(frozen=True, slots=True)
class Commit:
    """The operations that one commit recorded, in order, and the versions of the calls after it by key."""

    position: CommitPosition
    at_s: float
    messages: Sequence[OperationMessage]
    versions: Mapping[str, int]
    size_bytes: int


@dataclass(slots=True)
class Loss:
    """A loss that was not reported yet: lost commits, those of them that are unrecoverable, operations applied again,
    those of them that were refused, the highest published version by key, and the keys that were given up."""

    commits: int = 0
    lost_for_good: int = 0
    reapplied: int = 0
    refused: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    unrecoverable: set[str] = field(default_factory=set)
    id: str = field(default_factory=lambda: token_hex(8), compare=False)


@dataclass(slots=True)
class RecentOperations:
    """The log of one partition in this process; it outlives an interrupted runner.

    `epoch` and `position` are those of the last confirmed commit.
    """

    limits: RecentLimits = RecentLimits()
    epoch: Epoch = NEVER
    position: CommitPosition = NOTHING
    reported: tuple[Epoch, CommitPosition] = (NEVER, NOTHING)
    """The latest position that another owner has reported."""
    found: Epoch | None = None
    """The epoch before this process began a take-over from another worker, until that is done."""
    loss: Loss = field(default_factory=Loss)
    _commits: deque[Commit] = field(default_factory=deque)
    _operations: int = 0
    _size_bytes: int = 0

    @property
    def latest_epoch(self) -> Epoch:
        """The highest known epoch, of this or another owner."""
        return max(self.epoch, self.reported[0])

    @property
    def was_elsewhere(self) -> bool:
        """Whether another worker is known to have owned the partition since."""
        return self.reported > (self.epoch, self.position)

    def taking_over(self, found: Epoch) -> None:
        """Note the epoch that a take-over from another worker finds: one whose reply is lost makes the next one find
        its own."""
        self.found = found

    def taken_over(self, epoch: Epoch, position: CommitPosition) -> None:
        """Note that this process owns the partition in an epoch."""
        self.epoch, self.position, self.found = epoch, position, None

    def committed(self, commit: Commit) -> None:
        """Note a confirmed commit."""
        self.position = max(self.position, commit.position)
        self._commits.append(commit)
        self._operations += len(commit.messages)
        self._size_bytes += commit.size_bytes
        while self._commits and (
            self._operations > self.limits.operations or self._size_bytes > self.limits.size_bytes
        ):
            self._drop()
        self.forget(commit.at_s)

    def forget(self, now_s: float) -> None:
        """Drop old commits: Redis must remember operation ids for longer than this log does."""
        while self._commits and self._commits[0].at_s < now_s - self.limits.seconds:
            self._drop()

    def lost(self, position: CommitPosition) -> int:
        """Return the number of lost commits if Redis is at this position."""
        return max(0, self.position - position)

    def lost_elsewhere(self, epoch: Epoch, position: CommitPosition) -> int:
        """Return the number of lost commits of the latest other owner if Redis is in this epoch at this position; those
        of later owners are not counted."""
        return max(0, self.reported[1] - position) if epoch <= self.reported[0] else 0

    def lost_for_good(self, position: CommitPosition) -> int:
        """Return the number of lost commits that are not in this log."""
        remembered = {commit.position for commit in self._commits if position < commit.position <= self.position}
        return max(0, self.position - position - len(remembered))

    def discard(self, messages: Sequence[OperationMessage]) -> None:
        """Drop operations that cannot be applied again, after that was reported."""
        if not messages:
            return
        ids = {each.operation.id for each in messages}
        self._commits = deque(
            replace(commit, messages=[each for each in commit.messages if each.operation.id not in ids])
            for commit in self._commits
        )
        self._operations = sum(len(commit.messages) for commit in self._commits)

    def commits(self) -> Sequence[Commit]:
        """All commits of the log, oldest first."""
        return tuple(self._commits)

    def versions(self) -> dict[str, int]:
        """The highest confirmed version by key."""
        highest: dict[str, int] = {}
        for commit in self._commits:
            for key, version in commit.versions.items():
                highest[key] = max(version, highest.get(key, 0))
        return highest

    def _drop(self) -> None:
        dropped = self._commits.popleft()
        self._operations -= len(dropped.messages)
        self._size_bytes -= dropped.size_bytes


@dataclass(slots=True)
class RecentByPartition:
    """The logs of all partitions that this process has owned."""

    limits: RecentLimits = RecentLimits()
    _by_partition: dict[Partition, RecentOperations] = field(default_factory=dict)

    def of(self, partition: Partition) -> RecentOperations:
        """Return the log of one partition."""
        return self._by_partition.setdefault(partition, RecentOperations(self.limits))

    def note_other_owner(self, held: HeldPartition) -> None:
        """Note what another worker reports of a partition."""
        if held.epoch is not None:
            recent = self.of(held.partition)
            recent.reported = max(recent.reported, (held.epoch, held.position))


class LossRecovery:
    """Recovers one partition: compares the commits that Redis confirmed with those that it has."""

    def __init__(
        self,
        partition: Partition,
        store: CallStore,
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
        versions: dict[str, int] = {call_key(call.id): call.version for call in folded.calls}
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
        unrecoverable = [each for each in missing if each.operation.order_key in loss.unrecoverable]
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
        messages = [each for each in messages if each.operation.order_key not in loss.unrecoverable]
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
                loss.unrecoverable.add(messages[0].operation.order_key)
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
        self._metrics.commits_lost.inc(loss.commits)
        self._metrics.operations_reapplied.inc(loss.reapplied)
        self._metrics.commits_unrecoverable.inc(loss.lost_for_good)

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
        keys = {key for key in versions if order_key(key) not in self._recent.loss.unrecoverable}
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
