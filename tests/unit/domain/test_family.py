"""Calls that belong together: consult calls, transfers, conferences, and what becomes of their user data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltag.core.domain.apply import apply
from calltag.core.domain.call import Call, CallType, ConsultData, Leg, LegState
from calltag.core.domain.events import CallChanged, NotificationType, OperationRefused
from calltag.core.domain.family import MergedData, merged
from calltag.core.domain.ids import (
    CallId,
    ConnId,
    DeviceId,
    OperationId,
    UserId,
    new_consult_call_id,
    related_call_id,
    root_of,
)
from calltag.core.domain.operations import (
    Answer,
    AttachUserData,
    CallAction,
    CallEnded,
    CallOperation,
    CallsMerged,
    CallStarted,
    ClearCall,
    CompleteConference,
    CompleteTransfer,
    DeleteUserDataPair,
    Hangup,
    Hold,
    InitiateConference,
    InitiateTransfer,
    MuteCall,
    RemoveParticipantFromConference,
    Retrieve,
    SendDtmf,
    SetCallDisposition,
    SingleStepConference,
    SingleStepTransfer,
    SwapCalls,
    UnmuteCall,
    UpdateUserData,
)
from calltag.core.domain.outcome import CallLimits, CallRules, Outcome
from calltag.core.domain.resource_view import call_resource, capabilities
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import UserData

NUMBERS = {"alice": "15000", "bob": "15001", "carol": "15002", "dave": "15003"}
MAIN = CallId("C1")
USUAL = CallRules()


def party(user: str, state: LegState = LegState.RINGING) -> Leg:
    return Leg(NUMBERS[user], state, DeviceId(f"of-{user}"), UserId(user))


@dataclass
class Centre:
    """All calls, each operation applied in order, as a worker does it."""

    rules: CallRules = USUAL
    calls: dict[CallId, Call] = field(default_factory=dict)
    events: list[CallChanged] = field(default_factory=list)
    count: int = 0

    def do(self, user: str | None, call: CallId, action: CallAction) -> Outcome:
        """Apply an operation; check what holds for each."""
        self.count += 1
        operation = CallOperation(
            OperationId(f"o{self.count}"), call, action, self.count, UserId(user) if user else None
        )
        related = {key: each for key, each in self.calls.items() if key != call}
        limits = CallLimits(lambda value: len(orjson.dumps(value)), rules=self.rules)
        outcome = apply(self.calls.get(call), operation, limits, related)
        if outcome.code is not StatusCode.SUCCESS:
            assert (outcome.state, outcome.others) == (self.calls.get(call), ())
            assert all(isinstance(each, OperationRefused) for each in outcome.events)
            return outcome
        assert isinstance(outcome.state, Call)
        before = dict(self.calls)
        self.calls |= {each.id: each for each in (outcome.state, *outcome.others)}
        events = [each for each in outcome.events if isinstance(each, CallChanged)]
        assert len({each.id for each in events}) == len(events)
        for event in events:
            known = before.get(event.call.id)
            assert event.call.version == (1 if known is None else known.version + 1), "each version has its event"
            before[event.call.id] = event.call
        assert before.keys() == self.calls.keys()
        silent = isinstance(action, SetCallDisposition) and outcome.state.released
        assert silent or before == self.calls, "the last event about a call shows it as it is"
        self.check_relations()
        self.events = events
        return outcome

    def did(self, user: str | None, call: CallId, action: CallAction) -> Call:
        outcome = self.do(user, call, action)
        assert outcome.code is StatusCode.SUCCESS, outcome.text
        return self.calls[call]

    def check_relations(self) -> None:
        """Both sides of each relation say the same, and are there."""
        for call in self.calls.values():
            for leg in call.legs:
                for each in leg.consults:
                    there = self.calls[each.call].leg_with(leg.number)
                    assert there is not None
                    assert there.parent is not None
                    assert (there.parent.call, there.state, there.parent.state) == (call.id, each.state, leg.state)
                    assert leg.live
                    assert there.live
                if leg.parent is not None:
                    main = self.calls[leg.parent.call].leg_with(leg.number)
                    assert main is not None
                    assert call.id in {each.call for each in main.consults}

    def leg(self, user: str, call: CallId) -> Leg:
        leg = self.calls[call].leg_with(NUMBERS[user])
        assert leg is not None
        return leg

    def state(self, user: str, call: CallId) -> LegState:
        return self.leg(user, call).state

    def can(self, user: str, call: CallId) -> set[str]:
        return set(capabilities(self.calls[call], self.leg(user, call)))

    def data(self, call: CallId) -> Mapping[str, object]:
        return self.calls[call].user_data.as_object()

    def consult(self, user: str, call: CallId, target: str, **pairs: object) -> CallId:
        """Begin a consult call; return its id."""
        consult = new_consult_call_id(call, OperationId(f"of-{self.count}"))
        self.did(user, call, InitiateTransfer(consult, ConnId("c"), party(target), tuple(pairs.items())))
        return consult

    def told(self) -> list[tuple[str, str, str]]:
        """Return call, user and notification of the last events."""
        return [
            (event.call.id, user, event.notification_for(user).value)
            for event in self.events
            for user in event.recipients
        ]


def talking(*users: str, rules: CallRules = USUAL, **pairs: object) -> Centre:
    """A centre with the call MAIN, on which all are through."""
    centre = Centre(rules)
    legs = tuple(party(user, LegState.ESTABLISHED) for user in users)
    centre.did(None, MAIN, CallStarted(ConnId("m"), CallType.INBOUND, "15000", legs, tuple(pairs.items())))
    return centre


def test_consult_calls_have_the_root_of_the_first_call() -> None:
    first = new_consult_call_id(MAIN, OperationId("a"))
    second = new_consult_call_id(first, OperationId("b"))
    assert (root_of(first), root_of(second), root_of(MAIN), first != second) == (MAIN, MAIN, MAIN, True)
    assert new_consult_call_id(MAIN, OperationId("a")) == first


def test_a_call_is_named_by_the_switch_or_by_the_id_that_the_api_shows() -> None:
    shown = related_call_id(MAIN, "of-the-switch")
    assert related_call_id(MAIN, "of-the-switch") == shown == related_call_id(MAIN, shown)
    assert (root_of(shown), related_call_id(MAIN, MAIN)) == (MAIN, MAIN)
    assert related_call_id(shown, "x") == related_call_id(MAIN, "x")


def test_a_consult_call_begins_with_the_data_and_holds_the_first_call() -> None:
    centre = talking("alice", "bob", account=1)
    consult = centre.consult("alice", MAIN, "carol", reason="question")
    assert centre.told() == [
        (MAIN, "alice", "StatusChange"), (MAIN, "bob", "StatusChange"),
        (consult, "alice", "StatusChange"), (consult, "carol", "StatusChange"),
    ]  # fmt: skip
    assert (centre.state("alice", MAIN), centre.state("bob", MAIN)) == (LegState.HELD, LegState.ESTABLISHED)
    assert (centre.state("alice", consult), centre.state("carol", consult)) == (LegState.DIALING, LegState.RINGING)
    assert centre.data(consult) == {"account": 1, "reason": "question"}
    assert centre.data(MAIN) == {"account": 1}
    shown = call_resource(centre.calls[consult], centre.leg("alice", consult), 0, "http://x")
    assert (shown["callType"], shown["parentCallUri"]) == ("Consult", f"http://x/api/v2/me/calls/{MAIN}")
    assert shown["parentCallPath"] == f"/calls/{MAIN}"
    for user, call in (("carol", consult), ("alice", MAIN), ("bob", MAIN)):
        assert "parentCallUri" not in call_resource(centre.calls[call], centre.leg(user, call), 0, "http://x")


def test_capabilities_of_related_calls() -> None:
    centre = talking("alice", "bob")
    plain = {
        "UpdateUserData", "AttachUserData", "DeleteUserDataPair", "DeleteUserData", "SendDtmf", "Hold", "Hangup",
        "InitiateTransfer", "SingleStepTransfer", "InitiateConference", "SingleStepConference", "ClearCall", "MuteCall",
    }  # fmt: skip
    assert centre.can("alice", MAIN) == plain
    consult = centre.consult("alice", MAIN, "carol")
    held = plain - {"SendDtmf", "Hold", "ClearCall", "MuteCall"}
    assert centre.can("alice", MAIN) == held | {"SwapCalls", "CompleteTransfer"}
    assert "CompleteTransfer" in centre.can("alice", consult)
    assert "CompleteConference" not in centre.can("alice", consult)
    centre.did("carol", consult, Answer())
    assert centre.can("alice", MAIN) == held | {"SwapCalls", "CompleteTransfer", "CompleteConference"}
    assert centre.can("alice", consult) == plain | {"SwapCalls", "CompleteTransfer", "CompleteConference"}
    assert centre.can("carol", consult) == centre.can("bob", MAIN) == plain
    centre.did("alice", consult, Hold())
    assert "Retrieve" in centre.can("alice", MAIN) & centre.can("alice", consult)
    centre.did("carol", consult, Hangup())
    assert centre.can("alice", MAIN) == held | {"Retrieve"}
    assert centre.told()[0][0] == consult
    assert (MAIN, "alice", "StatusChange") in centre.told(), "desktops take their buttons from the message"


@pytest.mark.parametrize("posted_to", ["main", "consult"])
@pytest.mark.parametrize("answered", [True, False])
def test_a_transfer_keeps_the_call_and_its_data(posted_to: str, *, answered: bool) -> None:
    centre = talking("alice", "bob", account=1, note="old")
    consult = centre.consult("alice", MAIN, "carol")
    if answered:
        centre.did("carol", consult, Answer())
    centre.did("carol", consult, UpdateUserData((("note", "new"), ("found", True))))
    centre.did("bob", MAIN, AttachUserData((("account", 2),)))
    centre.did("alice", MAIN if posted_to == "main" else consult, CompleteTransfer())
    assert [leg.state for leg in centre.calls[consult].legs] == [LegState.RELEASED] * 2
    assert (centre.state("alice", MAIN), centre.leg("alice", MAIN).left) == (LegState.RELEASED, True)
    assert centre.state("carol", MAIN) is (LegState.ESTABLISHED if answered else LegState.RINGING)
    assert centre.data(MAIN) == {"account": [1, 2], "note": "new", "found": True}
    assert centre.told() == [
        (MAIN, "alice", "StatusChange"), (MAIN, "bob", "ParticipantsUpdated"), (MAIN, "carol", "StatusChange"),
        (consult, "alice", "StatusChange"), (consult, "carol", "StatusChange"),
        (MAIN, "bob", "AttachedDataChanged"), (MAIN, "carol", "AttachedDataChanged"),
    ]  # fmt: skip


def test_a_conference_has_all_and_may_remove_one() -> None:
    centre = talking("alice", "bob")
    consult = centre.consult("alice", MAIN, "carol")
    assert centre.do("alice", MAIN, CompleteConference()).code is StatusCode.INVALID_STATE
    centre.did("carol", consult, Answer())
    centre.did("alice", consult, CompleteConference(consult))
    assert [centre.state(user, MAIN) for user in ("alice", "bob", "carol")] == [LegState.ESTABLISHED] * 3
    assert centre.told() == [
        (consult, "alice", "StatusChange"), (consult, "carol", "StatusChange"),
        (MAIN, "alice", "StatusChange"), (MAIN, "bob", "ParticipantsUpdated"), (MAIN, "carol", "StatusChange"),
    ]  # fmt: skip
    assert "RemoveParticipantFromConference" in centre.can("bob", MAIN)
    centre.did("bob", MAIN, RemoveParticipantFromConference(NUMBERS["carol"]))
    assert centre.state("carol", MAIN) is LegState.RELEASED
    assert {user: kind for _, user, kind in centre.told()} == {
        "alice": "ParticipantsUpdated", "bob": "ParticipantsUpdated", "carol": "StatusChange",
    }  # fmt: skip
    assert "RemoveParticipantFromConference" not in centre.can("bob", MAIN)


def test_calls_are_swapped_from_either_side() -> None:
    centre = talking("alice", "bob")
    consult = centre.consult("alice", MAIN, "carol")
    centre.did("carol", consult, Answer())
    for sent_to, other, active in ((MAIN, consult, MAIN), (MAIN, consult, consult), (consult, MAIN, MAIN)):
        centre.did("alice", sent_to, SwapCalls(other))
        held = consult if active == MAIN else MAIN
        assert (centre.state("alice", active), centre.state("alice", held)) == (LegState.ESTABLISHED, LegState.HELD)
        assert [each.call.id for each in centre.events] == [active, held]
    assert centre.do("alice", MAIN, SwapCalls(CallId("other"))).code is StatusCode.INVALID_STATE


def test_a_transfer_in_a_single_step() -> None:
    centre = talking("alice", "bob", reason="first")
    centre.did("alice", MAIN, SingleStepTransfer(party("carol"), (("reason", "second"),)))
    assert (centre.state("alice", MAIN), centre.state("carol", MAIN)) == (LegState.RELEASED, LegState.RINGING)
    assert centre.data(MAIN) == {"reason": "second"}
    assert [kind for _, user, kind in centre.told() if user == "alice"] == ["StatusChange"]
    centre.did("carol", MAIN, Answer())
    centre.did("carol", MAIN, SingleStepTransfer(party("alice")))
    assert (centre.state("alice", MAIN), centre.leg("alice", MAIN).left) == (LegState.RINGING, False)


def test_a_party_is_added_in_a_single_step() -> None:
    centre = talking("alice", "bob")
    centre.did("alice", MAIN, SingleStepConference(party("carol")))
    assert [centre.state(user, MAIN) for user in ("alice", "bob", "carol")] == [
        LegState.ESTABLISHED, LegState.ESTABLISHED, LegState.RINGING,
    ]  # fmt: skip
    for target in ("alice", "bob", "carol"):
        outcome = centre.do("alice", MAIN, SingleStepConference(party(target)))
        assert (outcome.code, "destination.phoneNumber" in outcome.text) == (StatusCode.OUT_OF_RANGE, True)


def test_the_first_call_ends_and_the_consult_call_goes_on_as_any_other() -> None:
    centre = talking("alice", "bob")
    consult = centre.consult("alice", MAIN, "carol")
    centre.did("carol", consult, Answer())
    centre.did("bob", MAIN, Hangup())
    assert centre.calls[MAIN].released
    assert centre.leg("alice", consult).parent is None
    assert centre.calls[consult].type is CallType.CONSULT
    assert not {"SwapCalls", "CompleteTransfer"} & centre.can("alice", consult)


def test_several_consult_calls_have_to_be_named() -> None:
    centre = talking("alice", "bob")
    first = centre.consult("alice", MAIN, "carol")
    second = centre.consult("alice", MAIN, "dave")
    outcome = centre.do("alice", MAIN, CompleteTransfer())
    assert (outcome.code, "consultCallUri" in outcome.text) == (StatusCode.PARAMETER_MISSING, True)
    centre.did("alice", MAIN, CompleteTransfer(second))
    assert centre.state("dave", MAIN) is LegState.RINGING
    assert centre.leg("alice", first).parent is None, "she left the call from which it began"


def test_whoever_is_consulted_consults_others_and_is_transferred_with_them() -> None:
    centre = talking("alice", "bob")
    first = centre.consult("alice", MAIN, "carol")
    centre.did("carol", first, Answer())
    second = centre.consult("carol", first, "dave")
    centre.did("alice", first, CompleteTransfer(first))
    carol = centre.leg("carol", MAIN)
    assert (carol.state, [each.call for each in carol.consults]) == (LegState.HELD, [second])
    parent = centre.leg("carol", second).parent
    assert parent is not None
    assert parent.call == MAIN
    centre.did("dave", second, Answer())
    centre.did("carol", second, CompleteTransfer())
    assert [leg.user for leg in centre.calls[MAIN].legs if leg.live] == ["bob", "dave"]


def test_a_change_on_a_consult_call_of_a_consult_call_wins_at_the_end() -> None:
    centre = talking("alice", "bob", note="first", gone=1)
    first = centre.consult("alice", MAIN, "carol")
    centre.did("carol", first, Answer())
    second = centre.consult("carol", first, "dave")
    centre.did("dave", second, UpdateUserData((("note", "second"),)))
    centre.did("dave", second, DeleteUserDataPair("gone"))
    centre.did("carol", second, CompleteTransfer())
    assert centre.data(first) == {"note": "second"}
    centre.did("alice", first, CompleteTransfer())
    assert centre.data(MAIN) == {"note": "second"}


def test_muting() -> None:
    centre = talking("alice", "bob")
    assert centre.leg("alice", centre.did("alice", MAIN, MuteCall()).id).muted
    assert "UnmuteCall" in centre.can("alice", MAIN)
    assert centre.do("alice", MAIN, MuteCall()).code is StatusCode.INVALID_STATE
    centre.did("alice", MAIN, UnmuteCall())
    assert not centre.leg("alice", MAIN).muted


def test_a_disposition_is_set_also_after_the_call() -> None:
    centre = talking("alice", "bob")
    sold = SetCallDisposition("disposition", "sold", (("amount", 3),))
    centre.did("alice", MAIN, sold)
    assert centre.told() == [(MAIN, "alice", "AttachedDataChanged"), (MAIN, "bob", "AttachedDataChanged")]
    centre.did("alice", MAIN, ClearCall())
    centre.did("alice", MAIN, replace(sold, disposition="lost"))
    assert centre.events == []
    assert centre.data(MAIN) == {"amount": 3, "disposition": "lost"}
    assert centre.do("carol", MAIN, sold).code is StatusCode.NO_PERMISSION


RULES = (
    (MergedData.CONSULT_CHANGES, {"both": "main", "changed": "consult", "new": 1, "gone": "main", "main": 1}),
    (MergedData.MAIN_ONLY, {"both": "main", "changed": "main", "removed": "main", "gone": "main", "main": 1}),
    (MergedData.CONSULT_ONLY, {"both": "consult", "changed": "consult", "new": 1, "inherited": 1}),
    (
        MergedData.MERGED_OVER_MAIN,
        {"both": "main", "changed": "main", "removed": "main", "gone": "main", "main": 1, "new": 1, "inherited": 1},
    ),
    (
        MergedData.MERGED_OVER_CONSULT,
        {"both": "consult", "changed": "consult", "removed": "main", "gone": "main", "main": 1, "new": 1}
        | {"inherited": 1},
    ),
)  # fmt: skip


@pytest.mark.parametrize(("rule", "expected"), RULES)
def test_the_rules_of_merging(rule: MergedData, expected: dict[str, object]) -> None:
    main = {"both": "main", "changed": "main", "removed": "main", "gone": "main", "main": 1}
    consult = {"both": "consult", "changed": "consult", "new": 1, "inherited": 1}
    data = merged(
        UserData().attach(main.items()), UserData().attach(consult.items()), ("changed", "new", "removed"), rule
    )
    assert data.as_object() == expected


@pytest.mark.parametrize(
    ("rule", "consult_data", "main_data"),
    [
        (ConsultData.INHERITED, {"a": 1, "b": 2, "c": 3}, {"a": 1, "d": 4}),
        (ConsultData.SEPARATE, {"b": 2, "c": 3}, {"a": 1, "d": 4}),
        (ConsultData.JOINT, {"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 2, "c": 3, "d": 4}),
    ],
)
def test_the_rules_of_consult_calls(
    rule: ConsultData, consult_data: Mapping[str, object], main_data: Mapping[str, object]
) -> None:
    centre = talking("alice", "bob", rules=CallRules(consult_data=rule), a=1)
    consult = centre.consult("alice", MAIN, "carol", b=2)
    centre.did("carol", consult, AttachUserData((("c", 3),)))
    told = [each.call.id for each in centre.events]
    assert told == ([consult, MAIN] if rule is ConsultData.JOINT else [consult])
    centre.did("bob", MAIN, AttachUserData((("d", 4),)))
    assert (centre.data(consult), centre.data(MAIN)) == (consult_data, main_data)
    centre.did("alice", MAIN, CompleteTransfer())
    assert centre.data(MAIN) == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_the_switch_tells_of_a_consult_call_and_of_a_transfer() -> None:
    centre = talking("alice", "bob", a=1)
    legs = (party("alice", LegState.DIALING), party("carol"))
    other = new_consult_call_id(MAIN, OperationId("x"))
    centre.did(None, other, CallStarted(ConnId("o"), CallType.CONSULT, "15002", legs, (("b", 2),), parent=MAIN))
    assert centre.data(other) == {"a": 1, "b": 2}
    parent = centre.leg("alice", other).parent
    assert parent is not None
    assert parent.call == MAIN
    gone = replace(party("alice", LegState.RELEASED))
    centre.did(None, MAIN, CallsMerged(other, (gone,)))
    assert centre.calls[other].released
    assert [leg.user for leg in centre.calls[MAIN].legs if leg.live] == ["bob", "carol"]
    assert centre.data(MAIN) == {"a": 1, "b": 2}
    assert centre.do(None, MAIN, CallsMerged(other)).code is StatusCode.INVALID_STATE
    assert centre.do(None, MAIN, CallsMerged(CallId("none"))).code is StatusCode.NOT_FOUND


def test_a_merge_without_news_of_parties() -> None:
    centre = talking("alice", "bob")
    other = centre.consult("alice", MAIN, "carol")
    centre.did(None, MAIN, CallsMerged(other))
    assert [leg.user for leg in centre.calls[MAIN].legs if leg.live] == ["alice", "bob", "carol"]


def begun_by_switch(centre: Centre, *, parent: CallId | None, **pairs: object) -> CallId:
    """Return a call of alice and carol that the switch says belongs to MAIN."""
    other = new_consult_call_id(MAIN, OperationId(f"of-switch-{centre.count}"))
    legs = (party("alice", LegState.DIALING), party("carol"))
    started = CallStarted(ConnId("o"), CallType.CONSULT, "15002", legs, tuple(pairs.items()), parent=parent)
    centre.did(None, other, started)
    return other


def test_joint_data_of_a_consult_call_of_the_switch_is_that_of_both() -> None:
    centre = talking("alice", "bob", rules=CallRules(ConsultData.JOINT), a=1)
    other = begun_by_switch(centre, parent=MAIN, b=2)
    assert centre.data(MAIN) == centre.data(other) == {"a": 1, "b": 2}
    centre.did(None, MAIN, CallsMerged(other))
    assert centre.data(MAIN) == {"a": 1, "b": 2}


@pytest.mark.parametrize("rule", ConsultData)
def test_no_data_of_a_call_that_is_not_related_any_longer_gets_lost(rule: ConsultData) -> None:
    centre = talking("alice", "bob", rules=CallRules(rule), a=1)
    other = begun_by_switch(centre, parent=None, b=2)
    centre.did("carol", other, Answer())
    centre.did("carol", other, AttachUserData((("c", 3),)))
    centre.did(None, MAIN, CallsMerged(other))
    assert centre.data(MAIN) == {"a": 1, "b": 2, "c": 3}


def test_the_first_call_may_be_merged_into_the_consult_call() -> None:
    centre = talking("alice", "bob", a=1)
    other = centre.consult("alice", MAIN, "carol", b=2)
    centre.did("bob", MAIN, AttachUserData((("late", 3),)))
    centre.did(None, other, CallsMerged(MAIN))
    assert centre.data(other) == {"a": 1, "b": 2, "late": 3}
    assert centre.calls[MAIN].released


def test_a_call_is_not_merged_with_itself() -> None:
    centre = talking("alice", "bob")
    assert centre.do(None, MAIN, CallsMerged(MAIN)).code is StatusCode.OUT_OF_RANGE


def test_a_conference_keeps_what_its_initiator_asks_others() -> None:
    centre = talking("alice", "bob")
    first = centre.consult("alice", MAIN, "carol")
    centre.did("carol", first, Answer())
    second = centre.consult("alice", first, "dave")
    centre.did("alice", first, CompleteConference(first))
    parent = centre.leg("alice", second).parent
    assert parent is not None
    assert parent.call == MAIN
    centre.did("alice", second, CompleteTransfer())
    assert [leg.user for leg in centre.calls[MAIN].legs if leg.live] == ["bob", "carol", "dave"]


def test_a_related_call_whose_record_is_gone_is_no_longer_related() -> None:
    centre = talking("alice", "bob")
    other = centre.consult("alice", MAIN, "carol")
    gone = CallOperation(OperationId("gone"), other, CompleteTransfer(), 1, UserId("alice"))
    outcome = apply(centre.calls[other], gone, CallLimits(lambda _: 1), {})
    assert outcome.code is StatusCode.INVALID_STATE
    answered = CallOperation(OperationId("answered"), other, Answer(), 1, UserId("carol"))
    after = apply(centre.calls[other], answered, CallLimits(lambda _: 1), {}).state
    assert isinstance(after, Call)
    assert not after.related


def test_so_many_calls_belong_together() -> None:
    centre = talking("alice", "bob")
    consult = centre.consult("alice", MAIN, "carol")
    limits = CallLimits(lambda _: 1, max_related=2)
    another = InitiateTransfer(new_consult_call_id(MAIN, OperationId("x")), ConnId("c"), party("dave"))
    operation = CallOperation(OperationId("o"), MAIN, another, 1, UserId("alice"))
    outcome = apply(centre.calls[MAIN], operation, limits, {consult: centre.calls[consult]})
    assert (outcome.code, "2 calls belong together" in outcome.text) == (StatusCode.INVALID_STATE, True)


def refused(centre: Centre, call: CallId, action: CallAction) -> tuple[StatusCode, str]:
    """Return the refusal of an operation of alice's, which changes nothing."""
    before = dict(centre.calls)
    outcome = centre.do("alice", call, action)
    assert centre.calls == before
    return outcome.code, outcome.text


