"""What is kept at hand for the case that the store loses it."""

from dataclasses import dataclass, replace

import pytest

from calltag.core.bus.ports import Partition
from calltag.core.domain.call import Call, CallType
from calltag.core.domain.ids import CallId, ConnId, OperationId, UserId
from calltag.core.domain.operations import CallOperation, Hold
from calltag.core.domain.status import StatusCode
from calltag.core.store.ports import CommitPosition, Done, Epoch, StoreUnavailable
from calltag.core.telemetry.metrics import Metrics
from calltag.core.wire.messages import OperationMessage
from calltag.worker.folding import Applied, Folded
from calltag.worker.observations import WorkerObservations
from calltag.worker.recent_operations import RecentOperations
from calltag.worker.recovery import Recovery

BATCH = 100
CALL = Call(CallId("C"), ConnId("c"), CallType.INTERNAL, "", 1, (), version=500)


@pytest.mark.parametrize(("version", "kept"), [(499, 1), (401, 1), (400, 0), (1, 0)])
def test_a_repeat_of_what_was_done_long_ago_is_not_kept(version: int, kept: int) -> None:
    """The store may forget it before it is let go of here, and it would be taken for lost."""
    recent = RecentOperations()
    recovery = Recovery(Partition(0), None, recent, WorkerObservations(Metrics()), BATCH)  # type: ignore[arg-type]
    operation = CallOperation(OperationId("o"), CALL.id, Hold(), 1, UserId("alice"))
    applied = [Applied(operation, Done(StatusCode.SUCCESS, version), repeated=True)]
    recovery.recognised([OperationMessage(operation=operation)], replace(Folded(), applied=applied, calls=[CALL]))
    assert sum(len(commit.messages) for commit in recent.commits()) == kept


@dataclass
class Standing:
    """A store that tells how far it is, or is away."""

    found: tuple[Epoch, CommitPosition] | None

    async def standing(self, _: Partition) -> tuple[Epoch, CommitPosition]:
        if self.found is None:
            raise StoreUnavailable("away")
        return self.found


def recovery_of(store: Standing, recent: RecentOperations) -> Recovery:
    return Recovery(Partition(0), store, recent, WorkerObservations(Metrics()), BATCH)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("epoch", "position", "lost"),
    [(7, 3, False), (7, 4, False), (7, 2, True), (6, 3, True), (6, 9, True), (8, 2, False)],
)
async def test_a_store_that_went_back_is_told_from_another_owner(epoch: int, position: int, *, lost: bool) -> None:
    recent = RecentOperations()
    recent.taken_over(Epoch(7), CommitPosition(3))
    recovery = recovery_of(Standing((Epoch(epoch), CommitPosition(position))), recent)
    assert await recovery.has_lost() == lost


async def test_a_loss_that_was_told_to_nobody_is_still_one_for_its_owner() -> None:
    recent = RecentOperations()
    recent.taken_over(Epoch(7), CommitPosition(3))
    recent.loss.commits = 1
    assert await recovery_of(Standing((Epoch(7), CommitPosition(3))), recent).has_lost()
    assert not await recovery_of(Standing((Epoch(8), CommitPosition(3))), recent).has_lost()


async def test_neither_a_store_that_is_away_has_lost_anything_nor_one_that_was_never_written_to() -> None:
    recent = RecentOperations()
    assert not await recovery_of(Standing((Epoch(0), CommitPosition(0))), recent).has_lost()
    recent.taken_over(Epoch(7), CommitPosition(3))
    assert not await recovery_of(Standing(None), recent).has_lost()
