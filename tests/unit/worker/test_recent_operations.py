"""What is kept of the operations committed lately, and what it tells about a store that went back."""

import pytest

from calltag.core.broker.ports import Partition
from calltag.core.contracts.operations import OperationMessage
from calltag.core.domain.ids import CallId, OperationId, UserId
from calltag.core.domain.operations import AttachUserData, CallOperation
from calltag.core.store.ports import CommitPosition, Epoch, HeldPartition
from calltag.worker.loss_recovery import Commit, RecentByPartition, RecentLimits, RecentOperations


def commit(position: int, *, at_s: float = 0.0, version: int = 1, size_bytes: int = 10) -> Commit:
    operation = CallOperation(OperationId(f"o{position}"), CallId("C"), AttachUserData((("n", 1),)), 1, UserId("alice"))
    message = OperationMessage(operation=operation)
    return Commit(CommitPosition(position), at_s, [message], {"call:C": version}, size_bytes)


def recent(*commits: Commit, limits: RecentLimits | None = None) -> RecentOperations:
    made = RecentOperations(limits or RecentLimits())
    made.taken_over(Epoch(7), CommitPosition(0))
    for each in commits:
        made.committed(each)
    return made


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (RecentLimits(), [1, 2, 3]),
        (RecentLimits(operations=2), [2, 3]),
        (RecentLimits(operations=0), []),
        (RecentLimits(size_bytes=15), [3]),
        (RecentLimits(seconds=15), [2, 3]),
    ],
)
def test_age_number_and_bytes_are_bounded(limits: RecentLimits, kept: list[int]) -> None:
    made = recent(*(commit(number, at_s=number * 10) for number in (1, 2, 3)), limits=limits)
    assert [each.position for each in made.commits()] == kept
    assert made.position == 3


@pytest.mark.parametrize(
    ("epoch", "position", "lost"),
    [(9, 5, 0), (9, 6, 0), (9, 2, 3), (8, 2, 3), (10, 2, 0)],
)
def test_what_another_owner_told_of_tells_what_is_lost(epoch: int, position: int, lost: int) -> None:
    partitions = RecentByPartition()
    made = partitions.of(Partition(3))
    made.taken_over(Epoch(7), CommitPosition(3))
    assert (made.was_elsewhere, made.latest_epoch) == (False, 7)
    for held in ((7, 2), (9, 5), (9, 4), (8, 8)):
        partitions.note_other_owner(HeldPartition(Partition(3), Epoch(held[0]), position=CommitPosition(held[1])))
    partitions.note_other_owner(HeldPartition(Partition(3), None, position=CommitPosition(99)))
    assert (made.was_elsewhere, made.latest_epoch) == (True, 9)
    assert made.lost_elsewhere(Epoch(epoch), CommitPosition(position)) == lost
    made.taken_over(Epoch(11), CommitPosition(position))
    assert (made.was_elsewhere, made.latest_epoch) == (False, 11)


@pytest.mark.parametrize(
    ("operations", "position", "lost", "lost_for_good"),
    [(10, 3, 0, 0), (10, 1, 2, 0), (1, 1, 2, 1), (1, 2, 1, 0), (0, 1, 2, 2), (1, 5, 0, 0)],
)
def test_lost_commits(operations: int, position: int, lost: int, lost_for_good: int) -> None:
    made = recent(commit(1), commit(2), commit(3), limits=RecentLimits(operations=operations))
    assert (made.lost(CommitPosition(position)), made.lost_for_good(CommitPosition(position))) == (lost, lost_for_good)


def test_the_highest_version_of_each_call() -> None:
    assert recent(commit(1, version=4), commit(2, version=6), commit(3, version=5)).versions() == {"call:C": 6}
