"""What is kept at hand for the case that the store loses it."""

from dataclasses import replace

import pytest

from calltag.core.bus.ports import Partition
from calltag.core.domain.call import Call, CallType
from calltag.core.domain.ids import CallId, ConnId, OperationId, UserId
from calltag.core.domain.operations import CallOperation, Hold
from calltag.core.domain.status import StatusCode
from calltag.core.store.ports import Done
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
