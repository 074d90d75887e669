"""Partitions: a published function, and a fair share for each worker."""

import pytest

from calltag.core.bus.partitioning import hash_tag, partition_of
from calltag.core.bus.ports import Partition
from calltag.core.store.ports import WorkerId
from calltag.worker.rendezvous import owned_by, owner

WORKERS = [WorkerId(f"w{number}") for number in range(4)]


@pytest.mark.parametrize(
    ("key", "partition"), [("01RCC3N118B1V0SL8O7GK2LAES00000R", 12), ("", 20), ("alice", 15), ("é", 19)]
)
def test_golden_vectors(key: str, partition: int) -> None:
    assert partition_of(key, 32) == partition


def test_hash_tags() -> None:
    assert [hash_tag(Partition(number)) for number in (0, 7, 31, 100)] == ["p00", "p07", "p31", "p100"]


def test_every_partition_has_one_owner() -> None:
    owned = [owned_by(worker, WORKERS, 64) for worker in WORKERS]
    assert sorted(partition for each in owned for partition in each) == list(range(64))
    assert all(owned)
    assert owner(Partition(0), []) is None


def test_a_worker_that_goes_leaves_the_others_what_they_have() -> None:
    for worker in WORKERS[1:]:
        assert owned_by(worker, WORKERS, 64) <= owned_by(worker, WORKERS[1:], 64)
