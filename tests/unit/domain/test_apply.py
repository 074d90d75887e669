"""What each operation does to a call, in each state."""

from dataclasses import replace
from typing import cast

import orjson
import pytest

from calltag.core.domain.agent import (
    LOGGED_IN,
    NOT_READY,
    READY,
    SYSTEM_STATES,
    Agent,
    AgentDevice,
    AgentState,
    UserState,
)
from calltag.core.domain.apply import apply
from calltag.core.domain.call import Call, CallType, Leg, LegState, RecordingState
from calltag.core.domain.events import CallChanged, DevicesChanged, NotificationType, OperationRefused
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.operations import (
    AgentAction,
    AgentOperation,
    Answer,
    AttachUserData,
    CallAction,
    CallEnded,
    CallOperation,
    CallStarted,
    ChangeAgentState,
    ClearCall,
    DeleteUserData,
    DeleteUserDataPair,
    Dial,
    EndContactCenterSession,
    ForwardCalls,
    Hangup,
    Hold,
    PartyChanged,
    RecordingChanged,
    Reject,
    Retrieve,
    SendDtmf,
    SetDoNotDisturb,
    StartContactCenterSession,
    UpdateUserData,
)
from calltag.core.domain.outcome import CallLimits, Outcome
from calltag.core.domain.resource_view import call_resource, capabilities
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import UserData

ALICE, BOB, CAROL, ADMIN = (UserId(name) for name in ("alice", "bob", "carol", "admin"))
CALL = CallId("C1")
LIMITS = CallLimits(lambda value: len(orjson.dumps(value)), max_pairs=3, max_bytes=40)


def leg(number: str, state: LegState, user: UserId | None) -> Leg:
    return Leg(number, state, DeviceId(f"device-{number}") if user else None, user)


def call(alice: LegState = LegState.DIALING, bob: LegState = LegState.RINGING, *more: Leg) -> Call:
    legs = (leg("15000", alice, ALICE), leg("15001", bob, BOB), *more)
    return Call(CALL, ConnId("c"), CallType.INTERNAL, "15001", 1_000, legs, version=7)


def operation(action: CallAction, sender: UserId | None = ALICE, *, administrator: bool = False) -> CallOperation:
    return CallOperation(OperationId("o1"), CALL, action, 5_000, sender, administrator)


def run(
    state: Call | None, action: CallAction, sender: UserId | None = ALICE, *, administrator: bool = False
) -> Outcome:
    return apply(state, operation(action, sender, administrator=administrator), LIMITS)


def changed(outcome: Outcome) -> tuple[Call, CallChanged]:
    assert outcome.code is StatusCode.SUCCESS
    assert isinstance(outcome.state, Call)
    [event] = outcome.events
    assert isinstance(event, CallChanged)
    assert event.call is outcome.state
    return outcome.state, event


def refused(outcome: Outcome, state: Call | None) -> StatusCode:
    assert outcome.state is state
    for event in outcome.events:
        assert isinstance(event, OperationRefused)
        assert (event.code, event.text) == (outcome.code, outcome.text)
    return outcome.code


def test_attaching_changes_the_call_and_tells_all_parties() -> None:
    after, event = changed(run(call(), AttachUserData((("AccountNumber", "12345"),))))
    assert after.user_data.as_object() == {"AccountNumber": "12345"}
    assert after.version == 8
    assert event.notification is NotificationType.ATTACHED_DATA_CHANGED
    assert event.recipients == (ALICE, BOB)
    assert (event.id, event.accepted_at_ms) == ("o1", 5_000)


def test_updating_to_the_same_value_is_told() -> None:
    before = replace(call(), user_data=UserData({"a": (1,)}))
    _, event = changed(run(before, UpdateUserData((("a", 1),))))
    assert event.notification is NotificationType.ATTACHED_DATA_CHANGED


@pytest.mark.parametrize(
    "action",
    [AttachUserData(()), UpdateUserData(()), AttachUserData((("a", []),)), DeleteUserDataPair("x"), DeleteUserData()],
)
def test_what_changes_nothing_succeeds_without_an_event(action: CallAction) -> None:
    before = call()
    assert run(before, action) == Outcome(before)
    assert run(before, action).state is before


