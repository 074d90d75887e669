"""From an event to the CometD message that one user gets.

Source of the shape of messages about calls: Web Services API, sample of AttachUserData (CometD notification).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from calltag.core.domain.events import CallChanged, DevicesChanged, Event, OperationRefused
from calltag.core.domain.ids import UserId
from calltag.core.domain.json_value import JsonValue
from calltag.core.domain.view import call_resource

CALLS_CHANNEL: Final = "/v2/me/calls"
DEVICES_CHANNEL: Final = "/v2/me/devices"
SERVICES_CHANNEL: Final = "/notifications/services"


@dataclass(frozen=True, slots=True)
class Message:
    """What is published to the sessions of one user: `data`, and `ext` beside it."""

    channel: str
    data: dict[str, JsonValue]
    ext: dict[str, JsonValue]


def message_for(user: UserId, event: Event, base_url: str) -> Message | None:
    """The event as the user sees it, from the user's own leg; None if the user has no part in it."""
    match event:
        case CallChanged():
            return _call_message(user, event, base_url)
        case DevicesChanged():
            return Message(DEVICES_CHANNEL, _devices(event, base_url), _ext(event, event.version))
        case OperationRefused():
            return Message(CALLS_CHANNEL, _refusal(event), _ext(event, None))


def _call_message(user: UserId, event: CallChanged, base_url: str) -> Message | None:
    leg = event.call.leg_of(user)
    if leg is None:
        return None
    data: dict[str, JsonValue] = {
        "notificationType": event.notification.value,
        "call": call_resource(event.call, leg, event.accepted_at_ms, base_url),
        "phoneNumber": leg.number,
        "messageType": "CallStateChangeMessage",
    }
    return Message(CALLS_CHANNEL, data, _ext(event, event.call.version))


def _devices(event: DevicesChanged, base_url: str) -> dict[str, JsonValue]:
    return {
        "notificationType": "StatusChange",
        "devices": [
            {
                "id": device.id,
                "deviceState": "Active",
                "userState": {"state": device.state.value},
                "phoneNumber": device.number,
                "uri": f"{base_url}/api/v2/devices/{device.id}",
                "path": f"/devices/{device.id}",
            }
            for device in event.devices
        ],
        "messageType": "DeviceStateChangeMessage",
    }


def _refusal(event: OperationRefused) -> dict[str, JsonValue]:
    return {
        "notificationType": "OperationRefused",
        "operationName": event.operation_name,
        "operationId": event.id,
        "callId": event.call_id,
        "statusCode": int(event.code),
        "statusMessage": event.text,
        "messageType": "ErrorMessage",
    }


def _ext(event: Event, version: int | None) -> dict[str, JsonValue]:
    """What clients that know calltag find beside the message; `version` rises by one with each change of the call."""
    accepted_at = datetime.fromtimestamp(event.accepted_at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    known = {} if version is None else {"version": version}
    return {"calltag": {"eventId": event.id, **known, "acceptedAt": accepted_at.replace("+00:00", "Z")}}


def services_message(*, available: bool) -> Message:
    """The state of the services behind, for `/notifications/services`."""
    state = "Active" if available else "Inactive"
    data: dict[str, JsonValue] = {
        "messageType": "ServiceStateChangeMessage",
        "services": [{"serviceName": "voice", "state": state}],
    }
    return Message(SERVICES_CHANNEL, data, {})
