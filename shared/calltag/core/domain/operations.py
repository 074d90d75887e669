"""Operations of clients and the switch on a call or an agent.

An action's `name` is the `operationName` (or the switch's event type) that clients send.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from calltag.core.domain.agent import READY, AgentState
from calltag.core.domain.call import CallType, EndReason, Leg, RecordingState
from calltag.core.domain.ids import (
    CallId,
    ConnId,
    DeviceId,
    OperationId,
    SubjectKey,
    UserId,
    agent_key,
    call_key,
    root_of,
)
from calltag.core.domain.monitoring import Monitoring, MonitoringState
from calltag.core.domain.user_data import Pair


@dataclass(frozen=True, slots=True)
class AttachUserData:
    """Add every pair, whether or not its key exists."""

    pairs: tuple[Pair, ...]
    name: Literal["AttachUserData"] = "AttachUserData"


@dataclass(frozen=True, slots=True)
class UpdateUserData:
    """Set each given key to the given value."""

    pairs: tuple[Pair, ...]
    name: Literal["UpdateUserData"] = "UpdateUserData"


@dataclass(frozen=True, slots=True)
class DeleteUserDataPair:
    """Remove a key with all its values."""

    key: str
    name: Literal["DeleteUserDataPair"] = "DeleteUserDataPair"


@dataclass(frozen=True, slots=True)
class DeleteUserData:
    """Remove all user data."""

    name: Literal["DeleteUserData"] = "DeleteUserData"


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a ringing call."""

    name: Literal["Answer"] = "Answer"


@dataclass(frozen=True, slots=True)
class Hold:
    """Put the sender's leg on hold."""

    name: Literal["Hold"] = "Hold"


@dataclass(frozen=True, slots=True)
class Retrieve:
    """Take the sender's leg off hold."""

    name: Literal["Retrieve"] = "Retrieve"


@dataclass(frozen=True, slots=True)
class SendDtmf:
    """Send tones; the parties get an event, and the call does not keep them."""

    digits: str
    name: Literal["SendDtmf"] = "SendDtmf"


@dataclass(frozen=True, slots=True)
class Hangup:
    """Leave the call; this ends it if at most one other party is on it."""

    name: Literal["Hangup"] = "Hangup"


@dataclass(frozen=True, slots=True)
class ClearCall:
    """End the call for all parties; decline it where it rings."""

    name: Literal["ClearCall"] = "ClearCall"


@dataclass(frozen=True, slots=True)
class Reject:
    """Decline a ringing call."""

    name: Literal["Reject"] = "Reject"


@dataclass(frozen=True, slots=True)
class MuteCall:
    """Mute the sender's leg."""

    name: Literal["MuteCall"] = "MuteCall"


@dataclass(frozen=True, slots=True)
class UnmuteCall:
    """Unmute the sender's leg."""

    name: Literal["UnmuteCall"] = "UnmuteCall"


@dataclass(frozen=True, slots=True)
class SingleStepTransfer:
    """Leave the call to another party, whose phone rings; the pairs are set as by an update."""

    target: Leg
    pairs: tuple[Pair, ...] = ()
    name: Literal["SingleStepTransfer"] = "SingleStepTransfer"


@dataclass(frozen=True, slots=True)
class SingleStepConference:
    """Add a party, whose phone rings; the pairs are set as by an update."""

    target: Leg
    pairs: tuple[Pair, ...] = ()
    name: Literal["SingleStepConference"] = "SingleStepConference"


@dataclass(frozen=True, slots=True)
class InitiateTransfer:
    """Hold the call, and begin a consult call to another party, to whom the call may be transferred then."""

    consult: CallId
    conn_id: ConnId
    target: Leg
    pairs: tuple[Pair, ...] = ()
    name: Literal["InitiateTransfer"] = "InitiateTransfer"


@dataclass(frozen=True, slots=True)
class InitiateConference:
    """Hold the call, and begin a consult call to another party, who may be added to the call then."""

    consult: CallId
    conn_id: ConnId
    target: Leg
    pairs: tuple[Pair, ...] = ()
    name: Literal["InitiateConference"] = "InitiateConference"


@dataclass(frozen=True, slots=True)
class CompleteTransfer:
    """Join the parties of a call and of a consult call without the sender; `consult` names it if there are several."""

    consult: CallId | None = None
    name: Literal["CompleteTransfer"] = "CompleteTransfer"


@dataclass(frozen=True, slots=True)
class CompleteConference:
    """Join the parties of a call and of a consult call; `consult` names it if there are several."""

    consult: CallId | None = None
    name: Literal["CompleteConference"] = "CompleteConference"


@dataclass(frozen=True, slots=True)
class SwapCalls:
    """Hold the active one of two related calls, and retrieve the other one."""

    other: CallId
    name: Literal["SwapCalls"] = "SwapCalls"


