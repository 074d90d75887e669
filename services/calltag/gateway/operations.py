"""The operations of the API: name, parser, schema, documentation and example of each, for router and OpenAPI."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from calltag.core.domain.agent import SYSTEM_STATES
from calltag.core.domain.call import CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId
from calltag.core.domain.monitoring import Monitoring, MonitoringMode, MonitoringScope, MonitoringState
from calltag.core.domain.operations import (
    AgentAction,
    Answer,
    AttachUserData,
    CancelSupervisorMonitoring,
    ChangeAgentState,
    ClearCall,
    ClientAction,
    CompleteAction,
    CompleteConference,
    CompleteTransfer,
    DeleteUserData,
    DeleteUserDataPair,
    DeviceAction,
    Dial,
    EndContactCenterSession,
    ForwardCalls,
    Hangup,
    Hold,
    InitiateAction,
    InitiateConference,
    InitiateTransfer,
    MuteCall,
    MuteMonitoredUser,
    Reject,
    RemoveParticipantFromConference,
    Retrieve,
    SendDtmf,
    SetCallDisposition,
    SetDoNotDisturb,
    SingleStepAction,
    SingleStepConference,
    SingleStepTransfer,
    StartContactCenterSession,
    StartMonitoring,
    SwapCalls,
    SwitchMonitoring,
    UnmuteCall,
    UnmuteMonitoredUser,
    UpdateUserData,
)
from calltag.core.identity.directory import Device, Directory, User
from calltag.gateway.errors import OutOfRange
from calltag.gateway.requests import (
    Body,
    UserDataLimits,
    optional_text,
    required_list,
    required_object,
    required_text,
    user_data,
    user_data_key,
)

Schema = Mapping[str, Any]
Parser = TypeVar("Parser", bound=Callable[..., object])
Known = TypeVar("Known", bound=StrEnum)
_MAX_NAME_BYTES: Final = 64
_MAX_NUMBER_BYTES: Final = 64
_MAX_DIGITS: Final = 64
_MAX_URI_BYTES: Final = 512
_DISPOSITION_KEY: Final = "disposition"
_MAX_CHANNELS: Final = 8
VOICE: Final = "voice"
"""The channel that calltag serves."""
_NUMBER: Final = re.compile(r"\+?[0-9A-Za-z*#().\- ]+")
_DIGITS: Final = re.compile(r"[0-9A-Da-d*#,]+")


@dataclass(frozen=True, slots=True)
class OperationType(Generic[Parser]):
    """An operation by its name, which requests have in the member `tag`.

    `parameters` are the JSON schemas of its parameters, `example` their values.
    """

    name: str
    summary: str
    parse: Parser
    parameters: Mapping[str, Schema] = field(default_factory=dict)
    required: Sequence[str] = ()
    example: Mapping[str, object] = field(default_factory=dict)
    tag: str = "operationName"

    def schema(self) -> Schema:
        """Return the JSON schema of a request."""
        return {
            "type": "object",
            "title": self.name,
            "description": self.summary,
            "required": [self.tag, *self.required],
            "properties": {self.tag: {"const": self.name}, **self.parameters},
        }

    def request(self) -> Mapping[str, object]:
        """Return the example of a request."""
        return {self.tag: self.name, **self.example}


class Operations(Generic[Parser]):
    """The operations that one kind of resource has, all with the same `tag`; `other` parses those whose names the
    directory has."""

    def __init__(
        self, first: OperationType[Parser], *others: OperationType[Parser], other: Parser | None = None
    ) -> None:
        self.tag = first.tag
        self._types = {each.name: each for each in (first, *others)}
        self._known = {each.name: {self.tag, *each.parameters} for each in (first, *others)}
        self._other = other

    def __iter__(self) -> Iterator[OperationType[Parser]]:
        return iter(self._types.values())

    def names(self) -> tuple[str, ...]:
        """Return the names."""
        return tuple(self._types)

    def ignored(self, body: Body) -> Sequence[str]:
        """Return the members of a body that its operation does not have."""
        return [each for each in body if each not in self._known.get(str(body.get(self.tag)), body)]

    def parser_of(self, body: Body) -> Parser:
        """Return the parser of the operation that the body names. Raises ParameterMissing, OutOfRange."""
        name = required_text(body, self.tag, max_bytes=_MAX_NAME_BYTES)
        if name in self._types:
            return self._types[name].parse
        if self._other is None:
            raise not_known(self.tag, self._types)
        return self._other


def known(kind: type[Known], name: str, value: str) -> Known:
    """Return the member of an enumeration of that name. Raises OutOfRange."""
    try:
        return kind(value)
    except ValueError:
        raise OutOfRange(f"{name} is not known; known are {', '.join(kind)}") from None


def not_known(tag: str, names: Iterable[str]) -> OutOfRange:
    """Return the refusal of an operation that is not one of these."""
    return OutOfRange(f"{tag} is not known here; known are {', '.join(names)}")


def dial(body: Body, device: Device, directory: Directory, limits: UserDataLimits) -> Dial:
    """Return the new call: Internal if the number is a device's, Outbound otherwise.

    The caller sets `conn_id` once the operation id is known. Raises ParameterMissing, OutOfRange.
    """
    number = destination(body)
    if number == device.number:
        raise OutOfRange("destination.phoneNumber is the number of the dialing device itself")
    called = _target(body, directory)
    return Dial(
        conn_id=ConnId(""),
        type=CallType.INTERNAL if called.user is not None else CallType.OUTBOUND,
        dnis=number,
        legs=(Leg(device.number, LegState.DIALING, device.id, directory.by_device[device.id].user.id), called),
        pairs=user_data(body, limits, required=False),
    )


def _target(body: Body, directory: Directory) -> Leg:
    """Return the leg of the destination, whose phone rings."""
    number = destination(body)
    owner = directory.by_number.get(number)
    return (
        Leg(number, LegState.RINGING)
        if owner is None
        else Leg(number, LegState.RINGING, owner.device.id, owner.user.id)
    )


def named_call(body: Body, name: str) -> CallId | None:
    """Return the call that a parameter names by its uri, path or id; None if it is missing. Raises OutOfRange."""
    if body.get(name) is None:
        return None
    return CallId(_last_segment(required_text(body, name, max_bytes=_MAX_URI_BYTES)))


def _last_segment(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2]


def destination(body: Body) -> str:
    """Return the number of the parameter `destination`. Raises ParameterMissing, OutOfRange."""
    given = required_object(body, "destination")
    number = required_text(given, "phoneNumber", max_bytes=_MAX_NUMBER_BYTES, within="destination.").strip()
    if not _NUMBER.fullmatch(number):
        raise OutOfRange("destination.phoneNumber is not a phone number")
    return number


def _send_dtmf(body: Body, *_: object) -> SendDtmf:
    digits = required_text(body, "digits", max_bytes=_MAX_DIGITS)
    if not _DIGITS.fullmatch(digits):
        raise OutOfRange("digits may hold 0 to 9, A to D, *, # and the comma")
    return SendDtmf(digits)


def _start_session(body: Body, user: User, directory: Directory) -> StartContactCenterSession:
    if VOICE not in _channels(body):
        raise OutOfRange(f"channels has to name {VOICE}; calltag serves no other")
    return StartContactCenterSession(_devices(user), (VOICE,), directory.initial_state)


def _channels(body: Body) -> list[str]:
    channels = required_list(body, "channels", max_items=_MAX_CHANNELS)
    for number, each in enumerate(channels):
        if not isinstance(each, str):
            raise OutOfRange(f"channels[{number}] must be a string")
    return [str(each) for each in channels]


def unserved_channels(body: Body) -> Sequence[str]:
    """Return the channels of StartContactCenterSession that are not served; Web Services calls all of them one."""
    channels = body.get("channels")
    return ["multimedia"] if isinstance(channels, list) and any(each != VOICE for each in channels) else []


def change_state(body: Body, _: User, directory: Directory) -> ChangeAgentState:
    """Return the change to the state that the operation names. Raises ParameterMissing, OutOfRange."""
    state = directory.agent_states.get(required_text(body, "operationName", max_bytes=_MAX_NAME_BYTES))
    if state is None:
        raise not_known("operationName", [*SESSION_OPERATIONS.names(), *directory.agent_states])
    return ChangeAgentState(state)


def _devices(user: User) -> tuple[tuple[DeviceId, str], ...]:
    return tuple((device.id, device.number) for device in user.devices)


DESTINATION: Final[Schema] = {
    "type": "object",
    "required": ["phoneNumber"],
    "properties": {
        "phoneNumber": {"type": "string", "pattern": f"^{_NUMBER.pattern}$", "maxLength": _MAX_NUMBER_BYTES}
    },
}
USER_DATA: Final[Schema] = {
    "type": "object",
    "additionalProperties": True,
    "description": "Key to value; a list is that many values of its key. Keys have 1 to 255 bytes.",
}
_ACCOUNT: Final = {"userData": {"AccountNumber": "12345"}}

CallParser = Callable[[Body, UserDataLimits, Directory], ClientAction]
_TRANSFER: Final[Mapping[str, Schema]] = {"destination": DESTINATION, "userData": USER_DATA}
_TO_CAROL: Final = {"destination": {"phoneNumber": "15002"}}
_CALL_URI: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": _MAX_URI_BYTES,
    "description": "The `uri` of the call, its `path`, or its id.",
}


def _begin_consult(kind: type[InitiateAction]) -> CallParser:
    # The ids of the new call follow from that of the operation, which is not known yet.
    return lambda body, limits, directory: kind(
        CallId(""), ConnId(""), _target(body, directory), user_data(body, limits, required=False)
    )


def _add_party(kind: type[SingleStepAction]) -> CallParser:
    return lambda body, limits, directory: kind(_target(body, directory), user_data(body, limits, required=False))


def _complete(kind: type[CompleteAction]) -> CallParser:
    return lambda body, *_: kind(named_call(body, "consultCallUri"))


def _disposition(body: Body, limits: UserDataLimits, _: Directory) -> SetCallDisposition:
    return SetCallDisposition(
        optional_text(body, "dispositionKey", _DISPOSITION_KEY, max_bytes=limits.max_key_bytes),
        required_text(body, "disposition"),
        user_data(body, limits, required=False),
    )


def _swap(body: Body, *_: object) -> SwapCalls:
    required_text(body, "otherCallUri", max_bytes=_MAX_URI_BYTES)
    return SwapCalls(named_call(body, "otherCallUri") or CallId(""))


_WAYS: Final[Mapping[MonitoringState, str]] = {
    MonitoringState.LISTEN_IN: "listen, without being seen by the other parties.",
    MonitoringState.COACH: "speak to the agent alone.",
    MonitoringState.BARGE_IN: "take part like the other parties.",
}


_SWITCHES: Final = (
    SwitchMonitoring("SwitchToListenIn"),
    SwitchMonitoring("SwitchToCoach"),
    SwitchMonitoring("SwitchToBargeIn"),
)


def _always(action: ClientAction) -> CallParser:
    return lambda *_: action


DISPOSITION: Final[OperationType[CallParser]] = OperationType(
    "SetCallDisposition",
    "Set the disposition of the call in its user data, also after its end.",
    _disposition,
    {
        "disposition": {"type": "string", "minLength": 1},
        "dispositionKey": {"type": "string", "minLength": 1, "description": f"`{_DISPOSITION_KEY}` by default."},
        "callUri": _CALL_URI,
        "callUuid": _CALL_URI,
        "userData": USER_DATA,
    },
    ["disposition"],
    {"disposition": "sold"},
)

CALL_OPERATIONS: Final = Operations[CallParser](
    OperationType(
        "AttachUserData",
        "Attach pairs: a value of a key that has one is added to its list.",
        lambda body, limits, _: AttachUserData(user_data(body, limits)),
        {"userData": USER_DATA},
        ["userData"],
        _ACCOUNT,
    ),
    OperationType(
        "UpdateUserData",
        "Set pairs: a value replaces all values of its key.",
        lambda body, limits, _: UpdateUserData(user_data(body, limits)),
        {"userData": USER_DATA},
        ["userData"],
        {"userData": {"AccountNumber": "1"}},
    ),
    OperationType(
        "DeleteUserDataPair",
        "Delete all values of a key.",
        lambda body, limits, _: DeleteUserDataPair(user_data_key(body, limits)),
        {"key": {"type": "string", "minLength": 1}},
        ["key"],
        {"key": "AccountNumber"},
    ),
    OperationType("DeleteUserData", "Delete all user data.", lambda *_: DeleteUserData()),
    OperationType("Answer", "Answer a ringing call.", lambda *_: Answer()),
    OperationType("Hold", "Put the call on hold.", lambda *_: Hold()),
    OperationType("Retrieve", "Retrieve the call from hold.", lambda *_: Retrieve()),
    OperationType(
        "SendDtmf",
        "Send digits.",
        _send_dtmf,
        {"digits": {"type": "string", "pattern": f"^{_DIGITS.pattern}$", "maxLength": _MAX_DIGITS}},
        ["digits"],
        {"digits": "42#"},
    ),
    OperationType("Hangup", "Leave the call, which ends it where two are left.", lambda *_: Hangup()),
    OperationType("ClearCall", "End the call for all; decline it where it rings.", lambda *_: ClearCall()),
    OperationType("Reject", "Decline a ringing call.", lambda *_: Reject()),
    OperationType("MuteCall", "Mute oneself.", lambda *_: MuteCall()),
    OperationType("UnmuteCall", "Unmute oneself.", lambda *_: UnmuteCall()),
    OperationType(
        "SingleStepTransfer",
        "Leave the call to another party, whose phone rings.",
        _add_party(SingleStepTransfer),
        _TRANSFER,
        ["destination"],
        _TO_CAROL,
    ),
    OperationType(
        "SingleStepConference",
        "Add another party, whose phone rings.",
        _add_party(SingleStepConference),
        _TRANSFER,
        ["destination"],
        _TO_CAROL,
    ),
    OperationType(
        "InitiateTransfer",
        "Hold the call, and begin a consult call to another party.",
        _begin_consult(InitiateTransfer),
        _TRANSFER,
        ["destination"],
        _TO_CAROL,
    ),
    OperationType(
        "InitiateConference",
        "Hold the call, and begin a consult call to another party.",
        _begin_consult(InitiateConference),
        _TRANSFER,
        ["destination"],
        _TO_CAROL,
    ),
    OperationType(
        "CompleteTransfer",
        "Join the parties of the call and of the consult call, and leave.",
        _complete(CompleteTransfer),
        {"consultCallUri": _CALL_URI},
    ),
    OperationType(
        "CompleteConference",
        "Join the parties of the call and of the consult call.",
        _complete(CompleteConference),
        {"consultCallUri": _CALL_URI},
    ),
    OperationType(
        "SwapCalls",
        "Hold the active one of two related calls, and retrieve the other one.",
        _swap,
        {"otherCallUri": _CALL_URI},
        ["otherCallUri"],
        {"otherCallUri": "http://127.0.0.1:8080/api/v2/me/calls/01RCC3N118B1V0SL8O7GK2LAES00000R"},
    ),
    OperationType(
        "RemoveParticipantFromConference",
        "Remove another party of a conference.",
        lambda body, *_: RemoveParticipantFromConference(
            required_text(body, "participant", max_bytes=_MAX_NUMBER_BYTES)
        ),
        {"participant": {"type": "string", "minLength": 1, "maxLength": _MAX_NUMBER_BYTES}},
        ["participant"],
        {"participant": "15002"},
    ),
    *(
        OperationType(each.name, f"As a supervisor on the call: {_WAYS[each.state]}", _always(each))
        for each in _SWITCHES
    ),
    OperationType("MuteMonitoredUser", "As a supervisor on the call: mute the agent.", lambda *_: MuteMonitoredUser()),
    OperationType(
        "UnmuteMonitoredUser", "As a supervisor on the call: unmute the agent.", lambda *_: UnmuteMonitoredUser()
    ),
    DISPOSITION,
)

SessionParser = Callable[[Body, User, Directory], AgentAction]
_STATES: Final[tuple[OperationType[SessionParser], ...]] = tuple(
    OperationType(name, f"Set the state of the agent to {state.display_name}.", change_state)
    for name, state in SYSTEM_STATES.items()
)
SESSION_OPERATIONS: Final = Operations[SessionParser](
    OperationType(
        "StartContactCenterSession",
        "Start the contact-centre session: the devices become ready for calls.",
        _start_session,
        {
            "channels": {
                "type": "array",
                "items": {"type": "string"},
                "contains": {"const": VOICE},
                "minItems": 1,
                "maxItems": _MAX_CHANNELS,
                "description": "Channels to work on. Those that are not served are listed in the answer as failed.",
            }
        },
        ["channels"],
        {"channels": [VOICE]},
    ),
    OperationType(
        "EndContactCenterSession",
        "End the contact-centre session.",
        lambda _, user, __: EndContactCenterSession(_devices(user)),
    ),
    *_STATES,
    other=change_state,
)
CHANNEL_OPERATIONS: Final = Operations[SessionParser](*_STATES, other=change_state)

DeviceParser = Callable[[Body, DeviceId, Directory, UserDataLimits], DeviceAction | SetCallDisposition]
_MONITORING: Final[Mapping[str, Schema]] = {
    "targetDeviceUri": {
        "type": "string",
        "minLength": 1,
        "maxLength": _MAX_URI_BYTES,
        "description": "The `uri` of the agent's device, its `path`, or its id.",
    },
    "supervisorMonitoringScope": {
        "type": "string",
        "enum": list(MonitoringScope),
        "default": MonitoringScope.CALL,
        "description": "`Agent`: leave the call with the agent; `Call`: stay until it ends.",
    },
    "supervisorMonitoringMode": {
        "type": "string",
        "enum": list(MonitoringMode),
        "default": MonitoringMode.ALL_CALLS,
        "description": "`NextCall`: until the first call is answered or declined; `AllCalls`: until it is cancelled.",
    },
}


def _begin_monitoring(state: MonitoringState) -> DeviceParser:
    def parse(body: Body, device: DeviceId, directory: Directory, _: UserDataLimits) -> StartMonitoring:
        target = DeviceId(_last_segment(required_text(body, "targetDeviceUri", max_bytes=_MAX_URI_BYTES)))
        owner = directory.by_device.get(target)
        if owner is None:
            raise OutOfRange(f"targetDeviceUri: there is no device {target}")
        scope = known(
            MonitoringScope,
            "supervisorMonitoringScope",
            optional_text(body, "supervisorMonitoringScope", MonitoringScope.CALL),
        )
        mode = known(
            MonitoringMode,
            "supervisorMonitoringMode",
            optional_text(body, "supervisorMonitoringMode", MonitoringMode.ALL_CALLS),
        )
        return StartMonitoring(device, Monitoring(target, owner.device.number, state, scope, mode))

    return parse


DEVICE_OPERATIONS: Final = Operations[DeviceParser](
    OperationType("DoNotDisturbOn", "Let no call ring.", lambda _, device, *__: SetDoNotDisturb(device, on=True)),
    OperationType("DoNotDisturbOff", "Let calls ring again.", lambda _, device, *__: SetDoNotDisturb(device, on=False)),
    OperationType(
        "ForwardCallsOn",
        "Forward calls to another number.",
        lambda body, device, *_: ForwardCalls(device, destination(body)),
        {"destination": DESTINATION},
        ["destination"],
        {"destination": {"phoneNumber": "15001"}},
    ),
    OperationType("ForwardCallsOff", "Forward calls no longer.", lambda _, device, *__: ForwardCalls(device, "")),
    *(
        OperationType(
            each.value,
            f"Let the calls of an agent's device ring at the supervisor's device too, to {text}",
            _begin_monitoring(each),
            _MONITORING,
            ["targetDeviceUri"],
            {"targetDeviceUri": "http://127.0.0.1:8080/api/v2/devices/631608b3-ceb1-472b-ba05-2ae39555b0d1"},
        )
        for each, text in _WAYS.items()
    ),
    OperationType(
        "CancelSupervisorMonitoring",
        "Let calls of the agent's device ring at the supervisor's device no longer.",
        lambda _, device, *__: CancelSupervisorMonitoring(device),
    ),
    OperationType(
        DISPOSITION.name,
        "Set the disposition of a call of the device, which `callUri` or `callUuid` names.",
        lambda body, _, directory, limits: _disposition(body, limits, directory),
        DISPOSITION.parameters,
        DISPOSITION.required,
        {"callUuid": "01RCC3N118B1V0SL8O7GK2LAES00000R", **DISPOSITION.example},
    ),
)

DIAL_OPERATIONS: Final = Operations[Callable[[Body, Device, Directory, UserDataLimits], Dial]](
    OperationType(
        "Dial",
        "Begin a call from the device.",
        dial,
        {
            "destination": DESTINATION,
            "userData": USER_DATA,
        },
        ["destination"],
        {"destination": {"phoneNumber": "15001"}},
    )
)
