"""Supervisors on the calls of their agents: joining, roles, what others see, and leaving."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from calltag.core.domain.agent import READY, Agent, AgentDevice
from calltag.core.domain.apply import apply
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import CallChanged, DevicesChanged, NotificationType, OperationRefused
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.monitoring import Monitoring, MonitoringScope, MonitoringState
from calltag.core.domain.operations import (
    AgentAction,
    AgentOperation,
    Answer,
    AttachUserData,
    CallAction,
    CallOperation,
    CallsMerged,
    CallStarted,
    CancelSupervisorMonitoring,
    ClearCall,
    CompleteTransfer,
    Hangup,
    Hold,
    InitiateTransfer,
    MonitorCall,
    MuteMonitoredUser,
    PartyChanged,
    RemoveParticipantFromConference,
    SingleStepConference,
    SingleStepTransfer,
    StartMonitoring,
    SwapCalls,
    SwitchMonitoring,
    UnmuteMonitoredUser,
)
from calltag.core.domain.outcome import CallLimits, Outcome
from calltag.core.domain.resource_view import call_resource, device_resource
from calltag.core.domain.status import StatusCode

MAIN, SECOND = CallId("C"), CallId("C_C0000000000000000")
USUAL = CallLimits(lambda value: len(orjson.dumps(value)))
LISTENING = Monitoring(DeviceId("of-alice"), "15000", MonitoringState.LISTEN_IN)
WITH_AGENT = replace(LISTENING, scope=MonitoringScope.AGENT)
BARGING = replace(LISTENING, state=MonitoringState.BARGE_IN)
NUMBERS = {"alice": "15000", "bob": "15001", "carol": "15002"}
SWITCHES = {
    "ListenIn": SwitchMonitoring("SwitchToListenIn"),
    "Coach": SwitchMonitoring("SwitchToCoach"),
    "BargeIn": SwitchMonitoring("SwitchToBargeIn"),
}


def leg(user: str, state: LegState = LegState.RINGING, monitoring: Monitoring | None = None) -> Leg:
    return Leg(NUMBERS[user], state, DeviceId(f"of-{user}"), UserId(user), monitoring=monitoring)


class Calls:
    """The calls of alice, whom carol may monitor, with a customer."""

    def __init__(self, monitoring: Monitoring | None = None, *more: Leg) -> None:
        self.calls: dict[CallId, Call] = {}
        self.outcome = Outcome(None)
        self.count = 0
        outside = Leg("0891234", LegState.ESTABLISHED)
        begun = CallStarted(ConnId("c"), CallType.INBOUND, "", (outside, leg("alice", LegState.ESTABLISHED), *more))
        self.do(None, begun, monitors=() if monitoring is None else (leg("carol", monitoring=monitoring),))

    def do(
        self,
        user: str | None,
        action: CallAction,
        call: CallId = MAIN,
        monitors: tuple[Leg, ...] = (),
        limits: CallLimits = USUAL,
    ) -> Outcome:
        self.count += 1
        sender = None if user is None else UserId(user)
        operation = CallOperation(OperationId(f"o{self.count}"), call, action, 1, sender, monitors=monitors)
        outcome = apply(self.calls.get(call), operation, limits, {k: v for k, v in self.calls.items() if k != call})
        for each in (outcome.state, *outcome.others):
            if isinstance(each, Call):
                self.calls[each.id] = each
        self.outcome = outcome
        return outcome

    def did(self, user: str | None, action: CallAction, call: CallId = MAIN, **more: Any) -> None:
        outcome = self.do(user, action, call, **more)
        assert outcome.code is StatusCode.SUCCESS, outcome.text

    def state(self, user: str, call: CallId = MAIN) -> LegState | None:
        found = self.calls[call].leg_with(NUMBERS[user])
        return None if found is None else found.state

    def seen(self, user: str, call: CallId = MAIN) -> dict[str, Any]:
        """The call as a user sees it."""
        own = self.calls[call].leg_of(UserId(user))
        assert own is not None
        shown: dict[str, Any] = {**call_resource(self.calls[call], own, 0, "http://x")}
        shown["others"] = [each["phoneNumber"] for each in shown["participants"]]
        return shown

    def told(self, user: str) -> list[str]:
        """What the last operation notified a user of."""
        events = [each for each in self.outcome.events if isinstance(each, CallChanged)]
        return [each.notification_for(UserId(user)).value for each in events if user in each.recipients]


def listening(monitoring: Monitoring = LISTENING, *more: Leg) -> Calls:
    """Carol has answered."""
    calls = Calls(monitoring, *more)
    calls.did("carol", Answer())
    return calls


def test_a_call_of_the_agent_rings_at_the_supervisor() -> None:
    calls = Calls(LISTENING)
    shown = calls.seen("carol")
    assert (shown["state"], shown["monitoring"], shown["others"]) == ("Ringing", True, ["0891234", "15000"])
    assert shown["capabilities"] == [
        "UpdateUserData", "AttachUserData", "DeleteUserDataPair", "DeleteUserData", "Answer", "ClearCall",
    ]  # fmt: skip
    agents = calls.seen("alice")
    assert (agents["others"], agents["supervisorListeningIn"], agents["monitoring"]) == (["0891234"], False, False)
    calls.did("carol", Answer())
    assert calls.seen("carol")["capabilities"] == [
        "UpdateUserData", "AttachUserData", "DeleteUserDataPair", "DeleteUserData", "Hangup",
        "SwitchToCoach", "SwitchToBargeIn", "MuteMonitoredUser",
    ]  # fmt: skip
    agents = calls.seen("alice")
    assert (agents["others"], agents["supervisorListeningIn"]) == (["0891234"], True)
    assert calls.seen("carol")["supervisorListeningIn"] is False
    assert "RemoveParticipantFromConference" not in agents["capabilities"], "a silent supervisor is no participant"


def test_the_answer_of_a_supervisor_answers_for_nobody_else() -> None:
    calls = Calls(LISTENING, Leg("0895678", LegState.DIALING))
    calls.did("carol", Answer())
    other = calls.calls[MAIN].leg_with("0895678")
    assert other is not None
    assert other.state is LegState.DIALING


def test_a_supervisor_changes_user_data_in_every_state() -> None:
    calls = Calls(LISTENING)
    calls.did("carol", AttachUserData((("k", 1),)))
    calls.did("carol", Answer())
    calls.did("carol", AttachUserData((("k", 2),)))
    assert calls.told("alice") == calls.told("carol") == ["AttachedDataChanged"]
    assert calls.seen("alice")["userData"] == {"k": [1, 2]}


@pytest.mark.parametrize("before", SWITCHES)
@pytest.mark.parametrize("after", SWITCHES)
def test_the_ways_of_monitoring(before: str, after: str) -> None:
    calls = listening(replace(LISTENING, state=MonitoringState(before)))
    outcome = calls.do("carol", SWITCHES[after])
    if before == after:
        assert outcome.code is StatusCode.INVALID_STATE
        assert f"SwitchTo{after} is not possible" in outcome.text
        return
    assert outcome.code is StatusCode.SUCCESS
    assert calls.seen("alice")["others"] == ["0891234", *(["15002"] if after == "BargeIn" else [])]
    assert calls.told("carol") == ["StatusChange"]
    assert calls.told("alice") == ["ParticipantsUpdated"]
    able = calls.seen("carol")["capabilities"]
    assert {each for each in able if each.startswith("SwitchTo")} == {f"SwitchTo{x}" for x in SWITCHES if x != after}
    assert ("Hold" in able, "RemoveParticipantFromConference" in able) == (after == "BargeIn",) * 2


def test_who_has_barged_in_acts_like_the_others() -> None:
    calls = listening(BARGING)
    calls.did("carol", Hold())
    assert not any(each.startswith("SwitchTo") for each in calls.seen("carol")["capabilities"])
    calls.did("alice", RemoveParticipantFromConference("15002"))
    assert calls.state("carol") is LegState.RELEASED


def test_who_consults_others_stays_a_party() -> None:
    """A silent supervisor with a consult call could not complete it."""
    calls = listening(BARGING)
    calls.did("carol", InitiateTransfer(SECOND, ConnId("d"), leg("bob")))
    calls.did("bob", Answer(), SECOND)
    calls.did("carol", SwapCalls(SECOND))
    able = calls.seen("carol")["capabilities"]
    assert calls.state("carol") is LegState.ESTABLISHED
    assert not any(each.startswith("SwitchTo") for each in able)
    assert {"CompleteConference", "MuteMonitoredUser"} <= set(able)


def test_a_silent_supervisor_cannot_be_removed() -> None:
    calls = listening(LISTENING, leg("bob", LegState.ESTABLISHED))
    outcome = calls.do("alice", RemoveParticipantFromConference("15002"))
    assert (outcome.code, outcome.text) == (StatusCode.OUT_OF_RANGE, "participant: 15002 is no other party of the call")


def test_the_agent_is_muted() -> None:
    calls = listening(LISTENING, leg("bob", LegState.ESTABLISHED))
    calls.did("carol", MuteMonitoredUser())
    assert calls.told("alice") == calls.told("carol") == ["MonitoredUserMutedStateChange"]
    assert [calls.seen(each)["monitoredUserMuted"] for each in ("carol", "alice", "bob")] == [True, True, False]
    assert "UnmuteMonitoredUser" in calls.seen("carol")["capabilities"]
    assert calls.do("carol", MuteMonitoredUser()).code is StatusCode.INVALID_STATE
    calls.did("carol", UnmuteMonitoredUser())
    assert [calls.seen(each)["monitoredUserMuted"] for each in ("carol", "alice")] == [False, False]


@pytest.mark.parametrize("action", [SWITCHES["BargeIn"], MuteMonitoredUser(), UnmuteMonitoredUser()])
def test_nobody_else_may_do_what_a_supervisor_does(action: CallAction) -> None:
    assert listening().do("alice", action).code is StatusCode.INVALID_STATE


@pytest.mark.parametrize("action", [Hold(), SingleStepTransfer(leg("bob")), RemoveParticipantFromConference("15000")])
def test_what_a_silent_supervisor_may_not_do(action: CallAction) -> None:
    assert listening().do("carol", action).code is StatusCode.INVALID_STATE


class TestLeaving:
    def test_a_supervisor_leaves_alone(self) -> None:
        calls = listening()
        calls.did("carol", Hangup())
        assert (calls.state("carol"), calls.state("alice")) == (LegState.RELEASED, LegState.ESTABLISHED)
        assert calls.seen("alice")["supervisorListeningIn"] is False

    def test_a_supervisor_declines(self) -> None:
        calls = Calls(LISTENING)
        calls.did("carol", ClearCall())
        assert (calls.state("carol"), calls.state("alice")) == (LegState.RELEASED, LegState.ESTABLISHED)

    def test_a_supervisor_leaves_one_who_is_alone(self) -> None:
        calls = listening()
        calls.did(None, PartyChanged((Leg("0891234", LegState.RELEASED),)))
        calls.did("carol", Hangup())
        assert calls.state("alice") is LegState.ESTABLISHED

    def test_the_call_ends_without_its_parties(self) -> None:
        calls = listening()
        calls.did("alice", Hangup())
        assert calls.calls[MAIN].released

    def test_nobody_is_left_whom_the_switch_reported(self) -> None:
        calls = listening()
        gone = tuple(Leg(each, LegState.RELEASED) for each in ("0891234", "15000"))
        calls.did(None, PartyChanged(gone))
        assert calls.calls[MAIN].released

    def test_one_who_barged_in_stays_with_the_customer(self) -> None:
        calls = listening(BARGING)
        calls.did("alice", Hangup())
        assert (calls.state("carol"), calls.seen("carol")["others"]) == (LegState.ESTABLISHED, ["0891234"])
        assert not any("Monitored" in each for each in calls.seen("carol")["capabilities"])
        calls.did("carol", Hangup())
        assert calls.calls[MAIN].released

    def test_with_the_agent(self) -> None:
        calls = listening(replace(BARGING, scope=MonitoringScope.AGENT))
        calls.did("alice", Hangup())
        assert calls.calls[MAIN].released, "the customer is alone"

    @pytest.mark.parametrize("monitoring", [LISTENING, WITH_AGENT])
    def test_a_transfer(self, monitoring: Monitoring) -> None:
        calls = listening(monitoring)
        calls.did("alice", SingleStepTransfer(leg("bob")))
        stays = monitoring.scope is MonitoringScope.CALL
        assert calls.state("carol") is (LegState.ESTABLISHED if stays else LegState.RELEASED)
        assert calls.seen("bob")["supervisorListeningIn"] is stays
        if stays:
            assert "MuteMonitoredUser" not in calls.seen("carol")["capabilities"], "the agent has left"

    @pytest.mark.parametrize("monitoring", [LISTENING, WITH_AGENT])
    def test_a_consultation(self, monitoring: Monitoring) -> None:
        calls = listening(monitoring)
        calls.did("alice", InitiateTransfer(SECOND, ConnId("d"), leg("bob")))
        calls.did("bob", Answer(), SECOND)
        calls.did("alice", CompleteTransfer())
        stays = monitoring.scope is MonitoringScope.CALL
        assert calls.state("carol") is (LegState.ESTABLISHED if stays else LegState.RELEASED)
        assert calls.state("bob") is LegState.ESTABLISHED

    def test_one_who_comes_as_a_party_is_silent_no_longer(self) -> None:
        """The agent consults the supervisor, who listens to the call already, and passes it on."""
        calls = listening()
        calls.did("alice", InitiateTransfer(SECOND, ConnId("d"), leg("carol")))
        calls.did("carol", Answer(), SECOND)
        calls.did("alice", CompleteTransfer())
        shown = calls.seen("carol")
        assert (shown["state"], shown["monitoring"], shown["others"]) == ("Established", False, ["0891234"])

    def test_the_call_is_passed_on_to_a_silent_one(self) -> None:
        calls = listening()
        calls.did("alice", SingleStepTransfer(leg("carol")))
        shown = calls.seen("carol")
        assert (shown["state"], shown["monitoring"], shown["others"]) == ("Ringing", False, ["0891234"])

    def test_one_who_monitors_both_calls_stays_silent(self) -> None:
        calls = listening()
        monitor = leg("carol", monitoring=replace(LISTENING, target=DeviceId("of-bob"), number="15001"))
        calls.did("alice", InitiateTransfer(SECOND, ConnId("d"), leg("bob")), monitors=(monitor,))
        assert calls.state("carol", SECOND) is LegState.RINGING
        calls.did("alice", CompleteTransfer())
        shown = calls.seen("carol")
        assert (shown["state"], shown["monitoring"]) == ("Established", True)

    def test_a_merge_brings_the_supervisor_of_the_other_call(self) -> None:
        calls = Calls()
        other = CallStarted(ConnId("d"), CallType.INBOUND, "", (Leg("0895678", LegState.ESTABLISHED), leg("bob")))
        monitor = leg("carol", monitoring=replace(LISTENING, target=DeviceId("of-bob"), number="15001"))
        calls.did(None, other, SECOND, monitors=(monitor,))
        calls.did(None, CallsMerged(SECOND))
        assert (calls.state("carol"), calls.state("bob")) == (LegState.RINGING, LegState.RINGING)


class TestJoining:
    def test_an_agent_who_joins_brings_the_supervisor(self) -> None:
        calls = Calls()
        monitor = leg("carol", monitoring=replace(LISTENING, target=DeviceId("of-bob"), number="15001"))
        calls.did("alice", SingleStepConference(leg("bob")), monitors=(monitor,))
        assert (calls.state("carol"), calls.told("carol")) == (LegState.RINGING, ["StatusChange"])
        assert calls.seen("alice")["others"] == ["0891234", "15001"]

    def test_an_agent_who_is_there_brings_nobody(self) -> None:
        calls = Calls()
        report = PartyChanged((leg("alice", LegState.HELD),))
        calls.did(None, report, monitors=(leg("carol", monitoring=LISTENING),))
        assert calls.state("carol") is None

    def test_no_supervisor_beyond_the_limit_of_parties(self) -> None:
        calls = Calls()
        monitor = leg("carol", monitoring=replace(LISTENING, target=DeviceId("of-bob"), number="15001"))
        limits = replace(USUAL, max_parties=3)
        calls.did("alice", SingleStepConference(leg("bob")), monitors=(monitor,), limits=limits)
        assert (calls.state("bob"), calls.state("carol")) == (LegState.RINGING, None)

    def test_a_call_of_now(self) -> None:
        calls = Calls()
        calls.did("carol", MonitorCall(leg("carol", monitoring=LISTENING)))
        assert (calls.state("carol"), calls.told("carol")) == (LegState.RINGING, ["StatusChange"])
        assert calls.told("alice") == ["ParticipantsUpdated"]
        calls.did("carol", MonitorCall(leg("carol", monitoring=LISTENING)))
        assert calls.told("carol") == [], "twice is as once"
        calls.did("carol", MonitorCall(leg("carol", monitoring=BARGING)))
        assert calls.seen("alice")["others"] == ["0891234", "15002"]
        calls.did("carol", Hangup())
        calls.did("carol", MonitorCall(leg("carol", monitoring=LISTENING)))
        assert calls.state("carol") is LegState.RINGING

    def test_a_call_that_the_agent_has_left(self) -> None:
        calls = Calls()
        calls.did("alice", SingleStepTransfer(leg("bob")))
        calls.did("carol", MonitorCall(leg("carol", monitoring=LISTENING)))
        assert (calls.state("carol"), calls.outcome.events) == (None, ())
        calls.did("bob", Hangup())
        calls.did("carol", MonitorCall(leg("carol", monitoring=LISTENING)))
        assert calls.outcome.events == ()

    def test_a_call_that_is_gone(self) -> None:
        calls = Calls()
        calls.did("carol", MonitorCall(leg("carol", monitoring=LISTENING)), CallId("gone"))
        assert calls.outcome == Outcome(None)

    def test_one_who_is_a_party_stays_one(self) -> None:
        calls = Calls(None, leg("carol", LegState.ESTABLISHED))
        calls.did("carol", MonitorCall(leg("carol", monitoring=LISTENING)))
        assert calls.seen("carol")["monitoring"] is False

    def test_a_call_that_is_full(self) -> None:
        calls = Calls()
        full = replace(USUAL, max_parties=2)
        outcome = calls.do("carol", MonitorCall(leg("carol", monitoring=BARGING)), limits=full)
        [refused] = outcome.events
        assert isinstance(refused, OperationRefused)
        assert (refused.operation_name, refused.code) == ("BargeIn", StatusCode.OUT_OF_RANGE)


class TestDevices:
    DEVICE = AgentDevice(DeviceId("of-carol"), "15002", READY, active=True)

    def do(self, action: AgentAction, *devices: AgentDevice) -> Outcome:
        operation = AgentOperation(OperationId("o"), UserId("carol"), action, 1)
        return apply(Agent(UserId("carol"), devices or (self.DEVICE,)), operation, USUAL)

    def test_monitoring_begins_and_ends(self) -> None:
        begun = self.do(StartMonitoring(self.DEVICE.id, LISTENING))
        assert isinstance(begun.state, Agent)
        [event] = begun.events
        assert isinstance(event, DevicesChanged)
        [device] = event.devices
        shown = device_resource(device, "http://x", monitors=False)
        assert shown["supervisorMonitoringState"] == {
            "state": "ListenIn", "mode": "AllCalls", "scope": "Call",
            "targetDeviceUri": "http://x/api/v2/devices/of-alice",
        }  # fmt: skip
        assert shown["capabilities"] == ["DoNotDisturbOn", "ForwardCallsOn", "CancelSupervisorMonitoring"]
        ended = self.do(CancelSupervisorMonitoring(self.DEVICE.id), device)
        assert isinstance(ended.state, Agent)
        assert ended.state.devices == (self.DEVICE,)

    def test_what_is_not_monitored_is_not_cancelled(self) -> None:
        outcome = self.do(CancelSupervisorMonitoring(self.DEVICE.id))
        [refused] = outcome.events
        assert isinstance(refused, OperationRefused)
        assert (refused.text, refused.device) == ("the device monitors no other one", self.DEVICE.id)

    def test_only_what_was_used_is_cancelled(self) -> None:
        device = replace(self.DEVICE, monitoring=BARGING)
        kept = self.do(CancelSupervisorMonitoring(device.id, LISTENING), device)
        assert (kept.events, kept.code) == ((), StatusCode.SUCCESS)
        used = self.do(CancelSupervisorMonitoring(device.id, BARGING), device)
        assert len(used.events) == 1

    def test_a_device_out_of_session_monitors_nobody(self) -> None:
        outcome = self.do(StartMonitoring(self.DEVICE.id, LISTENING), replace(self.DEVICE, active=False))
        [refused] = outcome.events
        assert isinstance(refused, OperationRefused)
        assert (refused.operation_name, refused.code) == ("ListenIn", StatusCode.INVALID_STATE)
        assert "StartContactCenterSession" in refused.text


def test_notifications_have_the_names_of_web_services() -> None:
    assert NotificationType("MonitoredUserMutedStateChange") is NotificationType.MONITORED_USER_MUTED_STATE_CHANGE
