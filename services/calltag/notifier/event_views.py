"""Rendering of events as CometD messages for one user.

A change of a call is published on the user's own channel, in the view of the user's legs; to supervisors of a party on
that party's channel, in the view of the party's legs; and to administrators on the channel of all calls.

Source of the shape of messages about calls: Web Services API, sample of AttachUserData (CometD notification).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal, NotRequired

import structlog
from typing_extensions import TypedDict

from calltag.core.bayeux.events import Event as Message
from calltag.core.bayeux.events import Position, StreamedEvent
from calltag.core.contracts.operations import EVENT, WireError
from calltag.core.domain.call import EndReason, Leg
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, NotificationType, OperationRefused
from calltag.core.domain.ids import UserId, refused_operation_id
from calltag.core.domain.resource_view import CallResource, DeviceResource, call_resource, device_resource
from calltag.core.identity.directory import Directory
from calltag.core.store.event_log import Entry
from calltag.notifier.channel_policy import ALL_CALLS_CHANNEL, calls_channel_of

log = structlog.get_logger()
CALLS_CHANNEL: Final = "/v2/me/calls"
DEVICES_CHANNEL: Final = "/v2/me/devices"
SERVICES_CHANNEL: Final = "/notifications/services"
_TIMES: Final = 1_024


class ReplayEvent(TypedDict):
    """Position of the message, for a session with the replay extension."""

    replayId: int
    createdDate: NotRequired[str]
    """Time at which the operation was accepted, in ISO 8601."""


class EventProcessing(TypedDict):
    """Times of the processing of an event, as load rigs read them."""

    nodeProcessingTimeNanos: int
    """Nanoseconds in which the notifier rendered the message."""
    serverGenerationTimestamp: int
    """Time at which the operation was accepted, in Unix milliseconds."""
    serverProcessingTimeTotalMs: int
    """Milliseconds from then on until the message was rendered."""


class MessageMetrics(TypedDict):
    """Measurements of a message."""

    eventProcessing: EventProcessing


class Data(TypedDict):
    """Content of a message."""

    event: NotRequired[ReplayEvent]
    metrics: NotRequired[MessageMetrics]
    """Absent on messages about services."""


class CallStateChange(Data):
    """A call changed; `call` is the whole call after the change, from the leg of the recipient's device."""

    notificationType: Literal[
        "StatusChange",
        "ParticipantsUpdated",
        "AttachedDataChanged",
        "DtmfSent",
        "CallRecordingStateChange",
        "MonitoredUserMutedStateChange",
    ]
    call: CallResource
    phoneNumber: str
    """Number of the device."""
    messageType: Literal["CallStateChangeMessage"]
    extensions: NotRequired[dict[str, object]]
    """Present if the switch added some to its event, except on `AttachedDataChanged`."""


class DeviceStateChange(Data):
    """The devices of the user changed."""

    devices: list[DeviceResource]
    messageType: Literal["DeviceStateChangeMessage"]


class OperationRefusal(Data):
    """An operation of the user that was accepted, and that the state of its call refused; nothing was changed."""

    notificationType: Literal["OperationRefused"]
    operationName: str
    operationId: str
    """As in the header `Operation-Id` of the answer to the request."""
    callId: NotRequired[str]
    """The call, if the operation was on one; the message is on the channel of calls then, else on that of devices."""
    callUri: NotRequired[str]
    deviceUri: NotRequired[str]
    """The device, if the operation was on one."""
    devicePath: NotRequired[str]
    statusCode: int
    statusMessage: str
    errorMessage: str
    """The same as `statusMessage`."""
    messageType: Literal["ErrorMessage"]


class ServiceState(TypedDict):
    """State of a service."""

    serviceName: Literal["voice"]
    state: Literal["Active", "Inactive"]


class ServiceStateChange(Data):
    """Operations are accepted again (`Active`), or not until further notice (`Inactive`)."""

    messageType: Literal["ServiceStateChangeMessage"]
    services: list[ServiceState]


class CalltagOfMessage(TypedDict):
    """Properties that Web Services does not have."""

    eventId: str
    """The same in each repetition of a message."""
    version: NotRequired[int]
    """Version of the call, or of the user's devices: one more with each change."""
    reason: NotRequired[EndReason]
    """The call was ended because the switch no longer reported it (`silent`), or by an operator."""
    acceptedAt: str
    """Time at which the operation was accepted, in ISO 8601."""
    replayId: NotRequired[int]
    """Position in the user's stream: it rises with each event of the user. Absent on snapshots."""
    snapshot: NotRequired[bool]
    """The message shows a state that was there, and reports no change."""


class MessageExt(TypedDict):
    """Extensions, by their name."""

    calltag: CalltagOfMessage


