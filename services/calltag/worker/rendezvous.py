"""Which worker owns which partition: rendezvous hashing.

Every worker computes the same answer from the same list of workers; when one comes or goes, only the partitions that
it gains or leaves change hands.
"""

from collections.abc import Sequence
from hashlib import sha256

from calltag.core.bus.ports import Partition
from calltag.core.store.ports import WorkerId


def owner(partition: Partition, workers: Sequence[WorkerId]) -> WorkerId | None:
    """The worker with the highest weight for the partition; None if there are no workers."""
    return max(workers, key=lambda worker: (_weight(partition, worker), worker), default=None)


def owned_by(worker: WorkerId, workers: Sequence[WorkerId], partitions: int) -> frozenset[Partition]:
    """The partitions that fall to one of the workers."""
    return frozenset(
        partition for partition in map(Partition, range(partitions)) if owner(partition, workers) == worker
    )


def _weight(partition: Partition, worker: WorkerId) -> bytes:
    return sha256(f"{partition}:{worker}".encode()).digest()
