"""Partitions: a published function, and a fair share for each worker."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltag.core.broker.ports import Partition, hash_tag, partition_of
from calltag.core.store.ports import WorkerId
from calltag.worker.assignment import owned_by

Owners = dict[int, WorkerId]
NUMBERS = st.integers(1, 24)
PARTITIONS = st.integers(1, 100)


def crowd(size: int) -> list[WorkerId]:
    return [WorkerId(f"w{number}") for number in range(size)]


def shared(workers: Sequence[WorkerId], partitions: int) -> Owners:
    """Who owns what; each partition has one owner."""
    pairs = [(partition, worker) for worker in workers for partition in owned_by(worker, workers, partitions)]
    owners = {int(partition): worker for partition, worker in pairs}
    assert len(owners) == len(pairs) == partitions
    return owners


def moved(before: Owners, after: Owners) -> list[int]:
    return [partition for partition in before if before[partition] != after[partition]]


def without(workers: Sequence[WorkerId], place: int) -> list[WorkerId]:
    """The list when the one at the place has gone, as the registry keeps it: the last one takes the place."""
    left = list(workers)
    last = left.pop()
    if place < len(left):
        left[place] = last
    return left


@pytest.mark.parametrize(
    ("key", "partition"), [("01RCC3N118B1V0SL8O7GK2LAES00000R", 12), ("", 20), ("alice", 15), ("é", 19)]
)
def test_golden_vectors(key: str, partition: int) -> None:
    assert partition_of(key, 32) == partition


def test_hash_tags() -> None:
    assert [hash_tag(Partition(number)) for number in (0, 7, 31, 100)] == ["p00", "p07", "p31", "p100"]


def test_who_is_not_on_the_list_owns_nothing() -> None:
    assert owned_by(WorkerId("w9"), crowd(3), 8) == owned_by(WorkerId("w0"), [], 8) == frozenset()


@given(NUMBERS, PARTITIONS)
def test_the_load_is_even_to_the_nearest_partition(size: int, partitions: int) -> None:
    counts = Counter(shared(crowd(size), partitions).values())
    loads = [counts[worker] for worker in crowd(size)]
    assert max(loads) - min(loads) <= 1


@given(NUMBERS, PARTITIONS)
def test_who_comes_takes_its_share_and_nothing_else_moves(size: int, partitions: int) -> None:
    before, after = shared(crowd(size), partitions), shared(crowd(size + 1), partitions)
    gained = moved(before, after)
    assert {after[partition] for partition in gained} <= {WorkerId(f"w{size}")}
    assert len(gained) == partitions // (size + 1)


@given(NUMBERS, PARTITIONS, st.data())
def test_when_one_goes_only_its_partitions_and_those_of_the_last_move(
    size: int, partitions: int, data: st.DataObject
) -> None:
    workers = crowd(size + 1)
    place = data.draw(st.integers(0, size))
    before, after = shared(workers, partitions), shared(without(workers, place), partitions)
    gone = moved(before, after)
    assert {before[partition] for partition in gone} <= {workers[place], workers[-1]}
    assert len(gone) <= 2 * math.ceil(partitions / (size + 1))


def test_the_same_list_is_shared_out_alike_for_ever() -> None:
    # Workers of two versions share one installation while it is upgraded.
    assert sorted(owned_by(WorkerId("w1"), crowd(3), 32)) == [0, 1, 5, 7, 8, 14, 15, 16, 18, 25, 29]
    assert sorted(owned_by(WorkerId("w4"), crowd(5), 32)) == [2, 4, 14, 18, 19, 29]