def test_deleting_a_pair_and_all() -> None:
    before = replace(call(), user_data=UserData({"a": (1, 2), "b": (3,)}))
    assert changed(run(before, DeleteUserDataPair("a")))[0].user_data.as_object() == {"b": 3}
    assert not changed(run(before, DeleteUserData()))[0].user_data


def test_answering_connects_both() -> None:
    after, event = changed(run(call(), Answer(), BOB))
    assert [each.state for each in after.legs] == [LegState.ESTABLISHED, LegState.ESTABLISHED]
    assert event.notification is NotificationType.STATUS_CHANGE


def test_answering_leaves_others_ringing() -> None:
    ringing = leg("15002", LegState.RINGING, CAROL)
    after, _ = changed(run(call(LegState.DIALING, LegState.RINGING, ringing), Answer(), BOB))
    assert after.legs[2] == ringing


def test_hold_and_retrieve_move_the_own_leg_only() -> None:
    talking = call(LegState.ESTABLISHED, LegState.ESTABLISHED)
    held, _ = changed(run(talking, Hold()))
    assert [each.state for each in held.legs] == [LegState.HELD, LegState.ESTABLISHED]
    back, _ = changed(run(held, Retrieve()))
    assert back.legs == talking.legs


def test_dtmf_is_told_and_not_kept() -> None:
    talking = call(LegState.ESTABLISHED, LegState.ESTABLISHED)
    after, event = changed(run(talking, SendDtmf("1")))
    assert replace(after, version=talking.version) == talking
    assert event.notification is NotificationType.DTMF_SENT


def test_hanging_up_ends_a_call_of_two_and_leaves_one_of_three() -> None:
    two, event = changed(run(call(LegState.ESTABLISHED, LegState.ESTABLISHED), Hangup()))
    assert two.released
    assert event.recipients == (ALICE, BOB)
    carol = leg("15002", LegState.ESTABLISHED, CAROL)
    three, event = changed(run(call(LegState.ESTABLISHED, LegState.ESTABLISHED, carol), Hangup()))
    assert [each.state for each in three.legs] == [LegState.RELEASED, LegState.ESTABLISHED, LegState.ESTABLISHED]
    assert event.recipients == (ALICE, BOB, CAROL)
    _, later = changed(run(three, SendDtmf("1"), BOB))
    assert later.recipients == (BOB, CAROL)


DECLINING = {(LegState.RINGING, "Hangup"), (LegState.RINGING, "Reject")}
"""What clients send to decline a call, though it is not listed."""


@pytest.mark.parametrize("state", LegState)
@pytest.mark.parametrize(
    "action",
    [
        AttachUserData((("a", 1),)),
        UpdateUserData((("a", 1),)),
        DeleteUserDataPair("k"),
        DeleteUserData(),
        Answer(),
        Hold(),
        Retrieve(),
        SendDtmf("1"),
        Hangup(),
        ClearCall(),
        Reject(),
    ],
)
def test_what_the_capabilities_list_is_what_is_accepted(state: LegState, action: CallAction) -> None:
    before = replace(call(state, LegState.ESTABLISHED), user_data=UserData({"k": (1,)}))
    outcome = run(before, action)
    if action.name in capabilities(before, before.legs[0]) or (state, action.name) in DECLINING:
        changed(outcome)
    elif state is LegState.RELEASED:
        assert refused(outcome, before) is StatusCode.NO_PERMISSION
    else:
        assert refused(outcome, before) is StatusCode.INVALID_STATE


def test_a_released_call_is_refused() -> None:
    over = call(LegState.RELEASED, LegState.RELEASED)
    assert refused(run(over, Hangup()), over) is StatusCode.INVALID_STATE
    assert "released" in run(over, Hangup()).text
    assert refused(run(over, CallEnded(), None), over) is StatusCode.INVALID_STATE


def test_a_call_that_is_not_there_is_refused() -> None:
    outcome = run(None, Hold())
    assert refused(outcome, None) is StatusCode.NOT_FOUND
    [event] = outcome.events
    assert isinstance(event, OperationRefused)
    assert (event.user, event.operation_name, event.call_id) == (ALICE, "Hold", CALL)