@dataclass(frozen=True, slots=True)
class RemoveParticipantFromConference:
    """Release the leg of another party of a conference."""

    number: str
    name: Literal["RemoveParticipantFromConference"] = "RemoveParticipantFromConference"


@dataclass(frozen=True, slots=True)
class SwitchMonitoring:
    """Take part in a monitored call in another way."""

    name: Literal["SwitchToListenIn", "SwitchToCoach", "SwitchToBargeIn"]

    @property
    def state(self) -> MonitoringState:
        """Return the way that the name says."""
        return MonitoringState(self.name.removeprefix("SwitchTo"))


@dataclass(frozen=True, slots=True)
class MuteMonitoredUser:
    """Mute the party whom the sender monitors."""

    name: Literal["MuteMonitoredUser"] = "MuteMonitoredUser"


@dataclass(frozen=True, slots=True)
class UnmuteMonitoredUser:
    """Unmute the party whom the sender monitors."""

    name: Literal["UnmuteMonitoredUser"] = "UnmuteMonitoredUser"


@dataclass(frozen=True, slots=True)
class MonitorCall:
    """Let the call of an agent ring at the supervisor who begins to monitor the agent."""

    monitor: Leg
    name: Literal["MonitorCall"] = "MonitorCall"


@dataclass(frozen=True, slots=True)
class SetCallDisposition:
    """Set the key of dispositions and the pairs, as by an update; also after the end of the call."""

    key: str
    disposition: str
    pairs: tuple[Pair, ...] = ()
    name: Literal["SetCallDisposition"] = "SetCallDisposition"


@dataclass(frozen=True, slots=True)
class Dial:
    """Start a call from the sender's device; the first of `legs` is the caller."""

    conn_id: ConnId
    type: CallType
    dnis: str
    legs: tuple[Leg, ...]
    pairs: tuple[Pair, ...] = ()
    name: Literal["Dial"] = "Dial"


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The switch reports a new call."""

    conn_id: ConnId
    type: CallType
    dnis: str
    legs: tuple[Leg, ...]
    pairs: tuple[Pair, ...] = ()
    began_at_ms: int | None = None
    parent: CallId | None = None
    """The call from which its first party consults."""
    ani: str = ""
    name: Literal["CallStarted"] = "CallStarted"


@dataclass(frozen=True, slots=True)
class PartyChanged:
    """The switch reports new states of parties; a number that is not on the call joins it."""

    legs: tuple[Leg, ...]
    mute_unchanged: tuple[str, ...] = ()
    """Numbers of parties that keep their mute, because the switch reports none."""
    name: Literal["PartyChanged"] = "PartyChanged"


@dataclass(frozen=True, slots=True)
class CallsMerged:
    """The switch reports that the parties of a call joined another one, and the call ended."""

    merged: CallId
    legs: tuple[Leg, ...] = ()
    """New states of parties, as in PartyChanged."""
    mute_unchanged: tuple[str, ...] = ()
    name: Literal["CallsMerged"] = "CallsMerged"


@dataclass(frozen=True, slots=True)
class RecordingChanged:
    """The switch reports that the call is recorded, or no longer."""

    state: RecordingState
    name: Literal["RecordingChanged"] = "RecordingChanged"


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call ended: as the switch reports, (`silent`) because the switch has not reported it for too long, or because
    an operator ended it."""

    reason: EndReason | None = None
    name: Literal["CallEnded"] = "CallEnded"


UserDataAction: TypeAlias = AttachUserData | UpdateUserData | DeleteUserDataPair | DeleteUserData
InitiateAction: TypeAlias = InitiateTransfer | InitiateConference
CompleteAction: TypeAlias = CompleteTransfer | CompleteConference
SingleStepAction: TypeAlias = SingleStepTransfer | SingleStepConference
FamilyAction: TypeAlias = (
    InitiateAction | CompleteAction | SingleStepAction | SwapCalls | RemoveParticipantFromConference
)
MonitoringAction: TypeAlias = SwitchMonitoring | MuteMonitoredUser | UnmuteMonitoredUser
LegAction: TypeAlias = (
    Answer
    | Hold
    | Retrieve
    | SendDtmf
    | Hangup
    | ClearCall
    | Reject
    | MuteCall
    | UnmuteCall
    | MonitoringAction
    | FamilyAction
)
"""Actions of clients on a leg of theirs."""
ClientAction: TypeAlias = UserDataAction | LegAction | SetCallDisposition | MonitorCall
BeginAction: TypeAlias = Dial | CallStarted
SwitchAction: TypeAlias = PartyChanged | CallsMerged | RecordingChanged | CallEnded
CallAction: TypeAlias = ClientAction | BeginAction | SwitchAction


@dataclass(frozen=True, slots=True)
class StartContactCenterSession:
    """Log the agent's devices in for the channels; the agent is in the `initial` state then."""

    devices: tuple[tuple[DeviceId, str], ...]
    channels: tuple[str, ...]
    initial: AgentState = READY
    name: Literal["StartContactCenterSession"] = "StartContactCenterSession"


