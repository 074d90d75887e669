"""Folding a batch: each operation once, in order, with one reply each."""

from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import OperationMessage
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import CallChanged, OperationRefused
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.operations import AttachUserData, CallAction, CallOperation, Hangup, UpdateUserData
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.status import StatusCode
from calltag.core.store.ports import Change, Done, Loaded
from calltag.worker.batch import Folded, fold

ALICE, GATEWAY = UserId("alice"), NodeId("gateway")
LIMITS = CallLimits(lambda _: 1)
OK = StatusCode.SUCCESS


def call(name: str) -> Call:
    leg = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), ALICE)
    return Call(CallId(name), ConnId("c"), CallType.INBOUND, "", 1_000, (leg,), version=1)


def message(number: int, action: CallAction, name: str = "C1", reply_to: NodeId | None = GATEWAY) -> OperationMessage:
    operation = CallOperation(OperationId(f"o{number}"), CallId(name), action, 1, ALICE)
    return OperationMessage(operation=operation, reply_to=reply_to)


def attach(number: int, name: str = "C1") -> OperationMessage:
    return message(number, AttachUserData((("n", number),)), name)


def folded(*messages: OperationMessage, done: dict[OperationId, Done] | None = None) -> Folded:
    """The batch folded over calls C1 and C2, of which both are there."""
    loaded = {f"call:{name}": Loaded(call(name), done or {}) for name in ("C1", "C2")}
    return fold(messages, loaded, LIMITS)


def values_of(outcome: Folded, name: str = "C1") -> object:
    [after] = [each.after for each in outcome.changes if each.key == f"call:{name}"]
    assert isinstance(after, Call)
    return after.user_data.as_object()


def test_operations_take_effect_and_are_told_in_order() -> None:
    outcome = folded(attach(1), message(2, UpdateUserData((("n", 2),))), attach(3), message(4, Hangup()), attach(5))
    assert values_of(outcome) == {"n": [2, 3]}
    assert [event.id for event in outcome.events] == ["o1", "o2", "o3", "o4", "o5"]
    assert [type(event) for event in outcome.events] == [CallChanged] * 4 + [OperationRefused]
    assert [reply.operation_id for _, reply in outcome.replies] == ["o1", "o2", "o3", "o4", "o5"]
    [change] = outcome.changes
    assert [operation for operation, _ in change.done] == ["o1", "o2", "o3", "o4", "o5"]
    assert [done.version for _, done in change.done] == [2, 3, 4, 5, 5]


def test_the_same_operation_twice_in_a_batch_takes_effect_once() -> None:
    outcome = folded(attach(1), attach(1))
    assert values_of(outcome) == {"n": 1}
    assert len(outcome.events) == 1
    assert [each.repeated for each in outcome.applied] == [False, True]
    assert [reply.code for _, reply in outcome.replies] == [OK, OK]
    assert outcome.changes[0].done == ((OperationId("o1"), Done(OK, 2)),)


def test_an_operation_that_was_done_before_only_gets_its_reply() -> None:
    refused = Done(StatusCode.OUT_OF_RANGE, 1, "too much")
    outcome = folded(attach(1), done={OperationId("o1"): refused})
    assert (outcome.changes, outcome.events) == ([], [])
    assert [each.repeated for each in outcome.applied] == [True]
    [(node, reply)] = outcome.replies
    assert (node, reply.code, reply.text, reply.call) == (GATEWAY, refused.code, "too much", call("C1"))


def test_what_happens_to_one_call_leaves_the_others_as_they_are() -> None:
    outcome = folded(attach(1), attach(2, "C2"), attach(3))
    assert (values_of(outcome), values_of(outcome, "C2")) == ({"n": [1, 3]}, {"n": 2})
    untouched = folded(attach(1))
    assert [each.key for each in untouched.changes] == ["call:C1"]


def test_a_refusal_is_remembered_and_changes_nothing() -> None:
    outcome = fold([attach(1)], {"call:C1": Loaded(None)}, LIMITS)
    [(_, done)] = outcome.changes[0].done
    assert outcome.changes == [Change("call:C1", None, None, ((OperationId("o1"), done),))]
    assert done.code is StatusCode.NOT_FOUND
    assert outcome.calls == []


def test_who_does_not_wait_gets_no_reply() -> None:
    assert folded(message(1, Hangup(), reply_to=None)).replies == []