def test_a_refusal_of_the_switch_is_told_to_nobody() -> None:
    assert run(None, CallEnded(), None).events == ()


def test_somebody_elses_call_is_refused() -> None:
    before = call()
    assert refused(run(before, DeleteUserData(), CAROL), before) is StatusCode.NO_PERMISSION
    assert refused(run(before, DeleteUserData(), None), before) is StatusCode.NO_PERMISSION


def test_an_administrator_acts_on_any_call() -> None:
    talking = call(LegState.ESTABLISHED, LegState.HELD)
    assert changed(run(talking, Retrieve(), ADMIN, administrator=True))[0].legs[1].state is LegState.ESTABLISHED
    before = call()
    assert refused(run(before, Hold(), ADMIN, administrator=True), before) is StatusCode.INVALID_STATE


def test_a_user_with_two_legs_acts_on_the_live_one() -> None:
    gone = leg("15003", LegState.RELEASED, BOB)
    before = replace(call(LegState.ESTABLISHED), legs=(gone, *call(LegState.ESTABLISHED, LegState.ESTABLISHED).legs))
    assert [each.state for each in changed(run(before, Hold(), BOB))[0].legs][2] is LegState.HELD


def test_a_user_with_two_legs_acts_on_the_one_on_which_it_is_possible() -> None:
    second = leg("15010", LegState.RINGING, ALICE)
    before = replace(call(), legs=(call().legs[0], second))
    assert (before.legs_of(ALICE), before.leg_of(ALICE)) == (before.legs, before.legs[0])
    after, _ = changed(run(before, Answer()))
    assert [each.state for each in after.legs] == [LegState.ESTABLISHED, LegState.ESTABLISHED]
    outcome = run(before, Retrieve())
    assert refused(outcome, before) is StatusCode.INVALID_STATE
    assert "while the call is Dialing" in outcome.text


def test_who_left_a_call_that_goes_on_may_not_see_or_change_it() -> None:
    left = call(LegState.RELEASED, LegState.ESTABLISHED)
    assert (left.is_open_to(ALICE), left.is_open_to(BOB), left.is_open_to(CAROL)) == (False, True, False)
    assert refused(run(left, DeleteUserData()), left) is StatusCode.NO_PERMISSION
    over = call(LegState.RELEASED, LegState.RELEASED)
    assert (over.is_open_to(ALICE), over.is_open_to(CAROL)) == (True, False)
    helped = run(left, Hold(), ALICE, administrator=True)
    assert changed(helped)[0].legs[1].state is LegState.HELD


def test_a_call_that_is_over_is_open_to_those_who_were_on_it_to_its_end() -> None:
    state: Call = call(LegState.ESTABLISHED, LegState.ESTABLISHED, leg("15002", LegState.ESTABLISHED, CAROL))
    users = (ALICE, BOB, CAROL)
    for who, number in ((ALICE, "15000"), (BOB, "15001"), (CAROL, "15002")):
        state, _ = changed(run(state, PartyChanged((leg(number, LegState.RELEASED, who),)), None))
    assert [state.is_open_to(each) for each in users] == [False, False, True]
    assert list(state.others(state.legs[2])) == [], "nor is it shown who left before"


@pytest.mark.parametrize(
    "end",
    [
        CallEnded(),
        PartyChanged((leg("15001", LegState.RELEASED, BOB), leg("15002", LegState.RELEASED, CAROL))),
        Hangup(),
    ],
)
def test_whatever_ends_a_call_ends_it_for_all_who_are_on_it(end: CallAction) -> None:
    before = call(LegState.ESTABLISHED, LegState.ESTABLISHED, leg("15002", LegState.ESTABLISHED, CAROL))
    left, _ = changed(run(before, PartyChanged((leg("15000", LegState.RELEASED, ALICE),)), None))
    over, _ = changed(run(left, end, BOB if isinstance(end, Hangup) else None))
    assert over.released
    assert [over.is_open_to(each) for each in (ALICE, BOB, CAROL)] == [False, True, True]


