"""Pure state transition: `apply(state, operation) -> outcome`.

Callers must invoke it exactly once per operation, in queue order.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from calltag.core.domain.agent import Agent, AgentDevice, UserState
from calltag.core.domain.call import Call, Leg, LegState, answered, ended, hung_up, moved, parties_changed
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, NotificationType, OperationRefused
from calltag.core.domain.ids import EventId, UserId
from calltag.core.domain.operations import (
    AgentOperation,
    Answer,
    AttachUserData,
    CallEnded,
    CallOperation,
    CallStarted,
    ClientAction,
    DeleteUserData,
    DeleteUserDataPair,
    Dial,
    EndContactCenterSession,
    Hangup,
    Hold,
    Operation,
    PartyChanged,
    Retrieve,
    SendDtmf,
    StartContactCenterSession,
    UpdateUserData,
    UserDataAction,
)
from calltag.core.domain.resource_view import CAPABILITIES
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import JsonValue, UserData, stored_pairs


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Limits of one call; `encoded_bytes` returns the length of a value's JSON."""

    encoded_bytes: Callable[[JsonValue], int]
    max_pairs: int = 1_000
    max_bytes: int = 65_536
    max_parties: int = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """The state after an operation and the event to publish, if any. A refused operation does not change the state."""

    state: Call | Agent | None
    event: Event | None = None
    code: StatusCode = StatusCode.SUCCESS
    text: str = ""


