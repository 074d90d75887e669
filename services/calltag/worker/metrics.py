"""What the worker counts."""

from collections.abc import Sequence
from typing import Protocol

from calltag.core.bus.ports import Partition
from calltag.worker.failure import ParkingReason
from calltag.worker.folding import Applied


class WorkerMetrics(Protocol):
    """The worker's observations; labels are names of operations and codes, never contents."""

    def owned(self, partitions: int) -> None:
        """How many partitions the worker has now."""
        ...

    def taken_over(self) -> None:
        """A partition was taken over."""
        ...

    def failed(self) -> None:
        """Work on a partition failed for no known reason."""
        ...

    def fenced(self) -> None:
        """A partition was lost to another worker in the middle of work."""
        ...

    def committed(self, operations: int, seconds: float) -> None:
        """A batch was committed."""
        ...

    def applied(self, applied: Sequence[Applied]) -> None:
        """Operations took effect, were refused, or were recognised as repeated."""
        ...

    def silent(self, calls: int) -> None:
        """Calls were ended that had not changed for too long."""
        ...

    def retried(self) -> None:
        """An operation that had failed was tried again."""
        ...

    def parked(self, reason: ParkingReason) -> None:
        """An operation was parked."""
        ...

    def waiting(self, partition: Partition, operations: int) -> None:
        """How many operations of the partition wait because one of their call fails."""
        ...

    def blocked(self, partition: Partition, blocks: int) -> None:
        """How many calls and agents of the partition are marked."""
        ...

    def left(self, partition: Partition) -> None:
        """The partition is no longer worked on here."""
        ...

    def unreadable(self) -> None:
        """A message was not an operation."""
        ...

    def lost(self, commits: int, reapplied: int, gone: int) -> None:
        """The store lost commits that it had confirmed; so many operations of them were applied again, and so many of
        the commits are gone for good."""
        ...
