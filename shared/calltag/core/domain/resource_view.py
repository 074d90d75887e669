"""Resource of a call in the API, as seen from one of its legs, with the operations that it allows.

Source of the shape: Web Services API, sample of AttachUserData (CometD notification).
"""

from collections.abc import Mapping
from typing import Final, Literal, NotRequired

from typing_extensions import TypedDict

from calltag.core.domain.call import Call, Leg, LegState

# The order is that of Web Services; clients may display it.
_USER_DATA_AND_DTMF: Final = ("UpdateUserData", "SendDtmf", "AttachUserData", "DeleteUserDataPair", "DeleteUserData")
_USER_DATA: Final = ("UpdateUserData", "AttachUserData", "DeleteUserDataPair", "DeleteUserData")

CAPABILITIES: Final[Mapping[LegState, tuple[str, ...]]] = {
    LegState.DIALING: (*_USER_DATA_AND_DTMF, "Hangup"),
    LegState.RINGING: (*_USER_DATA, "Answer", "Hangup"),
    LegState.ESTABLISHED: (*_USER_DATA_AND_DTMF, "Hangup", "Hold"),
    LegState.HELD: (*_USER_DATA, "Hangup", "Retrieve"),
    LegState.RELEASED: (),
}
"""Operations by leg state: those listed to clients are exactly those accepted."""


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
    deviceUri: str
    userData: dict[str, object]


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
    callType: Literal["Internal", "Inbound", "Outbound", "Consult", "Unknown"]
    capabilities: list[str]
    """Names of the operations that the state of the leg allows."""
    userData: NotRequired[dict[str, object]]
    """The attached data: one value, or the list of several values, by key. Absent if there is none."""
    duration: str
    """Whole seconds since the call began."""
    mute: Literal["On", "Off"]
    supervisorListeningIn: bool
    monitoredUserMuted: bool
    monitoring: bool
    uri: str
    path: str


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


def call_resource(call: Call, leg: Leg, now_ms: int, base_url: str) -> CallResource:
    """Return the call from a leg; `base_url` is scheme, host and port, without a trailing slash."""
    device: _OptionalMembers = {"deviceUri": f"{base_url}/api/v2/devices/{leg.device}"} if leg.device else {}
    user_data: _OptionalMembers = {"userData": call.user_data.as_object()} if call.user_data else {}
    return {
        "id": call.id,
        "state": leg.state.value,
        "callUuid": call.id,
        "connId": call.conn_id,
        **device,
        "participants": [_participant(other) for other in call.others(leg)],
        "dnis": call.dnis,
        "callType": call.type.value,
        "capabilities": list(CAPABILITIES[leg.state]),
        **user_data,
        "duration": str(max(0, now_ms - call.began_at_ms) // 1000),
        "mute": "On" if leg.muted else "Off",
        "supervisorListeningIn": False,
        "monitoredUserMuted": False,
        "monitoring": False,
        "uri": f"{base_url}/api/v2/me/calls/{call.id}",
        "path": f"/calls/{call.id}",
    }


def _participant(leg: Leg) -> Participant:
    return {
        "e164Number": "",
        "formattedPhoneNumber": leg.number,
        "phoneNumber": leg.number,
        "digits": leg.number,
    }