def test_refusals_of_operations_on_related_calls() -> None:
    centre = talking("alice", "bob", "dave")
    first, second = centre.consult("alice", MAIN, "carol"), new_consult_call_id(MAIN, OperationId("second"))
    outside = Leg("0891234", LegState.RINGING)
    centre.did("alice", MAIN, InitiateTransfer(second, ConnId("c"), outside))
    centre.did("carol", first, Answer())
    code, text = refused(centre, MAIN, CompleteConference(second))
    assert (code, "answered" in text) == (StatusCode.INVALID_STATE, True)
    assert refused(centre, MAIN, CompleteTransfer(CallId("other")))[0] is StatusCode.INVALID_STATE
    assert refused(centre, MAIN, InitiateTransfer(first, ConnId("c"), outside))[0] is StatusCode.ALREADY_EXISTS
    centre.did("alice", first, Hold())
    centre.did("alice", MAIN, SwapCalls(second))
    code, text = refused(centre, MAIN, SwapCalls(CallId("none")))
    assert (code, "not related" in text) == (StatusCode.INVALID_STATE, True)
    for number in (NUMBERS["alice"], "none"):
        code, text = refused(centre, MAIN, RemoveParticipantFromConference(number))
        assert (code, "participant" in text) == (StatusCode.OUT_OF_RANGE, True)
    centre.did("alice", MAIN, Hold())
    assert "Retrieve" in centre.can("alice", MAIN)
    assert refused(centre, MAIN, SwapCalls(first))[0] is StatusCode.INVALID_STATE


