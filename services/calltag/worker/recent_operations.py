"""The operations that were committed lately, kept at hand in case the store loses them.

A fail-over of Redis to a replica that lacked the last writes takes them back. Whoever owned the partition still knows
the operations: those that the store does not have any more are applied again, in order. Which ones is decided by their
ids, so nothing is applied twice.
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
    """How long committed operations are kept, in seconds, and how many and how many bytes of them, a partition."""

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
    """What the store has lost and nobody was told of yet: commits, those of them that are not at hand, operations that
    were applied again, those of them that were refused, the highest version that was told of by key, and the keys under
    which nothing could be applied again."""

    commits: int = 0
    gone: int = 0
    reapplied: int = 0
    refused: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)
    id: str = field(default_factory=lambda: token_hex(8), compare=False)


@dataclass(slots=True)
class RecentOperations:
    """Of one partition, as this process has worked on it: it outlives the PartitionWorker that was interrupted.

    `epoch` and `position` are those that the store confirmed last.
    """

    limits: RecentLimits = RecentLimits()
    epoch: Epoch = NEVER
    position: CommitPosition = NOTHING
    heard: tuple[Epoch, CommitPosition] = (NEVER, NOTHING)
    """How far the store was with the latest owner that told so, elsewhere."""
    found: Epoch | None = None
    """The epoch before this process began to take the partition over from another worker, until that is done."""
    loss: Loss = field(default_factory=Loss)
    _commits: deque[Commit] = field(default_factory=deque)
    _operations: int = 0
    _size_bytes: int = 0

    @property
    def latest_epoch(self) -> Epoch:
        """The highest that is known of, here and elsewhere."""
        return max(self.epoch, self.heard[0])

    @property
    def was_elsewhere(self) -> bool:
        """Whether another worker has owned the partition since, as far as is known."""
        return self.heard > (self.epoch, self.position)

    def taken_over(self, epoch: Epoch, position: CommitPosition) -> None:
        """The partition is owned here, in this epoch."""
        self.epoch, self.position, self.found = epoch, position, None

    def committed(self, commit: Commit) -> None:
        """The store has confirmed a commit."""
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
        """Let go of what is older than it may be: the store's memory of operations must outlast this one."""
        while self._commits and self._commits[0].at_s < now_s - self.limits.seconds:
            self._drop()

    def lost(self, position: CommitPosition) -> int:
        """How many commits are lost if the store is at this position."""
        return max(0, self.position - position)

    def lost_elsewhere(self, epoch: Epoch, position: CommitPosition) -> int:
        """How many commits of the latest owner that told of itself are lost if the store is in this epoch, at this
        position. What an owner after that one has to tell of is not counted."""
        return max(0, self.heard[1] - position) if epoch <= self.heard[0] else 0

    def gone(self, position: CommitPosition) -> int:
        """How many of them are not at hand (any more)."""
        at_hand = {commit.position for commit in self._commits if position < commit.position <= self.position}
        return max(0, self.position - position - len(at_hand))

    def let_go(self, messages: Sequence[OperationMessage]) -> None:
        """These cannot be applied again, and that was told."""
        if not messages:
            return
        ids = {each.operation.id for each in messages}
        self._commits = deque(
            replace(commit, messages=[each for each in commit.messages if each.operation.id not in ids])
            for commit in self._commits
        )
        self._operations = sum(len(commit.messages) for commit in self._commits)

    def commits(self) -> Sequence[Commit]:
        """All that are at hand, oldest first."""
        return tuple(self._commits)

    def versions(self) -> dict[str, int]:
        """The highest version that was confirmed of each call or agent, by key."""
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
class RecentOfPartitions:
    """The recent operations of all partitions that this process works on, or has worked on."""

    limits: RecentLimits = RecentLimits()
    _by_partition: dict[Partition, RecentOperations] = field(default_factory=dict)

    def of(self, partition: Partition) -> RecentOperations:
        """Those of one partition."""
        return self._by_partition.setdefault(partition, RecentOperations(self.limits))

    def hear(self, held: HeldPartition) -> None:
        """What another worker tells of a partition."""
        if held.epoch is not None:
            recent = self.of(held.partition)
            recent.heard = max(recent.heard, (held.epoch, held.position))