def test_who_comes_back_to_a_call_is_on_it_again() -> None:
    before = call(LegState.ESTABLISHED, LegState.ESTABLISHED)
    left, _ = changed(run(before, PartyChanged((leg("15000", LegState.RELEASED, ALICE),)), None))
    back, _ = changed(run(left, PartyChanged((leg("15000", LegState.ESTABLISHED, ALICE),)), None))
    over, _ = changed(run(back, CallEnded(), None))
    assert (left.is_open_to(ALICE), back.is_open_to(ALICE), over.is_open_to(ALICE)) == (False, True, True)


def test_who_is_off_a_call_when_it_is_told_of_first_has_left_it() -> None:
    begin = CallStarted(ConnId("c"), CallType.INTERNAL, "15001", call(LegState.RELEASED, LegState.ESTABLISHED).legs)
    begun, _ = changed(run(None, begin, None))
    over, _ = changed(run(begun, CallEnded(), None))
    assert (over.is_open_to(ALICE), over.is_open_to(BOB)) == (False, True)


def test_parties_are_bounded() -> None:
    limits = replace(LIMITS, max_parties=3)
    legs = tuple(Leg(str(number), LegState.ESTABLISHED) for number in range(4))
    started = CallStarted(ConnId("c"), CallType.INBOUND, "1", legs)
    outcome = apply(None, operation(started, None), limits)
    assert refused(outcome, None) is StatusCode.OUT_OF_RANGE
    assert outcome.text == "parties: the call would have 4 of them; a call may have 3"
    full = changed(apply(None, operation(replace(started, legs=legs[:3]), None), limits))[0]
    assert refused(apply(full, operation(PartyChanged(legs[3:]), None), limits), full) is StatusCode.OUT_OF_RANGE
    changed(apply(full, operation(PartyChanged(legs[:3]), None), limits))
    over = replace(full, legs=legs)
    changed(apply(over, operation(PartyChanged(legs), None), limits))


def test_beginning_a_call() -> None:
    legs = call().legs
    after, event = changed(run(None, Dial(ConnId("c"), CallType.INTERNAL, "15001", legs, (("a", 1),))))
    assert (after.version, after.began_at_ms, after.legs) == (1, 5_000, legs)
    assert after.user_data.as_object() == {"a": 1}
    assert event.notification is NotificationType.STATUS_CHANGE
    started = CallStarted(ConnId("c"), CallType.INBOUND, "15001", legs, began_at_ms=12)
    assert changed(run(None, started, None))[0].began_at_ms == 12
    started = CallStarted(ConnId("c"), CallType.INBOUND, "15001", legs)
    assert changed(run(None, started, None))[0].began_at_ms == 5_000


def test_a_call_begins_once() -> None:
    before = call()
    started = CallStarted(ConnId("c"), CallType.INBOUND, "15001", before.legs)
    assert refused(run(before, started, None), before) is StatusCode.ALREADY_EXISTS


def test_the_switch_reports_a_recording() -> None:
    after, event = changed(run(call(), RecordingChanged(RecordingState.PAUSED), None))
    assert (after.recording, event.notification.value) == (RecordingState.PAUSED, "CallRecordingStateChange")
    assert event.recipients == after.users()
    assert call_resource(after, after.legs[0], 0, "")["recordingState"] == "Paused"
    assert "recordingState" not in call_resource(call(), after.legs[0], 0, "")


def test_the_switch_ends_a_call() -> None:
    after, event = changed(run(call(), CallEnded(), None))
    assert (after.released, event.reason) == (True, None)


def test_a_call_that_is_silent_is_ended_and_why_is_told() -> None:
    after, event = changed(run(call(), CallEnded("silent"), None))
    assert (after.released, event.reason) == (True, "silent")


