"""Resources of the API: a call as seen from one of its legs, and a device, with the operations that they allow.

Source of the shapes: Web Services API, sample of AttachUserData (CometD notification), and recorded traffic of its
desktop (devices).
"""

from collections.abc import Iterator, Mapping
from typing import Final, Literal, NotRequired

from typing_extensions import TypedDict

from calltag.core.domain.agent import AgentDevice, AgentState
from calltag.core.domain.call import Call, Leg, LegState
from calltag.core.domain.monitoring import Monitoring, MonitoringState

# The order is that of Web Services; clients may display it.
_USER_DATA_AND_DTMF: Final = ("UpdateUserData", "SendDtmf", "AttachUserData", "DeleteUserDataPair", "DeleteUserData")
_USER_DATA: Final = ("UpdateUserData", "AttachUserData", "DeleteUserDataPair", "DeleteUserData")

_OTHER_PARTIES: Final = ("InitiateTransfer", "SingleStepTransfer", "InitiateConference", "SingleStepConference")
_ANSWERED: Final = (LegState.ESTABLISHED, LegState.HELD)
_SILENT: Final = (*_USER_DATA, "Hangup")
_CONFERENCE: Final = 3
"""Parties of a call from which on one may be removed."""

CAPABILITIES: Final[Mapping[LegState, tuple[str, ...]]] = {
    LegState.DIALING: (*_USER_DATA_AND_DTMF, "Hangup"),
    LegState.RINGING: (*_USER_DATA, "Answer", "ClearCall"),
    LegState.ESTABLISHED: (*_USER_DATA_AND_DTMF, "Hangup", "Hold", "ClearCall", *_OTHER_PARTIES),
    LegState.HELD: (*_USER_DATA, "Hangup", *_OTHER_PARTIES),
    LegState.RELEASED: (),
}
"""Operations by leg state, as they are listed to clients, beside those of `capabilities`."""
TOLERATED: Final[Mapping[LegState, tuple[str, ...]]] = {LegState.RINGING: ("Hangup", "Reject")}
"""Operations that are accepted beside those: clients decline a call with them, though Web Services lists neither."""
VOICE_ENVIRONMENT: Final = "default"
"""Id of the only voice environment of an installation."""


class Participant(TypedDict):
    """Another party of the call."""

    e164Number: str
    """Empty: calltag does not convert numbers."""
    formattedPhoneNumber: str
    phoneNumber: str
    digits: str


class BlockingOperation(TypedDict):
    """An operation that failed repeatedly, and blocks the call until an operator replays or drops it."""

    operationId: str
    reason: str
    at: int
    """Unix time in milliseconds."""


class CalltagOfCall(TypedDict):
    """Properties that Web Services does not have."""

    parked: BlockingOperation


class CallExt(TypedDict):
    """Extensions, by their name."""

    calltag: CalltagOfCall


class _OptionalMembers(TypedDict, total=False):
    parentCallUri: str
    parentCallPath: str
    deviceUri: str
    userData: dict[str, object]
    ani: str
    recordingState: Literal["Stopped", "Recording", "Paused"]


class CallResource(TypedDict):
    """A call as its user sees it, from the leg of the user's device."""

    id: str
    state: Literal["Dialing", "Ringing", "Established", "Held", "Released"]
    """State of the user's leg."""
    callUuid: str
    connId: str
    deviceUri: NotRequired[str]
    """Address of the device of the leg. Absent if its number is outside the contact centre."""
    participants: list[Participant]
    dnis: str
    """Number that was dialed."""
    ani: NotRequired[str]
    """Number of the caller, on calls that come from outside."""
    callType: Literal["Internal", "Inbound", "Outbound", "Consult", "Unknown"]
    capabilities: list[str]
    """Names of the operations that the state of the leg allows."""
    userData: NotRequired[dict[str, object]]
    """The attached data: one value, or the list of several values, by key. Absent if there is none."""
    duration: str
    """Whole seconds since the call began."""
    mute: Literal["On", "Off"]
    recordingState: NotRequired[Literal["Stopped", "Recording", "Paused"]]
    """Absent where calls are not recorded."""
    supervisorListeningIn: bool
    """True for an agent while a supervisor monitors the call."""
    monitoredUserMuted: bool
    """True for a supervisor who muted the agent, and for that agent."""
    monitoring: bool
    """True for a supervisor, who is on the call because of an agent."""
    uri: str
    path: str
    parentCallUri: NotRequired[str]
    """On a consult call, for its initiator only: the call from which it began."""
    parentCallPath: NotRequired[str]


