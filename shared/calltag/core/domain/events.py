"""Events for subscribers: each is the effect of one operation and carries that operation's id."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from calltag.core.domain.agent import AgentDevice
from calltag.core.domain.call import Call, EndReason
from calltag.core.domain.ids import CallId, DeviceId, EventId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import Pair


class NotificationType(StrEnum):
    """`notificationType` of a message about a call."""

    STATUS_CHANGE = "StatusChange"
    PARTICIPANTS_UPDATED = "ParticipantsUpdated"
    ATTACHED_DATA_CHANGED = "AttachedDataChanged"
    DTMF_SENT = "DtmfSent"
    CALL_RECORDING_STATE_CHANGE = "CallRecordingStateChange"
    MONITORED_USER_MUTED_STATE_CHANGE = "MonitoredUserMutedStateChange"


@dataclass(frozen=True, slots=True)
class CallChanged:
    """A call changed; holds the whole call after the change, for the parties before and after it."""

    id: EventId
    notification: NotificationType
    call: Call
    recipients: tuple[UserId, ...]
    accepted_at_ms: int
    reason: EndReason | None = None
    """`silent`: calltag ended the call, because the switch no longer reported it; `operator`: an operator did."""
    changed: tuple[UserId, ...] | None = None
    """Users whose own leg changed, who get StatusChange; None if all get the `notification`."""
    extensions: tuple[Pair, ...] = ()
    kind: Literal["call"] = "call"

    def notification_for(self, user: UserId) -> NotificationType:
        """Return the notification that a user gets."""
        if self.changed is None or user not in self.changed:
            return self.notification
        return NotificationType.STATUS_CHANGE


@dataclass(frozen=True, slots=True)
class DevicesChanged:
    """An agent's devices changed."""

    id: EventId
    user: UserId
    devices: tuple[AgentDevice, ...]
    version: int
    accepted_at_ms: int
    kind: Literal["devices"] = "devices"

    @property
    def recipients(self) -> tuple[UserId, ...]:
        return (self.user,)


@dataclass(frozen=True, slots=True)
class OperationRefused:
    """An accepted operation was refused because of the state it met; for its sender only.

    It names the call, or the device, if the operation was on one.
    """

    id: EventId
    user: UserId
    operation_name: str
    call_id: CallId | None
    code: StatusCode
    text: str
    accepted_at_ms: int
    device: DeviceId | None = None
    kind: Literal["refused"] = "refused"

    @property
    def recipients(self) -> tuple[UserId, ...]:
        return (self.user,)


Event: TypeAlias = CallChanged | DevicesChanged | OperationRefused