def test_only_one_of_two_calls_may_be_held_to_swap_them() -> None:
    centre = talking("alice", "bob")
    first = centre.consult("alice", MAIN, "carol")
    second = centre.consult("alice", MAIN, "dave")
    centre.did("alice", MAIN, SwapCalls(first))
    code, text = refused(centre, MAIN, SwapCalls(second))
    assert (code, text) == (StatusCode.INVALID_STATE, "SwapCalls takes one call that is held, and one that is not")


def test_a_party_has_so_many_consult_calls_from_one_call() -> None:
    centre = talking("alice", "bob")
    for number in range(8):
        target = Leg(f"0{number}", LegState.RINGING)
        consult = new_consult_call_id(MAIN, OperationId(f"of-{number}"))
        centre.did("alice", MAIN, InitiateConference(consult, ConnId("c"), target))
    another = InitiateConference(new_consult_call_id(MAIN, OperationId("x")), ConnId("c"), party("carol"))
    code, text = refused(centre, MAIN, another)
    assert (code, "8 consult calls" in text) == (StatusCode.INVALID_STATE, True)


def test_too_much_data_is_refused_before_anything_is_joined() -> None:
    centre = talking("alice", "bob", a="x" * 40_000)
    consult = centre.consult("alice", MAIN, "carol")
    centre.did("carol", consult, UpdateUserData((("a", "y"), ("b", "z" * 30_000))))
    centre.did("bob", MAIN, AttachUserData((("c", "w" * 20_000),)))
    assert centre.do("alice", MAIN, CompleteTransfer()).code is StatusCode.SUCCESS
    centre = talking("alice", "bob", a="x" * 40_000)
    consult = centre.consult("alice", MAIN, "carol")
    centre.did("carol", consult, AttachUserData((("b", "z" * 20_000),)))
    centre.did("bob", MAIN, AttachUserData((("c", "w" * 20_000),)))
    before = dict(centre.calls)
    assert centre.do("alice", MAIN, CompleteTransfer()).code is StatusCode.OUT_OF_RANGE
    assert centre.calls == before