CALL_EXAMPLE: Final[CallResource] = {
    "id": "01RCC3N118B1V0SL8O7GK2LAES00000R",
    "state": "Dialing",
    "callUuid": "01RCC3N118B1V0SL8O7GK2LAES00000R",
    "connId": "007102719818001b",
    "deviceUri": "http://127.0.0.1:8080/api/v2/devices/631608b3-ceb1-472b-ba05-2ae39555b0d1",
    "participants": [
        {"e164Number": "", "formattedPhoneNumber": "15001", "phoneNumber": "15001", "digits": "15001"}
    ],
    "dnis": "15001",
    "callType": "Internal",
    "capabilities": [
        "UpdateUserData", "SendDtmf", "AttachUserData", "DeleteUserDataPair", "DeleteUserData", "Hangup"
    ],
    "userData": {"AccountNumber": "12345"},
    "duration": "63",
    "mute": "Off",
    "supervisorListeningIn": False,
    "monitoredUserMuted": False,
    "monitoring": False,
    "uri": "http://127.0.0.1:8080/api/v2/me/calls/01RCC3N118B1V0SL8O7GK2LAES00000R",
    "path": "/calls/01RCC3N118B1V0SL8O7GK2LAES00000R",
}  # fmt: skip
"""That of the page on AttachUserData in the Web Services API reference, after the operation."""


class ShownCall(CallResource):
    """A call, with the operation that blocks it."""

    ext: NotRequired[CallExt]
    """Present while an operation on the call is parked."""


def capabilities(call: Call, leg: Leg) -> tuple[str, ...]:
    """Return the operations that a party may send, in its state and that of its related calls."""
    more = list(_monitoring_capabilities(call, leg))
    if leg.is_silent and leg.state in _ANSWERED:
        return (*_SILENT, *more)
    states = [each.state for each in leg.related]
    is_active = any(state is not LegState.HELD for state in states)
    match leg.state:
        case LegState.ESTABLISHED:
            more.append("UnmuteCall" if leg.muted else "MuteCall")
            if call.parties >= _CONFERENCE:
                more.append("RemoveParticipantFromConference")
            if LegState.HELD in states:
                more += ("SwapCalls", "CompleteTransfer", "CompleteConference")
        case LegState.HELD:
            more.append("SwapCalls" if is_active else "Retrieve")
            if states:
                more.append("CompleteTransfer")
            if any(state in _ANSWERED for state in states):
                more.append("CompleteConference")
        case LegState.DIALING if leg.parent is not None:
            more.append("CompleteTransfer")
        case _:
            pass
    return (*CAPABILITIES[leg.state], *more)


def _monitoring_capabilities(call: Call, leg: Leg) -> Iterator[str]:
    """Yield the operations by which a supervisor takes part in another way, and mutes the agent."""
    if leg.monitoring is None or leg.state is not LegState.ESTABLISHED:
        return
    if not leg.related:
        yield from (f"SwitchTo{each}" for each in MonitoringState if each is not leg.monitoring.state)
    agent = call.leg_with(leg.monitoring.number)
    if agent is not None and agent.live:
        yield "UnmuteMonitoredUser" if leg.monitoring.user_muted else "MuteMonitoredUser"