@dataclass(frozen=True, slots=True)
class EndContactCenterSession:
    """Log the agent's devices out."""

    devices: tuple[tuple[DeviceId, str], ...] = ()
    name: Literal["EndContactCenterSession"] = "EndContactCenterSession"


@dataclass(frozen=True, slots=True)
class ChangeAgentState:
    """Set the agent's state on all devices."""

    state: AgentState
    name: Literal["ChangeAgentState"] = "ChangeAgentState"


@dataclass(frozen=True, slots=True)
class SetDoNotDisturb:
    """Let no call ring on the device, or let calls ring again."""

    device: DeviceId
    on: bool
    name: Literal["SetDoNotDisturb"] = "SetDoNotDisturb"


@dataclass(frozen=True, slots=True)
class ForwardCalls:
    """Forward the calls of the device to a number, or to none if it is empty."""

    device: DeviceId
    number: str
    name: Literal["ForwardCalls"] = "ForwardCalls"


@dataclass(frozen=True, slots=True)
class StartMonitoring:
    """Let the calls of another device ring at the device too."""

    device: DeviceId
    monitoring: Monitoring
    name: Literal["StartMonitoring"] = "StartMonitoring"


@dataclass(frozen=True, slots=True)
class CancelSupervisorMonitoring:
    """Let calls of another device ring at the device no longer; calls on which it is already go on.

    With `used`, only if that is what it monitors.
    """

    device: DeviceId
    used: Monitoring | None = None
    name: Literal["CancelSupervisorMonitoring"] = "CancelSupervisorMonitoring"


DeviceAction: TypeAlias = SetDoNotDisturb | ForwardCalls | StartMonitoring | CancelSupervisorMonitoring
AgentAction: TypeAlias = StartContactCenterSession | EndContactCenterSession | ChangeAgentState | DeviceAction


@dataclass(frozen=True, slots=True)
class CallOperation:
    """One operation on one call. `sender` is None for the switch; times are Unix time in milliseconds.

    `monitors` are the legs of the supervisors at whom the call rings, if their agent joins it by the operation.
    `extensions` are what the switch adds to the messages about its event.
    """

    id: OperationId
    call_id: CallId
    action: CallAction
    accepted_at_ms: int
    sender: UserId | None = None
    as_administrator: bool = False
    monitors: tuple[Leg, ...] = ()
    extensions: tuple[Pair, ...] = ()
    subject: Literal["call"] = "call"

    @property
    def operation_name(self) -> str:
        """Return the name under which a client or the switch sent it."""
        match self.action:
            case MonitorCall(monitor=Leg(monitoring=Monitoring(state=state))):
                return state.value
            case _:
                return self.action.name

    @property
    def key(self) -> SubjectKey:
        """Key of the call that it names."""
        return call_key(self.call_id)

    @property
    def order_key(self) -> SubjectKey:
        """Key that it has in common with all operations on calls that belong together."""
        return call_key(root_of(self.call_id))

    @property
    def others(self) -> tuple[CallId, ...]:
        """Return the other calls that it names."""
        match self.action:
            case (
                InitiateTransfer(consult=other)
                | InitiateConference(consult=other)
                | CompleteTransfer(consult=other)
                | CompleteConference(consult=other)
                | SwapCalls(other=other)
                | CallsMerged(merged=other)
                | CallStarted(parent=other)
            ):
                return () if other is None else (other,)
            case _:
                return ()

    @property
    def partition_key(self) -> str:
        """Input of `partition_of`."""
        return root_of(self.call_id)


@dataclass(frozen=True, slots=True)
class AgentOperation:
    """One operation on an agent's contact-centre session."""

    id: OperationId
    sender: UserId
    action: AgentAction
    accepted_at_ms: int
    subject: Literal["agent"] = "agent"

    @property
    def operation_name(self) -> str:
        """Return the name under which a client sent it."""
        match self.action:
            case ChangeAgentState(state=state):
                return state.name
            case SetDoNotDisturb(on=on):
                return "DoNotDisturbOn" if on else "DoNotDisturbOff"
            case StartMonitoring(monitoring=monitoring):
                return monitoring.state.value
            case ForwardCalls(number=number):
                return "ForwardCallsOn" if number else "ForwardCallsOff"
            case _:
                return self.action.name

    @property
    def device(self) -> DeviceId | None:
        """Return the only device that it changes, if it is for one."""
        return self.action.device if isinstance(self.action, DeviceAction) else None

    @property
    def key(self) -> SubjectKey:
        """Key of the agent that it changes."""
        return agent_key(self.sender)

    @property
    def order_key(self) -> SubjectKey:
        """Key of the operations that are applied in order with it."""
        return self.key

    @property
    def partition_key(self) -> str:
        """Input of `partition_of`."""
        return self.sender


Operation: TypeAlias = CallOperation | AgentOperation