def test_the_switch_changes_parties() -> None:
    told = (Leg("15001", LegState.ESTABLISHED, muted=True), leg("15002", LegState.RINGING, CAROL))
    after, event = changed(run(call(), PartyChanged(told), None))
    assert (after.legs[1].state, after.legs[1].muted, after.legs[1].user) == (LegState.ESTABLISHED, True, BOB)
    assert after.legs[2] == told[1]
    assert event.notification is NotificationType.PARTICIPANTS_UPDATED
    assert event.recipients == (ALICE, BOB, CAROL)
    _, event = changed(run(call(), PartyChanged(told[:1]), None))
    assert event.notification is NotificationType.STATUS_CHANGE


def test_a_party_keeps_its_mute_where_the_switch_reports_none() -> None:
    muted, _ = changed(run(call(), PartyChanged((Leg("15001", LegState.ESTABLISHED, muted=True),)), None))
    report = (Leg("15001", LegState.HELD),)
    kept, _ = changed(run(muted, PartyChanged(report, mute_unchanged=("15001",)), None))
    assert (kept.legs[1].state, kept.legs[1].muted, kept.legs[0].muted) == (LegState.HELD, True, False)
    unmuted, _ = changed(run(muted, PartyChanged(report), None))
    assert not unmuted.legs[1].muted


def test_user_data_is_bounded_in_pairs_and_bytes() -> None:
    before = call()
    full = changed(run(before, AttachUserData((("a", [1, 2, 3]),))))[0]
    outcome = run(full, AttachUserData((("a", 4),)))
    assert refused(outcome, full) is StatusCode.OUT_OF_RANGE
    assert "4 pairs" in outcome.text
    outcome = run(before, UpdateUserData((("a", "x" * 40),)))
    assert refused(outcome, before) is StatusCode.OUT_OF_RANGE
    assert "43 bytes" in outcome.text
    assert refused(run(None, Dial(ConnId("c"), CallType.INTERNAL, "1", before.legs, (("a", "x" * 40),))), None) is (
        StatusCode.OUT_OF_RANGE
    )


def test_a_call_over_the_limits_may_shrink() -> None:
    over = replace(call(), user_data=UserData({"a": (1, 2, 3, 4, 5)}))
    assert changed(run(over, UpdateUserData((("a", [1, 2, 3, 4]),))))[0].user_data.as_object() == {"a": [1, 2, 3, 4]}
    assert refused(run(over, UpdateUserData((("a", [1, 2, 3, "xxxxxxxxxxxx"]),))), over) is StatusCode.OUT_OF_RANGE


def test_a_call_without_users_changes_unheard() -> None:
    outside = Leg("5551212", LegState.RINGING)
    before = replace(call(), legs=(outside,))
    assert changed(run(before, CallEnded(), None))[1].recipients == ()


DEVICE = DeviceId("d")
LUNCH = AgentState("Lunch", UserState.NOT_READY, "id-of-lunch", "Lunch", reason="Lunch")
START = StartContactCenterSession(((DEVICE, "15000"),), ("voice",))


def as_agent(state: Agent | None, action: AgentAction) -> tuple[Agent, list[DevicesChanged]]:
    """The agent after an operation that is carried out, and the events."""
    outcome = apply(state, AgentOperation(OperationId("o"), ALICE, action, 5), LIMITS)
    assert (outcome.code, isinstance(outcome.state, Agent)) == (StatusCode.SUCCESS, True)
    events = [each for each in outcome.events if isinstance(each, DevicesChanged)]
    assert len(events) == len(outcome.events)
    assert [each.recipients for each in events] == [(ALICE,)] * len(events)
    return cast("Agent", outcome.state), events


def test_a_session_of_an_agent_begins_logged_in_and_then_ready() -> None:
    begun, events = as_agent(None, START)
    assert [(each.id, each.version, each.devices[0].state) for each in events] == [
        ("o", 1, LOGGED_IN),
        ("o-1", 2, READY),
    ]
    assert (begun.version, begun.channels) == (2, ("voice",))
    assert begun.devices == (AgentDevice(DEVICE, "15000", READY, active=True),)


def test_a_session_begins_in_the_state_that_is_configured() -> None:
    assert as_agent(None, replace(START, initial=NOT_READY))[0].devices[0].state is NOT_READY