def call_resource(call: Call, leg: Leg, now_ms: int, base_url: str) -> CallResource:
    """Return the call from a leg; `base_url` is scheme, host and port, without a trailing slash."""
    parent: _OptionalMembers = {}
    if leg.parent is not None:
        parent = {
            "parentCallUri": f"{base_url}/api/v2/me/calls/{leg.parent.call}",
            "parentCallPath": f"/calls/{leg.parent.call}",
        }
    device: _OptionalMembers = {"deviceUri": f"{base_url}/api/v2/devices/{leg.device}"} if leg.device else {}
    ani: _OptionalMembers = {"ani": call.ani} if call.ani else {}
    recording: _OptionalMembers = {} if call.recording is None else {"recordingState": call.recording.value}
    user_data: _OptionalMembers = {"userData": call.user_data.as_object()} if call.user_data else {}
    return {
        "id": call.id,
        "state": leg.state.value,
        "callUuid": call.id,
        "connId": call.conn_id,
        **device,
        "participants": [_participant(other) for other in call.others(leg)],
        "dnis": call.dnis,
        **ani,
        "callType": call.type.value,
        "capabilities": list(capabilities(call, leg)),
        **user_data,
        "duration": str(max(0, now_ms - call.began_at_ms) // 1000),
        "mute": "On" if leg.muted else "Off",
        **recording,
        "supervisorListeningIn": _is_monitored(call, leg),
        "monitoredUserMuted": _is_muted_by_supervisor(call, leg),
        "monitoring": leg.monitoring is not None,
        "uri": f"{base_url}/api/v2/me/calls/{call.id}",
        "path": f"/calls/{call.id}",
        **parent,
    }


def _is_monitored(call: Call, leg: Leg) -> bool:
    """Return whether the call has a supervisor, for an agent."""
    others = [each for each in call.legs if each is not leg and each.state in _ANSWERED]
    return leg.user is not None and any(each.monitoring is not None for each in others)


def _is_muted_by_supervisor(call: Call, leg: Leg) -> bool:
    """Return whether the supervisor muted the agent, or the agent was muted by one."""
    return any(each.monitoring is not None and each.monitoring.user_muted for each in (leg, *call.monitors(leg)))


def _participant(leg: Leg) -> Participant:
    return {
        "e164Number": "",
        "formattedPhoneNumber": leg.number,
        "phoneNumber": leg.number,
        "digits": leg.number,
    }


class UserStateResource(TypedDict):
    """State of the user on a device. One that cannot be chosen has no id."""

    id: NotRequired[str]
    displayName: NotRequired[str]
    state: Literal["LoggedOut", "LoggedIn", "Ready", "NotReady"]
    workMode: NotRequired[Literal["AfterCallWork", "AuxWork"]]
    reason: NotRequired[str]
    """Reason of a state of this contact centre, such as a lunch break."""


class SupervisorMonitoringState(TypedDict):
    """The device whose calls ring at a supervisor's device too."""

    state: Literal["ListenIn", "Coach", "BargeIn"]
    mode: Literal["AllCalls", "NextCall"]
    scope: Literal["Call", "Agent"]
    targetDeviceUri: str


class DeviceResource(TypedDict):
    """A device of a user."""

    id: str
    deviceState: Literal["Active", "Inactive"]
    """Active during the contact-centre session."""
    userState: NotRequired[UserStateResource]
    """Present during the contact-centre session."""
    phoneNumber: str
    e164Number: str
    """Empty: calltag does not convert numbers."""
    dynamicPhoneNumber: str
    description: str
    telephonyNetwork: Literal["Private"]
    doNotDisturb: Literal["On", "Off"]
    forwardCallsTo: NotRequired[str]
    """Number to which calls are forwarded, if they are. Web Services does not document its name for it."""
    supervisorMonitoringState: NotRequired[SupervisorMonitoringState]
    """Present while the device monitors another one."""
    channels: list[str]
    voiceEnvironmentUri: str
    capabilities: list[str]
    """Names of the operations that the device allows."""
    uri: str
    path: str


def user_state_resource(state: AgentState) -> UserStateResource:
    """Return the state of a user."""
    resource: UserStateResource = {"state": state.state.value}
    if state.id:
        resource |= {"id": state.id, "displayName": state.display_name}
    if state.work_mode is not None:
        resource["workMode"] = state.work_mode.value
    if state.reason is not None:
        resource["reason"] = state.reason
    return resource


def device_resource(device: AgentDevice, base_url: str, *, monitors: bool) -> DeviceResource:
    """Return a device as its user sees it; `monitors` if the user may monitor agents."""
    resource: DeviceResource = {
        "id": device.id,
        "deviceState": "Active" if device.active else "Inactive",
        "phoneNumber": device.number,
        "e164Number": "",
        "dynamicPhoneNumber": "",
        "description": "",
        "telephonyNetwork": "Private",
        "doNotDisturb": "On" if device.do_not_disturb else "Off",
        "channels": ["voice"],
        "voiceEnvironmentUri": f"{base_url}/api/v2/voice-environments/{VOICE_ENVIRONMENT}",
        "capabilities": _device_capabilities(device, monitors=monitors),
        "uri": f"{base_url}/api/v2/devices/{device.id}",
        "path": f"/devices/{device.id}",
    }
    if device.active:
        resource["userState"] = user_state_resource(device.state)
    if device.forward_to:
        resource["forwardCallsTo"] = device.forward_to
    if device.monitoring is not None:
        resource["supervisorMonitoringState"] = _monitoring_state(device.monitoring, base_url)
    return resource


def _monitoring_state(monitoring: Monitoring, base_url: str) -> SupervisorMonitoringState:
    return {
        "state": monitoring.state.value,
        "mode": monitoring.mode.value,
        "scope": monitoring.scope.value,
        "targetDeviceUri": f"{base_url}/api/v2/devices/{monitoring.target}",
    }


def _device_capabilities(device: AgentDevice, *, monitors: bool) -> list[str]:
    if not device.active:
        return []
    return [
        "DoNotDisturbOff" if device.do_not_disturb else "DoNotDisturbOn",
        "ForwardCallsOff" if device.forward_to else "ForwardCallsOn",
        *(MonitoringState if monitors else ()),
        *(["CancelSupervisorMonitoring"] if device.monitoring is not None else []),
    ]
