"""In-memory log of recently committed operations, in case Redis loses them in a failover.

A failover to a replica that lacks the last writes loses them. The owner of the partition then applies the operations
again whose ids Redis does not have, in order.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex

from calltag.core.bus.ports import Partition
from calltag.core.store.ports import NEVER, NOTHING, CommitPosition, Epoch, HeldPartition
from calltag.core.wire.messages import OperationMessage


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
    versions: dict[str, int]
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
