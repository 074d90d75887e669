"""A batch of operations comes to changes, events and replies."""

from collections.abc import Mapping
from dataclasses import replace

from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import OperationMessage
from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import CallChanged, OperationRefused
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.operations import (
    AgentOperation,
    AttachUserData,
    CallAction,
    CallEnded,
    CallOperation,
    CallStarted,
    EndContactCenterSession,
    Hangup,
    Hold,
    PartyChanged,
    Retrieve,
    SetCallDisposition,
)
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.status import StatusCode
from calltag.core.store.ports import CallBlock, Done, Loaded, StateUnreadable
from calltag.worker.batch import Folded, fold

ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")
LEGS = tuple(
    Leg(number, LegState.ESTABLISHED, DeviceId(f"d{number}"), user)
    for number, user in (("15000", ALICE), ("15001", BOB), ("15002", CAROL))
)
CALL = Call(CallId("C"), ConnId("c"), CallType.INTERNAL, "15001", 0, LEGS, version=1)
UNREADABLE = Loaded(None, {}, StateUnreadable("the record of call:C is not of a form that this version reads"))
NODE = NodeId("n")


def message(
    name: str, action: CallAction, sender: UserId | None = None, call: str = "C", *, administrator: bool = False
) -> OperationMessage:
    operation = CallOperation(OperationId(name), CallId(call), action, 5, sender, administrator)
    return OperationMessage(operation=operation, reply_to=NODE)


def folded(loaded: Mapping[str, Loaded], *messages: OperationMessage) -> Folded:
    return fold(messages, loaded, CallLimits(lambda _: 1))


def attaching(count: int, *calls: str) -> list[OperationMessage]:
    """Values are attached to the calls in turn."""
    return [
        message(f"o{number}", AttachUserData(((f"k{number}", "x" * 100),)), ALICE, calls[number % len(calls)])
        for number in range(count)
    ]


def codes(result: Folded) -> list[StatusCode]:
    return [reply.code for _, reply in result.replies]


def test_what_the_switch_tells_of_no_call_is_not_done_and_applies_when_told_again() -> None:
    party = PartyChanged((Leg("15001", LegState.HELD),))
    early = folded({"call:C": Loaded(None)}, message("p", party), message("e", CallEnded()))
    assert codes(early) == [StatusCode.NOT_FOUND, StatusCode.NOT_FOUND]
    assert (early.changes, early.events) == ([], [])
    started = message("s", CallStarted(ConnId("c"), CallType.INTERNAL, "1", LEGS))
    again = folded(
        {"call:C": Loaded(None)}, message("p", party), started, message("p", party), message("e", CallEnded())
    )
    assert codes(again) == [StatusCode.NOT_FOUND, *[StatusCode.SUCCESS] * 3]
    assert [name for name, _ in again.changes[0].done] == ["s", "p", "e"]


def test_what_a_client_asks_of_no_call_is_done() -> None:
    result = folded({"call:C": Loaded(None)}, message("h", Hold(), ALICE))
    assert codes(result) == [StatusCode.NOT_FOUND]
    assert [name for name, _ in result.changes[0].done] == ["h"]


def test_a_record_that_cannot_be_read_holds_its_operations_and_no_others() -> None:
    loaded = {"call:C": UNREADABLE, "call:D": Loaded(replace(CALL, id=CallId("D")))}
    result = folded(
        loaded,
        message("o1", Hold(), ALICE),
        message("o2", Hold(), ALICE, "D"),
        message("o3", CallEnded()),
    )
    assert (codes(result), result.held) == ([StatusCode.SUCCESS], [0, 2])
    assert result.faults["call:C"].detail == str(UNREADABLE.unreadable)
    assert [change.key for change in result.changes] == ["call:D"]
    [changed] = result.events
    assert isinstance(changed, CallChanged)


def test_an_operation_that_raises_holds_those_behind_it_and_lets_those_before_it_be() -> None:
    loaded = {"call:C": Loaded(CALL), "call:D": Loaded(replace(CALL, id=CallId("D")))}
    poison = message("o2", AttachUserData((("SECRET", 1),)), ALICE)

    def length(value: object) -> int:
        raise KeyError(value)

    attached = message("o4", Retrieve(), ALICE)
    works = [message("o1", Hold(), ALICE), poison, message("o3", Hold(), ALICE, "D"), attached]
    result = fold(works, loaded, CallLimits(length))
    assert result.held == [1, 3]
    fault = result.faults["call:C"]
    assert (fault.detail, fault.exception) == ("KeyError was raised", "KeyError")
    assert fault.where.startswith("test_batch.py:")
    assert [name for each in result.changes for name, _ in each.done] == ["o1", "o3"]