# -- any order ---------------------------------------------------------------------------------------------------------

USERS = ("alice", "bob", "carol", "dave")


def action_of(name: str, centre: Centre, user: str, call: CallId, number: int) -> CallAction:
    """An action with parameters that suit the state, as far as there are such."""
    free = [each for each in USERS if (leg := centre.calls[call].leg_with(NUMBERS[each])) is None or not leg.live]
    target = party(free[number % len(free)] if free else user)
    related = centre.leg(user, call).related if centre.calls[call].leg_with(NUMBERS[user]) else ()
    other = related[number % len(related)].call if related else CallId("none")
    there = [leg.number for leg in centre.calls[call].legs if leg.live and leg.number != NUMBERS[user]]
    pairs = (("k" + str(number % 3), centre.count),)
    made: dict[str, Any] = {
        "AttachUserData": AttachUserData(pairs),
        "UpdateUserData": UpdateUserData(pairs),
        "DeleteUserDataPair": DeleteUserDataPair(pairs[0][0]),
        "SendDtmf": SendDtmf("1"),
        "InitiateTransfer": InitiateTransfer(new_id(centre, call), ConnId("c"), target, pairs),
        "InitiateConference": InitiateConference(new_id(centre, call), ConnId("c"), target),
        "SingleStepTransfer": SingleStepTransfer(target, pairs),
        "SingleStepConference": SingleStepConference(target),
        "CompleteTransfer": CompleteTransfer(consult_of(centre, user, call, number)),
        "CompleteConference": CompleteConference(consult_of(centre, user, call, number)),
        "SwapCalls": SwapCalls(other),
        "RemoveParticipantFromConference": RemoveParticipantFromConference(there[0] if there else "none"),
    }
    others: list[CallAction] = [Answer(), Hold(), Retrieve(), Hangup(), ClearCall(), MuteCall(), UnmuteCall()]
    return made.get(name) or next(each for each in others if each.name == name)


