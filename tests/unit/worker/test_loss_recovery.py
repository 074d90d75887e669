"""What is kept at hand for the case that the store loses it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from calltag.core.broker.ports import Partition
from calltag.core.contracts.operations import OperationMessage
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.operations import CallOperation, Hold
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import UserData
from calltag.core.store.ports import (
    Change,
    CommitPosition,
    Committal,
    Done,
    Epoch,
    Loaded,
    StoreUnavailable,
    TakeOver,
)
from calltag.core.telemetry.metrics import Metrics
from calltag.worker.batch import Applied, Folded, fold
from calltag.worker.loss_recovery import Commit, LossRecovery, RecentOperations
from calltag.worker.metrics import WorkerMetrics

BATCH = 100
CALL = Call(CallId("C"), ConnId("c"), CallType.INTERNAL, "", 1, (), version=500)
LEG = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), UserId("alice"))


@pytest.mark.parametrize(("version", "kept"), [(499, 1), (401, 1), (400, 0), (1, 0)])
def test_a_repeat_of_what_was_done_long_ago_is_not_kept(version: int, kept: int) -> None:
    """The store may forget it before it is let go of here, and it would be taken for lost."""
    recent = RecentOperations()
    recovery = LossRecovery(Partition(0), None, recent, WorkerMetrics(Metrics()), BATCH)  # type: ignore[arg-type]
    operation = CallOperation(OperationId("o"), CALL.id, Hold(), 1, UserId("alice"))
    applied = [Applied(operation, Done(StatusCode.SUCCESS, version), repeated=True)]
    recovery.recognised([OperationMessage(operation=operation)], replace(Folded(), applied=applied, calls=[CALL]))
    assert sum(len(commit.messages) for commit in recent.commits()) == kept


@pytest.mark.parametrize(("held", "most_bytes"), [(10, 1_000), (60_000, 1_000)])
def test_an_operation_counts_with_its_own_size_however_large_its_call_is(held: int, most_bytes: int) -> None:
    recent = RecentOperations()
    recovery = LossRecovery(Partition(0), None, recent, WorkerMetrics(Metrics()), BATCH)  # type: ignore[arg-type]
    call = replace(CALL, legs=(LEG,), user_data=UserData({"k": ("x" * held,)}))
    message = OperationMessage(operation=CallOperation(OperationId("o"), CALL.id, Hold(), 1, UserId("alice")))
    folded = fold([message], {"call:C": Loaded(call)}, CallLimits(lambda _: 1))
    assert (len(folded.encoded[0]) > held, folded.applied[0].done.code) == (True, StatusCode.SUCCESS)
    recovery.confirmed(CommitPosition(1), [message], folded)
    [commit] = recent.commits()
    assert 0 < commit.size_bytes < most_bytes


class Loading:
    """A store that gives two calls at a time."""

    def __init__(self) -> None:
        self.loaded: list[list[str]] = []
        self.committed: list[list[str]] = []

    async def load(
        self, _: Partition, wanted: Mapping[str, Sequence[OperationId]], __: int | None = None
    ) -> Mapping[str, Loaded]:
        self.loaded.append(list(wanted)[:2])
        return {key: Loaded(replace(CALL, id=CallId(key[5:]))) for key in self.loaded[-1]}

    async def commit(
        self, _: Partition, __: Epoch, changes: Sequence[Change], *___: object, **____: object
    ) -> Committal:
        self.committed.append([each.key for each in changes])
        return Committal(CommitPosition(len(self.committed)), 0)

    async def note_loss(self, *_: object) -> None:
        pass


async def test_what_the_store_lost_is_looked_up_and_told_a_batch_at_a_time() -> None:
    recent, store = RecentOperations(), Loading()
    recent.taken_over(Epoch(7), CommitPosition(0))
    messages = [
        OperationMessage(operation=CallOperation(OperationId(f"o{number}"), CallId(f"C{number}"), Hold(), 1))
        for number in range(5)
    ]
    versions: dict[str, int] = {each.operation.key: 900 for each in messages}
    recent.committed(Commit(CommitPosition(1), time.monotonic(), messages, versions, 10))
    applied: list[list[str]] = []

    async def handle(_: Epoch, some: Sequence[OperationMessage]) -> Folded:
        applied.append([each.operation.id for each in some])
        return Folded(taken=min(2, len(some)))

    recovery = LossRecovery(Partition(0), store, recent, WorkerMetrics(Metrics()), BATCH)  # type: ignore[arg-type]
    assert await recovery.recover(TakeOver(Epoch(8)), handle)
    keys = [[f"call:C{number}" for number in some] for some in ((0, 1), (2, 3), (4,))]
    assert store.loaded[:3] == keys
    assert applied == [["o0", "o1", "o2", "o3", "o4"], ["o2", "o3", "o4"], ["o4"]]
    assert [len(each) for each in store.committed] == [2, 2, 1]
    assert sorted(key for each in store.committed for key in each) == [key for each in keys for key in each]


@dataclass
class Standing:
    """A store that tells how far it is, or is away."""

    found: tuple[Epoch, CommitPosition] | None

    async def read_position(self, _: Partition) -> tuple[Epoch, CommitPosition]:
        if self.found is None:
            raise StoreUnavailable("away")
        return self.found


def recovery_of(store: Standing, recent: RecentOperations) -> LossRecovery:
    return LossRecovery(Partition(0), store, recent, WorkerMetrics(Metrics()), BATCH)  # type: ignore[arg-type]


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
