"""Pure state transition: `apply(state, operation) -> outcome`.

Callers must invoke it exactly once per operation, in queue order.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, assert_never

from calltag.core.domain.agent import LOGGED_IN, NOT_IN_SESSION, Agent, AgentDevice
from calltag.core.domain.call import Call
from calltag.core.domain.call_operations import CallTurn
from calltag.core.domain.events import DevicesChanged, OperationRefused
from calltag.core.domain.family import Family
from calltag.core.domain.ids import CallId, event_id
from calltag.core.domain.operations import (
    AgentOperation,
    CallOperation,
    CancelSupervisorMonitoring,
    ChangeAgentState,
    EndContactCenterSession,
    ForwardCalls,
    Operation,
    SetDoNotDisturb,
    StartContactCenterSession,
    StartMonitoring,
)
from calltag.core.domain.outcome import CallLimits, Outcome, RefusedError
from calltag.core.domain.status import StatusCode

NO_CALLS: Final[Mapping[CallId, Call]] = MappingProxyType({})


def apply(
    state: Call | Agent | None,
    operation: Operation,
    limits: CallLimits,
    related: Mapping[CallId, Call] = NO_CALLS,
) -> Outcome:
    """Apply one operation to the call or agent that it names; `state` is None if that does not exist.

    `related` are the other calls that the operation names, and all that are related to these. A changed state has its
    version incremented; an unchanged one is the same object.
    """
    if isinstance(operation, AgentOperation):
        return _apply_to_agent(state if isinstance(state, Agent) else None, operation)
    call = state if isinstance(state, Call) else None
    family = Family(related if call is None else {**related, call.id: call})
    try:
        return CallTurn(operation, limits, family).run(call)
    except RefusedError as refusal:
        return _refused(call, operation, refusal)


def _refused(call: Call | None, operation: CallOperation, refusal: RefusedError) -> Outcome:
    if operation.sender is None:
        return Outcome(call, (), refusal.code, refusal.text)
    event = OperationRefused(
        id=event_id(operation.id),
        user=operation.sender,
        operation_name=operation.operation_name,
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
        case StartMonitoring(device=device, monitoring=begun):
            changed = [replace(each, monitoring=begun) for each in before.devices if each.active and each.id == device]
        case CancelSupervisorMonitoring(device=device, used=used):
            monitoring = [each for each in before.devices if each.id == device and each.monitoring is not None]
            if used is not None and all(each.monitoring != used for each in monitoring):
                return Outcome(agent)
            changed = [replace(each, monitoring=None) for each in monitoring]
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
    text = f"the device {NOT_IN_SESSION}"
    if isinstance(operation.action, CancelSupervisorMonitoring):
        text = "the device monitors no other one"
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
