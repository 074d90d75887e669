"""Operations of clients and the switch on a call or an agent.

An action's `name` is the `operationName` (or the switch's event type) that clients send.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from calltag.core.domain.agent import READY, AgentState
from calltag.core.domain.call import CallType, Leg
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, SubjectKey, UserId, agent_key, call_key
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
    name: Literal["CallStarted"] = "CallStarted"


@dataclass(frozen=True, slots=True)
class PartyChanged:
    """The switch reports new states of parties; a number that is not on the call joins it."""

    legs: tuple[Leg, ...]
    mute_unchanged: tuple[str, ...] = ()
    """Numbers of parties that keep their mute, because the switch reports none."""
    name: Literal["PartyChanged"] = "PartyChanged"


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call ended: as the switch reports, or (`silent`) because the switch has not reported it for too long."""

    reason: Literal["silent"] | None = None
    name: Literal["CallEnded"] = "CallEnded"


UserDataAction: TypeAlias = AttachUserData | UpdateUserData | DeleteUserDataPair | DeleteUserData
ClientAction: TypeAlias = UserDataAction | Answer | Hold | Retrieve | SendDtmf | Hangup | ClearCall | Reject
BeginAction: TypeAlias = Dial | CallStarted
SwitchAction: TypeAlias = PartyChanged | CallEnded
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


DeviceAction: TypeAlias = SetDoNotDisturb | ForwardCalls
AgentAction: TypeAlias = StartContactCenterSession | EndContactCenterSession | ChangeAgentState | DeviceAction


@dataclass(frozen=True, slots=True)
class CallOperation:
    """One operation on one call. `sender` is None for the switch; times are Unix time in milliseconds."""

    id: OperationId
    call_id: CallId
    action: CallAction
    accepted_at_ms: int
    sender: UserId | None = None
    as_administrator: bool = False
    subject: Literal["call"] = "call"

    @property
    def operation_name(self) -> str:
        """Return the name under which a client or the switch sent it."""
        return self.action.name

    @property
    def key(self) -> SubjectKey:
        """Key of the call that it changes."""
        return call_key(self.call_id)

    @property
    def partition_key(self) -> str:
        """Input of `partition_of`."""
        return self.call_id


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
    def partition_key(self) -> str:
        """Input of `partition_of`."""
        return self.sender


Operation: TypeAlias = CallOperation | AgentOperation
