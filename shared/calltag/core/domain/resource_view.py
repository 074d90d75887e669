"""Resource of a call in the API, as seen from one of its legs, with the operations that it allows.

Source of the shape: Web Services API, sample of AttachUserData (CometD notification).
"""

from collections.abc import Mapping
from typing import Final

from calltag.core.domain.call import Call, Leg, LegState
from calltag.core.domain.user_data import JsonValue

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


def call_resource(call: Call, leg: Leg, now_ms: int, base_url: str) -> dict[str, JsonValue]:
    """Return the call as the leg's user sees it; `base_url` is scheme, host and port, without a trailing slash.

    `userData` is absent when there is none. `duration` is in whole seconds, as a string.
    """
    user_data = {"userData": call.user_data.as_object()} if call.user_data else {}
    return {
        "id": call.id,
        "state": leg.state.value,
        "callUuid": call.id,
        "connId": call.conn_id,
        "deviceUri": f"{base_url}/api/v2/devices/{leg.device}",
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


def _participant(leg: Leg) -> dict[str, JsonValue]:
    return {
        "e164Number": "",
        "formattedPhoneNumber": leg.number,
        "phoneNumber": leg.number,
        "digits": leg.number,
    }