def test_what_is_done_is_recognised_where_the_call_cannot_be_read() -> None:
    known = {OperationId("o"): Done(StatusCode.SUCCESS, 3)}
    result = folded({"call:C": Loaded(None, known, UNREADABLE.unreadable)}, message("o", Hold(), ALICE))
    assert (codes(result), result.held, result.events) == ([StatusCode.SUCCESS], [], [])


def test_on_a_marked_call_clients_are_refused_and_what_the_switch_tells_is_parked_behind() -> None:
    done = {OperationId("o0"): Done(StatusCode.SUCCESS, 1)}
    marked = Loaded(CALL, done, None, CallBlock(OperationId("m"), "failed_repeatedly", 7))
    result = folded(
        {"call:C": marked}, message("o0", Hold(), ALICE), message("o1", Hold(), ALICE), message("o2", CallEnded())
    )
    assert codes(result) == [StatusCode.SUCCESS, StatusCode.INTERNAL]
    assert (result.changes, result.behind, result.unblocked) == ([], [(2, "m")], [])
    [refusal] = result.events
    assert isinstance(refusal, OperationRefused)
    assert (refusal.id, refusal.user, refusal.code) == ("o1-not-applied", ALICE, StatusCode.INTERNAL)
    assert "operation m failed before it and is parked" in refusal.text


def test_a_marked_call_of_which_the_switch_says_nothing_any_more_is_ended_all_the_same() -> None:
    marked = Loaded(CALL, {}, None, CallBlock(OperationId("m"), "failed_repeatedly", 7))
    result = folded({"call:C": marked}, message("o1", CallEnded("silent")), message("o2", Hold(), ALICE))
    assert (len(result.events), result.behind, result.unblocked) == (2, [], ["call:C"])
    assert codes(result)[0] is StatusCode.SUCCESS


def test_the_operation_that_a_call_is_marked_with_takes_the_mark_away() -> None:
    mark = CallBlock(OperationId("m"), "failed_repeatedly", 7)
    result = folded(
        {"call:C": Loaded(CALL, {}, None, mark)}, message("m", Hold(), ALICE), message("o2", Retrieve(), ALICE)
    )
    assert (codes(result), result.unblocked) == ([StatusCode.SUCCESS] * 2, ["call:C"])
    known = {OperationId("m"): Done(StatusCode.SUCCESS, 3)}
    again = folded({"call:C": Loaded(CALL, known, None, mark)}, message("m", Hold(), ALICE))
    assert (codes(again), again.unblocked, again.changes) == ([StatusCode.SUCCESS], ["call:C"], [])


def test_calls_that_belong_together_are_blocked_and_unblocked_together() -> None:
    mark = CallBlock(OperationId("m"), "failed_repeatedly", 7)
    consult = replace(CALL, id=CallId("C_C0123456789ABCDEF"))
    loaded = {"call:C": Loaded(CALL, {}, None, mark), f"call:{consult.id}": Loaded(consult, {}, None, mark)}
    held = message("o1", Hold(), ALICE, consult.id)
    assert codes(folded(loaded, held)) == [StatusCode.INTERNAL]
    result = folded(loaded, message("m", Hold(), ALICE), held)
    assert (codes(result), result.unblocked) == ([StatusCode.SUCCESS] * 2, ["call:C"])
    # Only the end of the first of them removes the block.
    silent = folded(loaded, message("s", CallEnded("silent"), call=consult.id), message("h", Hold(), ALICE))
    assert (codes(silent), silent.unblocked) == ([StatusCode.SUCCESS, StatusCode.INTERNAL], [])


def test_the_disposition_of_who_left_is_answered_without_the_call() -> None:
    left = CALL.with_legs([replace(leg, state=LegState.RELEASED) if leg.user == ALICE else leg for leg in CALL.legs])
    for sender, is_shown in ((ALICE, False), (BOB, True)):
        result = folded({"call:C": Loaded(left)}, message("d", SetCallDisposition("sold", "result"), sender))
        [(_, reply)] = result.replies
        assert (reply.code, reply.call is not None) == (StatusCode.SUCCESS, is_shown)


def test_a_parked_operation_that_fails_again_leaves_the_mark() -> None:
    mark = CallBlock(OperationId("m"), "failed_repeatedly", 7)
    result = folded({"call:C": Loaded(None, {}, UNREADABLE.unreadable, mark)}, message("m", Hold(), ALICE))
    assert (result.held, result.unblocked) == ([0], [])


