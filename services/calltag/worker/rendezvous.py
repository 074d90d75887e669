"""Which worker owns which partition: rendezvous hashing with an even load.

Every worker computes the same answer from the same list of workers. The registry keeps each worker at its place in
that list; when one goes, the last of the list takes its place. So few partitions change hands:

- who comes takes its share and nothing else moves: exactly `partitions // workers`, which is the least there can be;
- when one goes, only its partitions and those of the last of the list find other owners; all else stays.

Plain rendezvous hashing moves no more than the least, but leaves some workers with twice the load of others.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from calltag.core.bus.ports import Partition
from calltag.core.store.ports import WorkerId


def owned_by(worker: WorkerId, workers: Sequence[WorkerId], partitions: int) -> frozenset[Partition]:
    """The partitions that fall to one of the workers, which are in the order of their places.

    The numbers of partitions of any two workers differ by one at most.
    """
    if worker not in workers:
        return frozenset()
    place = workers.index(worker)
    return frozenset(
        Partition(partition) for partition, at in enumerate(places(len(workers), partitions)) if at == place
    )


@lru_cache(maxsize=64)
def places(workers: int, partitions: int) -> Sequence[int]:
    """The place of the owner of each partition, where there are so many workers.

    One worker after another comes, and takes from those who have most then what has the highest weight for it.
    """
    owners = [0] * partitions
    for newcomer in range(1, min(workers, partitions)):
        _share_with(newcomer, owners)
    return tuple(owners)


def _share_with(newcomer: int, owners: list[int]) -> None:
    """Give the newcomer its share of the partitions; those before it have an even load, and keep one."""
    counts = [0] * newcomer
    for place in owners:
        counts[place] += 1
    wanted = len(owners) // (newcomer + 1)
    ranked = sorted(range(len(owners)), key=lambda partition: _weight(partition, newcomer), reverse=True)
    while wanted:
        most = max(counts)
        for partition in ranked:
            place = owners[partition]
            if wanted and place != newcomer and counts[place] == most:
                counts[place] -= 1
                owners[partition] = newcomer
                wanted -= 1


def _weight(partition: int, place: int) -> bytes:
    return sha256(f"{partition}:{place}".encode()).digest()
