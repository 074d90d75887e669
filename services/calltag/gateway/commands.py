"""Commands of requests: the checks before an operation is accepted, and the fields of the response.

The worker judges state that queued operations may still change: capabilities, keys, the amount of user data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from calltag.core.contracts.operations import OperationReply
from calltag.core.domain.agent import NOT_IN_SESSION
from calltag.core.domain.call import Call
from calltag.core.domain.ids import (
    CallId,
    OperationId,
    new_call_id,
    new_conn_id,
    new_consult_call_id,
    operation_id_beside,
    root_of,
)
from calltag.core.domain.monitoring import MonitoringMode
from calltag.core.domain.operations import (
    AgentAction,
    AgentOperation,
    Answer,
    CallOperation,
    ClearCall,
    ClientAction,
    CompleteConference,
    CompleteTransfer,
    Dial,
    Hangup,
    InitiateAction,
    MonitorCall,
    Operation,
    Reject,
    SetCallDisposition,
    SingleStepAction,
    StartMonitoring,
    SwapCalls,
)
from calltag.core.domain.status import StatusCode
from calltag.core.identity.directory import MONITORING_FEATURE, VOICE_FEATURE, User
from calltag.core.store.ports import PendingCall
from calltag.gateway.call_service import CallService
from calltag.gateway.errors import FeatureMissing, InvalidState, NoPermission, NotFound, OutcomeRefused, OutOfRange
from calltag.gateway.operations import VOICE
from calltag.gateway.supervision import ended_monitoring, monitor_leg, with_monitors
from calltag.gateway.switch_events import SwitchEvent, check_outcomes

Fields = Mapping[str, object]


class Command(Protocol):
    """One request with operations. All methods raise ApiError, StoreUnavailable."""

    async def admit(self, operation_id: OperationId, *, is_retry: bool) -> Sequence[Operation]:
        """Return the operations, unless they can never become valid.

        `is_retry`: they were published before, and may have taken effect.
        """
        ...

    def outcome(self, replies: Sequence[OperationReply]) -> Fields:
        """Return the fields of the response, beside statusCode 0, to a client that waited for these outcomes."""
        ...

    async def look(self, operation_id: OperationId) -> Fields:
        """Return the same fields later, as the state is now."""
        ...

    def accepted(self) -> Fields:
        """Return fields of every response that reports success, whether or not the client waited."""
        return {}


@dataclass(frozen=True, slots=True)
class CallCommand(Command):
    """An operation on a call. `pending_call` is a read that was begun before; the worker judges later changes."""

    service: CallService
    user: User
    call_id: CallId
    action: ClientAction
    pending_call: PendingCall | None = None

    async def admit(self, operation_id: OperationId, *, is_retry: bool) -> Sequence[Operation]:
        _require_voice(self.user)
        pending = self.service.begin_call(self.call_id) if self.pending_call is None else self.pending_call
        call = await pending
        self._check(call, is_retry=is_retry)
        if isinstance(self.action, InitiateAction | SingleStepAction) and not is_retry:
            await self.service.check_live_calls([self.user.id, self.action.target.user])
        operation = CallOperation(
            id=operation_id,
            call_id=self.call_id,
            action=self._complete_action(operation_id),
            accepted_at_ms=self.service.clock_ms(),
            sender=self.user.id,
            as_administrator=self.user.is_administrator,
        )
        if isinstance(self.action, InitiateAction | SingleStepAction):
            return await with_monitors(self.service, [operation])
        if isinstance(self.action, Answer | ClearCall | Reject | Hangup) and call is not None:
            return [operation, *ended_monitoring(call, operation, is_retry=is_retry)]
        return [operation]

    def _complete_action(self, operation_id: OperationId) -> ClientAction:
        """Return the action, with the ids of the call that it begins. Raises OutOfRange."""
        if isinstance(self.action, SwapCalls | CompleteTransfer | CompleteConference):
            other = self.action.other if isinstance(self.action, SwapCalls) else self.action.consult
            if other is not None and root_of(other) != root_of(self.call_id):
                raise OutOfRange(f"call {other} does not belong together with call {self.call_id}")
        if not isinstance(self.action, InitiateAction):
            return self.action
        consult = new_consult_call_id(self.call_id, operation_id)
        return replace(self.action, consult=consult, conn_id=new_conn_id(operation_id))

    def _check(self, call: Call | None, *, is_retry: bool) -> None:
        """Accept a retry though its first attempt may have released the call, or removed the user from it."""
        if call is None:
            if not is_retry:
                raise NotFound(f"there is no call {self.call_id}")
            return
        # A party who has left may still set the disposition.
        was_there = is_retry or isinstance(self.action, SetCallDisposition)
        is_party = self.user.id in call.users() if was_there else call.is_open_to(self.user.id)
        if not is_party and not self.user.is_administrator:
            raise self.service.not_yours(call)
        if call.released and not is_retry and not isinstance(self.action, SetCallDisposition):
            raise InvalidState(f"call {call.id} is already released")

    def outcome(self, replies: Sequence[OperationReply]) -> Fields:
        return self.service.shown(_applied(replies).call, self.user)

    async def look(self, operation_id: OperationId) -> Fields:  # noqa: ARG002 - the interface's
        return await self.service.call_if_visible(self.user, self.call_id)


@dataclass(frozen=True, slots=True)
class DialCommand(Command):
    """A new call from a device of the user."""

    service: CallService
    user: User
    action: Dial

    async def admit(self, operation_id: OperationId, *, is_retry: bool) -> Sequence[Operation]:
        _require_voice(self.user)
        if not is_retry:
            await self.service.check_live_calls([leg.user for leg in self.action.legs])
        operation = CallOperation(
            id=operation_id,
            call_id=new_call_id(operation_id),
            action=replace(self.action, conn_id=new_conn_id(operation_id)),
            accepted_at_ms=self.service.clock_ms(),
            sender=self.user.id,
        )
        return await with_monitors(self.service, [operation])

    def outcome(self, replies: Sequence[OperationReply]) -> Fields:
        return self.service.shown(_applied(replies).call, self.user)

    async def look(self, operation_id: OperationId) -> Fields:
        return await self.service.call_if_visible(self.user, new_call_id(operation_id))


@dataclass(frozen=True, slots=True)
class SessionCommand(Command):
    """An operation on the user's contact-centre session. `unserved` are channels that it asks for in vain."""

    service: CallService
    user: User
    action: AgentAction
    unserved: Sequence[str] = ()

    async def admit(self, operation_id: OperationId, *, is_retry: bool) -> Sequence[Operation]:  # noqa: ARG002 - the interface's
        _require_voice(self.user)
        return [AgentOperation(operation_id, self.user.id, self.action, self.service.clock_ms())]

    def accepted(self) -> Fields:
        if not self.unserved:
            return {}
        return {
            "statusCode": int(StatusCode.PARTIAL_SUCCESS),
            "failed": [
                {
                    "statusCode": int(StatusCode.FORBIDDEN),
                    "statusMessage": f"calltag does not serve the channel {channel}",
                    "channel": channel,
                }
                for channel in self.unserved
            ],
            "succeeded": [{"statusCode": int(StatusCode.SUCCESS), "channel": VOICE}],
        }

    def outcome(self, replies: Sequence[OperationReply]) -> Fields:
        _applied(replies)
        return {}

    async def look(self, operation_id: OperationId) -> Fields:  # noqa: ARG002 - the interface's
        return {}