def test_who_left_gets_the_call_with_the_outcome_and_not_when_asking_again() -> None:
    first = folded({"call:C": Loaded(CALL)}, message("h", Hangup(), ALICE))
    [(_, reply)] = first.replies
    assert reply.call is not None
    assert reply.call.legs[0].state is LegState.RELEASED
    done = {OperationId("h"): Done(StatusCode.SUCCESS, 2)}
    for sender, administrator, shown in (
        (ALICE, False, False),
        (ALICE, True, True),
        (BOB, False, True),
        (None, False, True),
    ):
        again = folded(
            {"call:C": Loaded(reply.call, done)}, message("h", Hangup(), sender, administrator=administrator)
        )
        assert (again.replies[0][1].call is not None, again.changes) == (shown, [])


def test_an_agents_operation_is_recognised() -> None:
    done = {OperationId("o"): Done(StatusCode.SUCCESS, 1)}
    operation = AgentOperation(OperationId("o"), ALICE, EndContactCenterSession(), 5)
    loaded = {"agent:alice": Loaded(Agent(ALICE, (), version=1), done)}
    assert codes(folded(loaded, OperationMessage(operation=operation, reply_to=NODE))) == [StatusCode.SUCCESS]


def test_a_batch_ends_before_its_events_exceed_the_limit_to_the_byte() -> None:
    loaded, messages = {"call:C": Loaded(CALL)}, attaching(5, "C")
    whole = fold(messages, loaded, CallLimits(lambda _: 1), 10_000_000)
    sizes = [len(raw) for raw in whole.encoded]
    assert (whole.taken, whole.size_bytes) == (5, sum(sizes))
    for count in range(1, 6):
        for limit, taken in ((sum(sizes[:count]), count), (sum(sizes[:count]) - 1, max(1, count - 1))):
            cut = fold(messages, loaded, CallLimits(lambda _: 1), limit)
            assert (cut.taken, cut.events, cut.encoded) == (taken, whole.events[:taken], whole.encoded[:taken])
            assert [name for name, _ in cut.changes[0].done] == [f"o{number}" for number in range(taken)]
            assert cut.changes[0].after is not None
            assert cut.changes[0].after.version == CALL.version + taken


def test_a_single_event_that_is_larger_is_a_batch() -> None:
    result = fold(attaching(3, "C"), {"call:C": Loaded(CALL)}, CallLimits(lambda _: 1), 1)
    assert (result.taken, len(result.events), codes(result)) == (1, 1, [StatusCode.SUCCESS])


def test_batch_after_batch_comes_to_the_same_as_one() -> None:
    limits, calls = CallLimits(lambda _: 1), ("C", "D")
    messages = attaching(9, *calls)
    found = {f"call:{each}": Loaded(replace(CALL, id=CallId(each))) for each in calls}
    whole, events, left = fold(messages, found, limits), list[bytes](), messages
    while left:
        part = fold(left, found, limits, 2_000)
        events += part.encoded
        left = left[part.taken :]
        found |= {change.key: Loaded(change.after) for change in part.changes}
    assert events == whole.encoded
    assert {key: loaded.state for key, loaded in found.items()} == {each.key: each.after for each in whole.changes}


def test_what_has_no_event_fits_whatever_the_limit_is() -> None:
    done = {OperationId(f"o{number}"): Done(StatusCode.SUCCESS, 1) for number in range(3)}
    result = fold(attaching(4, "C"), {"call:C": Loaded(CALL, done)}, CallLimits(lambda _: 1), 1)
    assert (result.taken, [each.repeated for each in result.applied]) == (4, [True, True, True, False])


def test_a_batch_ends_before_the_first_call_that_was_not_loaded() -> None:
    messages = attaching(6, "C", "D")
    result = fold(messages, {"call:C": Loaded(CALL)}, CallLimits(lambda _: 1))
    assert (result.taken, [each.key for each in result.changes], len(result.calls)) == (1, ["call:C"], 1)


def test_a_call_that_a_batch_does_not_come_to_is_not_touched() -> None:
    loaded = {"call:C": Loaded(CALL), "call:D": Loaded(replace(CALL, id=CallId("D")))}
    result = fold(attaching(2, "C", "D"), loaded, CallLimits(lambda _: 1), 1)
    assert (result.taken, [each.id for each in result.calls], len(result.changes)) == (1, ["C"], 1)
