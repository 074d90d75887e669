"""Assignment of partitions to workers: rendezvous hashing with an even load.

Every worker computes the same result from the same list of workers. The registry keeps each worker at its place in
that list; when one leaves, the last of the list takes its place. So few partitions move:

- a new worker takes its share, exactly `partitions // workers`, which is the minimum, and nothing else moves;
- when a worker leaves, only its partitions and those of the last of the list get other owners.

Plain rendezvous hashing also moves only the minimum, but leaves some workers with twice the load of others.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from calltag.core.bus.ports import Partition
from calltag.core.store.ports import WorkerId


def owned_by(worker: WorkerId, workers: Sequence[WorkerId], partitions: int) -> frozenset[Partition]:
    """Return the partitions of a worker; `workers` are in the order of their places.

    The numbers of partitions of any two workers differ by at most one.
    """
    if worker not in workers:
        return frozenset()
    place = workers.index(worker)
    return frozenset(
        Partition(partition) for partition, at in enumerate(places(len(workers), partitions)) if at == place
    )


@lru_cache(maxsize=64)
def places(workers: int, partitions: int) -> Sequence[int]:
    """Return the place of the owner of each partition, for that number of workers.

    Workers join one after another; each takes, from those with the most partitions, those of highest weight for it.
    """
    owners = [0] * partitions
    for newcomer in range(1, min(workers, partitions)):
        _share_with(newcomer, owners)
    return tuple(owners)


def _share_with(newcomer: int, owners: list[int]) -> None:
    """Give the newcomer its share of the partitions; the load of the earlier workers is even, and stays so."""
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
