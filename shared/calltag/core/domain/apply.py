"""Pure state transition: `apply(state, operation) -> outcome`.

Callers must invoke it exactly once per operation, in queue order.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from calltag.core.domain.agent import LOGGED_IN, Agent, AgentDevice
from calltag.core.domain.call import Call, Leg, LegState, answered, ended, hung_up, moved, parties_changed
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, NotificationType, OperationRefused
from calltag.core.domain.ids import UserId, event_id
from calltag.core.domain.operations import (
    AgentOperation,
    Answer,
    AttachUserData,
    CallEnded,
    CallOperation,
    CallStarted,
    ChangeAgentState,
    ClearCall,
    ClientAction,
    DeleteUserData,
    DeleteUserDataPair,
    Dial,
    EndContactCenterSession,
    ForwardCalls,
    Hangup,
    Hold,
    Operation,
    PartyChanged,
    Reject,
    Retrieve,
    SendDtmf,
    SetDoNotDisturb,
    StartContactCenterSession,
    UpdateUserData,
    UserDataAction,
)
from calltag.core.domain.resource_view import CAPABILITIES, TOLERATED
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
    """The state after an operation, and the events to publish. A refused operation does not change the state."""

    state: Call | Agent | None
    events: tuple[Event, ...] = ()
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
        case ClearCall() if leg.state is not LegState.RINGING:
            after = ended(call)
        case Hangup() | ClearCall() | Reject():
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
    able = next((leg for leg in acting if name in (*CAPABILITIES[leg.state], *TOLERATED.get(leg.state, ()))), None)
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
    event = CallChanged(
        id=event_id(operation.id),
        notification=kind,
        call=after,
        recipients=_recipients(before, after),
        accepted_at_ms=operation.accepted_at_ms,
        reason=reason,
    )
    return Outcome(after, (event,))


def _recipients(before: Call | None, after: Call) -> tuple[UserId, ...]:
    """Return the users on the call before or after the change; those who left earlier get no events."""
    legs = (*(before.legs if before else ()), *after.legs)
    return tuple(dict.fromkeys(leg.user for leg in legs if leg.user is not None and leg.live)) or after.users()


def _refused(call: Call | None, operation: CallOperation, refusal: RefusedError) -> Outcome:
    if operation.sender is None:
        return Outcome(call, (), refusal.code, refusal.text)
    event = OperationRefused(
        id=event_id(operation.id),
        user=operation.sender,
        operation_name=operation.action.name,
        call_id=operation.call_id,
        code=refusal.code,
        text=refusal.text,
        accepted_at_ms=operation.accepted_at_ms,
    )
    return Outcome(call, (event,), refusal.code, refusal.text)


def _apply_to_agent(agent: Agent | None, operation: AgentOperation) -> Outcome:
    before = agent or Agent(operation.sender, ())
    match operation.action:
        case StartContactCenterSession():
            return _started(before, operation, operation.action)
        case EndContactCenterSession(devices=devices):
            ended = tuple(AgentDevice(device, number) for device, number in devices)
            return _agent_changed(operation, replace(before, devices=ended, channels=()))
        case ChangeAgentState(state=state):
            changed = [replace(each, state=state) for each in before.devices if each.active]
        case SetDoNotDisturb(device=device, on=on):
            changed = [replace(each, do_not_disturb=on) for each in before.devices if each.active and each.id == device]
        case ForwardCalls(device=device, number=number):
            changed = [replace(each, forward_to=number) for each in before.devices if each.active and each.id == device]
        case _ as never:
            assert_never(never)
    if not changed:
        return _refused_to_agent(agent, operation)
    new = {each.id: each for each in changed}
    return _agent_changed(operation, replace(before, devices=tuple(new.get(each.id, each) for each in before.devices)))


def _started(before: Agent, operation: AgentOperation, action: StartContactCenterSession) -> Outcome:
    """Log the devices in, then set the initial state; devices that are logged in already stay as they are."""
    earlier = {each.id: each for each in before.devices if each.active}
    devices = [
        earlier.get(device) or AgentDevice(device, number, LOGGED_IN, active=True) for device, number in action.devices
    ]
    started = replace(before, devices=tuple(devices), channels=action.channels)
    if all(each.id in earlier for each in devices):
        return _agent_changed(operation, started)
    ready = [each if each.id in earlier else replace(each, state=action.initial) for each in devices]
    return _agent_changed(operation, started, replace(started, devices=tuple(ready)))


def _agent_changed(operation: AgentOperation, *states: Agent) -> Outcome:
    """Return the outcome with an event for each of the states, which follow each other."""
    versions = [replace(each, version=each.version + number) for number, each in enumerate(states, 1)]
    events = tuple(
        DevicesChanged(
            id=event_id(operation.id, number),
            user=operation.sender,
            devices=each.devices,
            version=each.version,
            accepted_at_ms=operation.accepted_at_ms,
        )
        for number, each in enumerate(versions)
    )
    return Outcome(versions[-1], events)


def _refused_to_agent(agent: Agent | None, operation: AgentOperation) -> Outcome:
    text = "the device is not in a contact-centre session: send StartContactCenterSession first"
    event = OperationRefused(
        id=event_id(operation.id),
        user=operation.sender,
        operation_name=operation.operation_name,
        call_id=None,
        code=StatusCode.INVALID_STATE,
        text=text,
        accepted_at_ms=operation.accepted_at_ms,
        device=operation.device,
    )
    return Outcome(agent, (event,), StatusCode.INVALID_STATE, text)