@dataclass(frozen=True, slots=True)
class MonitorCommand(SessionCommand):
    """The beginning of the monitoring of an agent; if it is for all calls, present ones ring at the supervisor too."""

    action: StartMonitoring

    async def admit(self, operation_id: OperationId, *, is_retry: bool) -> Sequence[Operation]:
        monitoring, now_ms = self.action.monitoring, self.service.clock_ms()
        _require_voice(self.user)
        _require(MONITORING_FEATURE, self.user)
        # The directory may have changed since the request was parsed.
        owner = self.service.directory.by_device.get(monitoring.target)
        if owner is None or not self.service.directory.may_monitor(self.user.id, owner.user.id):
            raise NoPermission(f"targetDeviceUri: device {monitoring.target} is not that of an agent whom you oversee")
        own = await self.service.reader.agent(self.user.id)
        device = None if own is None else own.device(self.action.device)
        if not is_retry and (device is None or not device.active):
            raise InvalidState(f"device {self.action.device} {NOT_IN_SESSION}")
        operations: list[Operation] = [AgentOperation(operation_id, self.user.id, self.action, now_ms)]
        if device is None or monitoring.mode is MonitoringMode.NEXT_CALL:
            return operations
        monitor = monitor_leg(self.user.id, device, monitoring)
        calls = await self.service.reader.calls_of(owner.user.id, with_user_data=False)
        return [
            *operations,
            *(
                CallOperation(
                    operation_id_beside(operation_id, call.id), call.id, MonitorCall(monitor), now_ms, self.user.id
                )
                for call in calls
                if any(leg.live and leg.number == monitoring.number for leg in call.legs)
            ),
        ]


@dataclass(frozen=True, slots=True)
class SwitchCommand(Command):
    """Events of the switch, each an operation under an id of its own."""

    service: CallService
    events: Sequence[SwitchEvent]

    async def admit(self, operation_id: OperationId, *, is_retry: bool) -> Sequence[Operation]:  # noqa: ARG002 - the interface's
        now_ms = self.service.clock_ms()
        operations = [
            CallOperation(each.operation_id, each.call_id, each.action, now_ms, extensions=each.extensions)
            for each in self.events
        ]
        return await with_monitors(self.service, operations)

    def outcome(self, replies: Sequence[OperationReply]) -> Fields:
        check_outcomes(self.events, replies)
        return {}

    async def look(self, operation_id: OperationId) -> Fields:  # noqa: ARG002 - the interface's
        return {}


def _applied(replies: Sequence[OperationReply]) -> OperationReply:
    """Return the reply of the request's operation; others only follow from it. Raises OutcomeRefused."""
    reply = replies[0]
    if reply.code is not StatusCode.SUCCESS:
        raise OutcomeRefused(reply.code, reply.text)
    return reply


def _require_voice(user: User) -> None:
    _require(VOICE_FEATURE, user)


def _require(feature: str, user: User) -> None:
    if feature not in user.features:
        raise FeatureMissing(f"this requires the feature {feature}, which user {user.id} does not have")
