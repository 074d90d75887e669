"""The port for the worker's metrics."""

from collections.abc import Sequence
from typing import Protocol

from calltag.core.broker.ports import Partition
from calltag.worker.batch import Applied, ParkingReason


class WorkerMetrics(Protocol):
    """The worker's observations; labels are names of operations and codes, never contents."""

    def owned(self, partitions: int) -> None:
        """Set the number of partitions of this worker."""
        ...

    def taken_over(self) -> None:
        """Count a take-over of a partition."""
        ...

    def failed(self) -> None:
        """Count an unexpected failure of the work on a partition."""
        ...

    def fenced(self) -> None:
        """Count a partition that another worker took over during work."""
        ...

    def committed(self, operations: int, seconds: float) -> None:
        """Count the operations of a committed batch, and observe its duration."""
        ...

    def applied(self, applied: Sequence[Applied]) -> None:
        """Count operations that took effect, were refused, or were recognised as repeated."""
        ...

    def silent(self, calls: int) -> None:
        """Count calls that were ended because they had not changed for too long."""
        ...

    def retried(self) -> None:
        """Count a retry of a failed operation."""
        ...

    def parked(self, reason: ParkingReason) -> None:
        """Count a parked operation."""
        ...

    def waiting(self, partition: Partition, operations: int) -> None:
        """Set the number of operations of the partition that wait behind a failing one of their call."""
        ...

    def blocked(self, partition: Partition, blocks: int) -> None:
        """Set the number of blocked calls and agents of the partition."""
        ...

    def left(self, partition: Partition) -> None:
        """Reset the gauges of a partition that this worker has released."""
        ...

    def unreadable(self) -> None:
        """Count a message that cannot be decoded as an operation."""
        ...

    def lost(self, commits: int, reapplied: int, lost_for_good: int) -> None:
        """Count confirmed commits that Redis lost, operations of them that were applied again, and commits that cannot
        be recovered."""
        ...