class RefusedError(Exception):
    """The state of the call does not allow the operation."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def apply(state: Call | Agent | None, operation: Operation, limits: CallLimits) -> Outcome:
    """Apply one operation to the call or agent that it names; `state` is None if that does not exist.

    A changed state has its version incremented; an unchanged one is the same object.
    """
    if isinstance(operation, AgentOperation):
        return _apply_to_agent(state if isinstance(state, Agent) else None, operation)
    call = state if isinstance(state, Call) else None
    try:
        return _apply_to_call(call, operation, limits)
    except RefusedError as refusal:
        return _refused(call, operation, refusal)


def _apply_to_call(call: Call | None, operation: CallOperation, limits: CallLimits) -> Outcome:
    action = operation.action
    if isinstance(action, Dial | CallStarted):
        return _changed(None, _begun(call, operation, action, limits), operation, NotificationType.STATUS_CHANGE)
    if call is None:
        raise RefusedError(StatusCode.NOT_FOUND, f"there is no call {operation.call_id}")
    if call.released:
        raise RefusedError(StatusCode.INVALID_STATE, f"call {call.id} is already released")
    if isinstance(action, CallEnded):
        return _changed(call, ended(call), operation, NotificationType.STATUS_CHANGE, action.reason)
    if isinstance(action, PartyChanged):
        after = parties_changed(call, action.legs, action.mute_unchanged)
        _check_parties(len(after.legs), len(call.legs), limits)
        joined = len(after.legs) > len(call.legs)
        kind = NotificationType.PARTICIPANTS_UPDATED if joined else NotificationType.STATUS_CHANGE
        return _changed(call, after, operation, kind)
    return _by_client(call, _acting_leg(call, operation), operation, action, limits)


def _by_client(call: Call, leg: Leg, operation: CallOperation, action: ClientAction, limits: CallLimits) -> Outcome:
    match action:
        case Answer():
            after = answered(call, leg)
        case Hold():
            after = moved(call, leg, LegState.HELD)
        case Retrieve():
            after = moved(call, leg, LegState.ESTABLISHED)
        case Hangup():
            after = hung_up(call, leg)
        case SendDtmf():
            return _changed(call, call, operation, NotificationType.DTMF_SENT)
        case _:
            return _user_data_changed(call, operation, action, limits)
    return _changed(call, after, operation, NotificationType.STATUS_CHANGE)


def _user_data_changed(call: Call, operation: CallOperation, action: UserDataAction, limits: CallLimits) -> Outcome:
    match action:
        case AttachUserData(pairs=pairs):
            data = call.user_data.attach(pairs)
        case UpdateUserData(pairs=pairs):
            data = call.user_data.update(pairs)
        case DeleteUserDataPair(key=key):
            data = call.user_data.without(key)
        case DeleteUserData():
            data = UserData()
        case _ as never:
            assert_never(never)
    # An update is reported even if it sets the present values; one without values, or a removal of nothing, is not.
    sets_values = isinstance(action, UpdateUserData) and stored_pairs(action.pairs) > 0
    if data == call.user_data and not sets_values:
        return Outcome(call)
    _check_size(data, call.user_data, limits)
    return _changed(call, replace(call, user_data=data), operation, NotificationType.ATTACHED_DATA_CHANGED)


def _acting_leg(call: Call, operation: CallOperation) -> Leg:
    """Return the leg on which a client's operation acts: the first permitted one whose state allows it.

    Refuses senders who are not on the call, and operations that no leg allows.
    """
    name = operation.action.name
    live = [leg for leg in call.legs if leg.live]
    own = [leg for leg in live if operation.sender is not None and leg.user == operation.sender]
    acting = own or (live if operation.as_administrator else [])
    if not acting:
        raise RefusedError(StatusCode.NO_PERMISSION, f"call {call.id} is not a call of yours")
    able = next((leg for leg in acting if name in CAPABILITIES[leg.state]), None)
    if able is None:
        state = acting[0].state
        raise RefusedError(
            StatusCode.INVALID_STATE,
            f"{name} is not possible while the call is {state}; possible: {', '.join(CAPABILITIES[state])}",
        )
    return able


def _begun(call: Call | None, operation: CallOperation, action: Dial | CallStarted, limits: CallLimits) -> Call:
    if call is not None:
        raise RefusedError(StatusCode.ALREADY_EXISTS, f"there is a call {call.id} already")
    _check_parties(len(action.legs), 0, limits)
    data = UserData().attach(action.pairs)
    _check_size(data, UserData(), limits)
    began_at_ms = action.began_at_ms if isinstance(action, CallStarted) else None
    return Call(
        id=operation.call_id,
        conn_id=action.conn_id,
        type=action.type,
        dnis=action.dnis,
        began_at_ms=operation.accepted_at_ms if began_at_ms is None else began_at_ms,
        legs=(),
        user_data=data,
    ).with_legs(action.legs)


def _check_parties(parties: int, before: int, limits: CallLimits) -> None:
    """Refuse more parties than the limit, counting those that left, unless none is new."""
    if parties > max(before, limits.max_parties):
        raise RefusedError(
            StatusCode.OUT_OF_RANGE,
            f"parties: the call would have {parties} of them; a call may have {limits.max_parties}",
        )


def _check_size(data: UserData, before: UserData, limits: CallLimits) -> None:
    """Refuse user data beyond the limits; reducing data that exceeds them is always possible."""
    size = data.size(limits.encoded_bytes)
    if size.pairs > limits.max_pairs:
        held, limit, unit = size.pairs, limits.max_pairs, "pairs"
    elif size.encoded_bytes > limits.max_bytes:
        held, limit, unit = size.encoded_bytes, limits.max_bytes, "bytes"
    else:
        return
    was = before.size(limits.encoded_bytes)
    if size.pairs <= was.pairs and size.encoded_bytes <= was.encoded_bytes:
        return
    raise RefusedError(
        StatusCode.OUT_OF_RANGE, f"userData: the call would hold {held} {unit} of user data; a call may hold {limit}"
    )


def _changed(
    before: Call | None,
    after: Call,
    operation: CallOperation,
    kind: NotificationType,
    reason: Literal["silent"] | None = None,
) -> Outcome:
    version = 1 if before is None else before.version + 1
    after = replace(after, version=version)
    return Outcome(
        after,
        CallChanged(
            id=EventId(operation.id),
            notification=kind,
            call=after,
            recipients=_recipients(before, after),
            accepted_at_ms=operation.accepted_at_ms,
            reason=reason,
        ),
    )


def _recipients(before: Call | None, after: Call) -> tuple[UserId, ...]:
    """Return the users on the call before or after the change; those who left earlier get no events."""
    legs = (*(before.legs if before else ()), *after.legs)
    return tuple(dict.fromkeys(leg.user for leg in legs if leg.user is not None and leg.live)) or after.users()


def _refused(call: Call | None, operation: CallOperation, refusal: RefusedError) -> Outcome:
    event = operation.sender and OperationRefused(
        id=EventId(operation.id),
        user=operation.sender,
        operation_name=operation.action.name,
        call_id=operation.call_id,
        code=refusal.code,
        text=refusal.text,
        accepted_at_ms=operation.accepted_at_ms,
    )
    return Outcome(call, event or None, refusal.code, refusal.text)


def _apply_to_agent(agent: Agent | None, operation: AgentOperation) -> Outcome:
    match operation.action:
        case StartContactCenterSession(devices=devices, channels=channels):
            state = UserState.NOT_READY
        case EndContactCenterSession(devices=devices):
            state, channels = UserState.LOGGED_OUT, ()
        case _ as never:
            assert_never(never)
    after = Agent(
        user=operation.sender,
        devices=tuple(AgentDevice(device, number, state) for device, number in devices),
        channels=channels,
        version=1 if agent is None else agent.version + 1,
    )
    return Outcome(
        after,
        DevicesChanged(
            id=EventId(operation.id),
            user=operation.sender,
            devices=after.devices,
            version=after.version,
            accepted_at_ms=operation.accepted_at_ms,
        ),
    )
