"""Supervisors who monitor agents: the agents' calls ring at their devices too."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from calltag.core.domain.agent import AgentDevice
from calltag.core.domain.call import Call, Leg, LegState
from calltag.core.domain.ids import UserId, operation_id_beside
from calltag.core.domain.monitoring import Monitoring, MonitoringMode
from calltag.core.domain.operations import (
    AgentOperation,
    CallAction,
    CallOperation,
    CallsMerged,
    CallStarted,
    CancelSupervisorMonitoring,
    Dial,
    InitiateConference,
    InitiateTransfer,
    PartyChanged,
    SingleStepConference,
    SingleStepTransfer,
)
from calltag.gateway.call_service import CallService


async def with_monitors(service: CallService, operations: Sequence[CallOperation]) -> Sequence[CallOperation]:
    """Return the operations with the supervisors of the agents who join calls by them. Raises StoreUnavailable."""
    joining = [leg for each in operations for leg in _joining(each.action)]
    monitors = await _monitors(service, joining) if joining else {}
    if not monitors:
        return operations
    return [
        replace(each, monitors=tuple(monitor for leg in _joining(each.action) for monitor in monitors[leg.number]))
        for each in operations
    ]


def _joining(action: CallAction) -> Sequence[Leg]:
    """Return the parties who may join a call by an action. One who consults is on a call already."""
    match action:
        case Dial(legs=legs) | PartyChanged(legs=legs) | CallsMerged(legs=legs):
            return legs
        case CallStarted(legs=legs, parent=parent):
            return legs if parent is None else legs[1:]
        case InitiateTransfer() | InitiateConference() | SingleStepTransfer() | SingleStepConference():
            return (action.target,)
        case _:
            return ()


async def _monitors(service: CallService, legs: Sequence[Leg]) -> Mapping[str, Sequence[Leg]]:
    """Return the legs of the supervisors who monitor devices of these legs, by the number of the agent's device."""
    agents = {leg.device: leg.user for leg in legs if leg.device is not None and leg.user is not None}
    supervisors = sorted({each for agent in agents.values() for each in service.directory.monitors_of(agent)})
    states = await asyncio.gather(*map(service.reader.agent, supervisors))
    found = defaultdict[str, list[Leg]](list)
    for user, supervisor in zip(supervisors, states, strict=True):
        for device in supervisor.devices if supervisor is not None else ():
            agent = agents.get(device.monitoring.target) if device.monitoring is not None else None
            if device.monitoring is not None and agent is not None and service.directory.may_monitor(user, agent):
                found[device.monitoring.number].append(monitor_leg(user, device, device.monitoring))
    return found


def monitor_leg(user: UserId, device: AgentDevice, monitoring: Monitoring) -> Leg:
    """Return the leg at which a monitored call rings."""
    return Leg(device.number, LegState.RINGING, device.id, user, monitoring=monitoring)


def ended_monitoring(call: Call, operation: CallOperation, *, is_retry: bool) -> Sequence[AgentOperation]:
    """Return the end of a monitoring that was for the next call, which the sender answers or declines."""
    user = operation.sender
    legs = () if user is None else call.legs_of(user)
    return [
        AgentOperation(
            operation_id_beside(operation.id, leg.device),
            user,
            CancelSupervisorMonitoring(leg.device, leg.monitoring),
            operation.accepted_at_ms,
        )
        for leg in legs
        if user is not None and leg.device is not None and (is_retry or leg.state is LegState.RINGING)
        if leg.monitoring is not None and leg.monitoring.mode is MonitoringMode.NEXT_CALL
    ]