def new_id(centre: Centre, call: CallId) -> CallId:
    return new_consult_call_id(call, OperationId(f"new-{centre.count}"))


def consult_of(centre: Centre, user: str, call: CallId, number: int) -> CallId | None:
    leg = centre.calls[call].leg_with(NUMBERS[user])
    if leg is None:
        return None
    ids = [each.call for each in leg.consults] + ([call] if leg.parent is not None else [])
    return ids[number % len(ids)] if ids else None


def listed(centre: Centre) -> list[tuple[str, CallId, str]]:
    """Return all that anybody may send: user, call, name."""
    return [
        (user, call.id, name)
        for call in centre.calls.values()
        for user in USERS
        if (leg := call.leg_with(NUMBERS[user])) is not None
        for name in sorted(capabilities(call, leg))
        if name != "DeleteUserData"
    ]


STEPS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 11)), min_size=20, max_size=60)


@dataclass
class Model:
    """The rule for user data, said in another way: for each call what is there, and what was changed on it."""

    data: dict[CallId, dict[str, list[object]]] = field(default_factory=dict)
    changed: dict[CallId, set[str]] = field(default_factory=dict)

    def apply(self, call: CallId, action: CallAction, pair: tuple[CallId, CallId] | None) -> None:
        match action:
            case AttachUserData(pairs=pairs) | UpdateUserData(pairs=pairs):
                self.set(call, pairs, attach=isinstance(action, AttachUserData))
            case SingleStepTransfer(pairs=pairs):
                self.set(call, pairs)
            case DeleteUserDataPair(key=key):
                if self.data[call].pop(key, None) is not None:
                    self.changed[call].add(key)
            case InitiateTransfer(consult=consult, pairs=pairs) | InitiateConference(consult=consult, pairs=pairs):
                self.data[consult] = {key: list(values) for key, values in self.data[call].items()}
                self.changed[consult] = set()
                self.set(consult, pairs)
            case CompleteTransfer() | CompleteConference():
                assert pair is not None
                main, consult = pair
                for key in self.changed[consult]:
                    self.changed[main].add(key)
                    if key in self.data[consult]:
                        self.data[main][key] = list(self.data[consult][key])
                    else:
                        self.data[main].pop(key, None)
            case _:
                pass

    def set(self, call: CallId, pairs: tuple[tuple[str, object], ...], *, attach: bool = False) -> None:
        for key, value in pairs:
            self.data[call][key] = [*(self.data[call].get(key, []) if attach else []), value]
            self.changed[call].add(key)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_no_order_of_operations_loses_doubles_or_invents_a_pair(steps: list[tuple[int, int]]) -> None:
    """All that is listed is accepted, except where a parameter cannot suit."""
    centre = talking("alice", "bob", k0="first")
    model = Model({MAIN: {"k0": ["first"]}}, {MAIN: set()})
    for which, number in steps:
        possible = listed(centre)
        if not possible:
            break
        user, call, name = possible[which % len(possible)]
        action = action_of(name, centre, user, call, number)
        pair = None
        if isinstance(action, CompleteTransfer | CompleteConference) and action.consult is not None:
            leg = centre.leg(user, call)
            own = leg.parent is not None and action.consult == call
            pair = (leg.parent.call, call) if own and leg.parent is not None else (call, action.consult)
        outcome = centre.do(user, call, action)
        if outcome.code is StatusCode.SUCCESS:
            model.apply(call, action, pair)
        else:
            assert may_not_suit(centre, user, call, action), outcome.text
        shown = {
            each: {key: list(values) for key, values in one.user_data.values.items()}
            for each, one in centre.calls.items()
        }
        assert shown == model.data


def may_not_suit(centre: Centre, user: str, call: CallId, action: CallAction) -> bool:
    """Return whether an action that is listed may be refused: nobody is left to call, or the call named is another."""
    everybody = {leg.number for leg in centre.calls[call].legs if leg.live} >= set(NUMBERS.values())
    match action:
        case InitiateTransfer() | InitiateConference() | SingleStepTransfer() | SingleStepConference():
            return everybody or len(centre.leg(user, call).consults) == 8
        case CompleteConference(consult=consult):
            return consult is not None and centre.state(user, consult) is LegState.DIALING
        case SwapCalls(other=other):
            return (centre.state(user, call) is LegState.HELD) == (centre.state(user, other) is LegState.HELD)
        case _:
            return False


def test_an_end_of_all_calls_leaves_no_relation() -> None:
    centre = talking("alice", "bob")
    centre.consult("alice", MAIN, "carol")
    for call in list(centre.calls):
        centre.did(None, call, CallEnded())
    assert not any(leg.related for call in centre.calls.values() for leg in call.legs)
    assert NotificationType.STATUS_CHANGE in {each.notification for each in centre.events}