@dataclass(frozen=True, slots=True)
class EventViews:
    """Renders events in the view of each recipient.

    `base_url` is the prefix of addresses in messages; `directory` has the supervisors of users.
    """

    base_url: str
    directory: Directory
    clock_ns: Callable[[], int] = time.time_ns

    def published(self, user: UserId, event: Event, position: Position, previous: Position) -> StreamedEvent:
        """Render an event of the user's stream in the view of each of the user's legs.

        There are no messages if the user has no part in it or is not in the directory, or if JSON cannot express it.
        """
        if user not in self.directory.users:
            return StreamedEvent(position, previous)
        try:
            messages = self._rendered(user, event, position)
        except (ValueError, TypeError, OverflowError) as error:
            log.error("event_render_failed", user=user, reason=type(error).__name__)
            return StreamedEvent(position, previous)
        return StreamedEvent(position, previous, messages, event.accepted_at_ms)

    def snapshot(self, user: UserId, event: Event) -> Sequence[Message]:
        """Render a state that is no event of the user's stream; there are no messages if JSON cannot express it."""
        try:
            return self._rendered(user, event, None)
        except (ValueError, TypeError, OverflowError) as error:
            log.error("event_render_failed", user=user, reason=type(error).__name__)
            return ()

    def entry(self, user: UserId, entry: Entry) -> StreamedEvent:
        """Render an entry of the user's stream; an entry that this version cannot read has no messages."""
        try:
            event = EVENT.decode(entry.event)
        except WireError as error:
            log.error("event_unreadable", user=user, reason=str(error))
            return StreamedEvent(entry.position, entry.previous)
        return self.published(user, event, entry.position, entry.previous)

    def _rendered(self, user: UserId, event: Event, position: Position | None) -> tuple[Message, ...]:
        begun_ns = self.clock_ns()
        messages = self._messages(user, event, position)
        for each in messages:
            each.data = {**each.data, "metrics": self._metrics(event, begun_ns)}
            each.plain()
        return messages

    def _metrics(self, event: Event, begun_ns: int) -> MessageMetrics:
        now_ns = self.clock_ns()
        return {
            "eventProcessing": {
                "nodeProcessingTimeNanos": max(0, now_ns - begun_ns),
                "serverGenerationTimestamp": event.accepted_at_ms,
                "serverProcessingTimeTotalMs": max(0, now_ns // 1_000_000 - event.accepted_at_ms),
            }
        }

    def _messages(self, user: UserId, event: Event, position: Position | None) -> tuple[Message, ...]:
        match event:
            case CallChanged():
                return tuple(self._of_call(user, event, position))
            case DevicesChanged():
                ext = _ext(event, event.version, position)
                return (
                    Message(
                        DEVICES_CHANNEL,
                        _devices(event, self.base_url, monitors=self.directory.is_monitor(event.user)),
                        ext,
                        _iso_time(event.accepted_at_ms),
                    ),
                )
            case OperationRefused():
                ext = _ext(event, None, position)
                channel = DEVICES_CHANNEL if event.call_id is None else CALLS_CHANNEL
                return (Message(channel, _refusal(event, self.base_url), ext, _iso_time(event.accepted_at_ms)),)

    def _of_call(self, user: UserId, event: CallChanged, position: Position | None) -> Iterator[Message]:
        ext, created = _ext(event, event.call.version, position), _iso_time(event.accepted_at_ms)
        who = self.directory.users.get(user)
        sees_all = who is not None and who.is_administrator
        for party in event.recipients:
            channels = [CALLS_CHANNEL] if party == user else []
            if self.directory.oversees(user, party):
                channels.append(calls_channel_of(party))
            if sees_all:
                channels.append(ALL_CALLS_CHANNEL)
            for leg in event.call.legs_of(party) if channels else ():
                data = _call_data(leg, event, event.notification_for(party), self.base_url)
                yield from (Message(channel, data, ext, created) for channel in channels)
        if sees_all and not event.recipients and event.call.legs:
            yield Message(
                ALL_CALLS_CHANNEL,
                _call_data(event.call.legs[0], event, event.notification, self.base_url),
                ext,
                created,
            )


def _call_data(leg: Leg, event: CallChanged, notification: NotificationType, base_url: str) -> CallStateChange:
    data: CallStateChange = {
        "notificationType": notification.value,
        "call": call_resource(event.call, leg, event.accepted_at_ms, base_url),
        "phoneNumber": leg.number,
        "messageType": "CallStateChangeMessage",
    }
    if event.extensions:
        data["extensions"] = dict(event.extensions)
    return data


def _devices(event: DevicesChanged, base_url: str, *, monitors: bool) -> DeviceStateChange:
    return {
        "devices": [device_resource(each, base_url, monitors=monitors) for each in event.devices],
        "messageType": "DeviceStateChangeMessage",
    }


def _refusal(event: OperationRefused, base_url: str) -> OperationRefusal:
    refusal: OperationRefusal = {
        "notificationType": "OperationRefused",
        "operationName": event.operation_name,
        "operationId": refused_operation_id(event.id),
        "statusCode": int(event.code),
        "statusMessage": event.text,
        "errorMessage": event.text,
        "messageType": "ErrorMessage",
    }
    if event.call_id is not None:
        refusal |= {"callId": event.call_id, "callUri": f"{base_url}/api/v2/me/calls/{event.call_id}"}
    if event.device is not None:
        refusal |= {
            "deviceUri": f"{base_url}/api/v2/devices/{event.device}",
            "devicePath": f"/devices/{event.device}",
        }
    return refusal


def _ext(event: Event, version: int | None, position: Position | None) -> MessageExt:
    """Return the fields beside the message, for clients written for calltag."""
    ext: CalltagOfMessage = {
        "eventId": event.id,
        "acceptedAt": _iso_time(event.accepted_at_ms),
    }
    if position is None:
        ext["snapshot"] = True
    else:
        ext["replayId"] = position
    if version is not None:
        ext["version"] = version
    if isinstance(event, CallChanged) and event.reason is not None:
        ext["reason"] = event.reason
    return {"calltag": ext}


@lru_cache(maxsize=_TIMES)
def _iso_time(unix_ms: int) -> str:
    """Return the time as in `2026-01-31T12:00:00.000Z`; recipients of an event share it."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def services_event(*, available: bool) -> Message:
    """Return the message about the state of the backends, for `/notifications/services`."""
    data: ServiceStateChange = {
        "messageType": "ServiceStateChangeMessage",
        "services": [{"serviceName": "voice", "state": "Active" if available else "Inactive"}],
    }
    return Message(SERVICES_CHANNEL, data)