def test_a_session_that_begins_again_stays_as_it_is() -> None:
    """Desktops start the session again whenever their page is loaded."""
    at_lunch, _ = as_agent(as_agent(None, START)[0], ChangeAgentState(LUNCH))
    again, events = as_agent(at_lunch, START)
    assert (again.devices, again.version, len(events)) == (at_lunch.devices, 4, 1)


def test_a_session_ends_on_all_devices() -> None:
    ended, [event] = as_agent(as_agent(None, START)[0], EndContactCenterSession(START.devices))
    assert (ended.version, ended.channels, ended.devices) == (3, (), (AgentDevice(DEVICE, "15000"),))
    assert (event.devices, event.version) == (ended.devices, 3)


@pytest.mark.parametrize("state", [*SYSTEM_STATES.values(), LUNCH])
def test_an_agent_changes_the_state(state: AgentState) -> None:
    after, [event] = as_agent(as_agent(None, START)[0], ChangeAgentState(state))
    assert event.devices == after.devices == (AgentDevice(DEVICE, "15000", state, active=True),)


def test_a_device_does_not_disturb_and_forwards() -> None:
    begun, _ = as_agent(None, START)
    silent, _ = as_agent(begun, SetDoNotDisturb(DEVICE, on=True))
    both, _ = as_agent(silent, ForwardCalls(DEVICE, "15009"))
    assert (both.devices[0].do_not_disturb, both.devices[0].forward_to, both.devices[0].state) == (True, "15009", READY)
    neither, _ = as_agent(as_agent(both, SetDoNotDisturb(DEVICE, on=False))[0], ForwardCalls(DEVICE, ""))
    assert neither.devices == begun.devices


@pytest.mark.parametrize(
    ("action", "name", "device"),
    [
        (ChangeAgentState(LUNCH), "Lunch", None),
        (SetDoNotDisturb(DEVICE, on=True), "DoNotDisturbOn", DEVICE),
        (ForwardCalls(DEVICE, ""), "ForwardCallsOff", DEVICE),
    ],
)
def test_without_a_session_nothing_changes(action: AgentAction, name: str, device: DeviceId | None) -> None:
    for before in (None, as_agent(as_agent(None, START)[0], EndContactCenterSession(START.devices))[0]):
        outcome = apply(before, AgentOperation(OperationId("o"), ALICE, action, 5), LIMITS)
        assert (outcome.state, outcome.code) == (before, StatusCode.INVALID_STATE)
        [event] = outcome.events
        assert isinstance(event, OperationRefused)
        assert (event.operation_name, event.device, event.user) == (name, device, ALICE)
        assert "StartContactCenterSession" in event.text


def test_whoever_clears_a_call_ends_it_for_all() -> None:
    third = leg("15002", LegState.ESTABLISHED, CAROL)
    after, event = changed(run(call(LegState.ESTABLISHED, LegState.ESTABLISHED, third), ClearCall()))
    assert ([each.state for each in after.legs], after.released) == ([LegState.RELEASED] * 3, True)
    assert set(event.recipients) == {ALICE, BOB, CAROL}


@pytest.mark.parametrize("action", [ClearCall(), Reject(), Hangup()])
def test_a_ringing_call_is_declined(action: CallAction) -> None:
    """By whom it rings: a conference goes on without them."""
    after, _ = changed(run(call(), action, BOB))
    assert after.released
    third = leg("15002", LegState.RINGING, CAROL)
    after, _ = changed(run(call(LegState.ESTABLISHED, LegState.ESTABLISHED, third), action, CAROL))
    assert [each.state for each in after.legs] == [LegState.ESTABLISHED, LegState.ESTABLISHED, LegState.RELEASED]


def test_only_a_ringing_call_is_rejected() -> None:
    before = call(LegState.ESTABLISHED, LegState.ESTABLISHED)
    assert refused(run(before, Reject()), before) is StatusCode.INVALID_STATE


def test_keys_name_the_subject() -> None:
    assert (operation(Hold()).key, operation(Hold()).partition_key) == ("call:C1", "C1")
    ending = AgentOperation(OperationId("p"), ALICE, EndContactCenterSession(()), 6)
    assert (ending.key, ending.partition_key) == ("agent:alice", "alice")
