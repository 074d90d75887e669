"""The operations: what clients and the switch ask of a call or of an agent.

An action's `name` is the `operationName` (or the switch's event type) that clients send.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from calltag.core.domain.call import CallType, Leg
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.user_data import Pair


@dataclass(frozen=True, slots=True)
class AttachUserData:
    """Add every pair, whether or not its key exists."""

    pairs: tuple[Pair, ...]
    name: Literal["AttachUserData"] = "AttachUserData"


@dataclass(frozen=True, slots=True)
class UpdateUserData:
    """Set every key given."""

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
    """Take a ringing call."""

    name: Literal["Answer"] = "Answer"


@dataclass(frozen=True, slots=True)
class Hold:
    """Put the own leg on hold."""

    name: Literal["Hold"] = "Hold"


@dataclass(frozen=True, slots=True)
class Retrieve:
    """Take the own leg off hold."""

    name: Literal["Retrieve"] = "Retrieve"


@dataclass(frozen=True, slots=True)
class SendDtmf:
    """Send tones; they are told to the parties and not kept."""

    digits: str
    name: Literal["SendDtmf"] = "SendDtmf"


@dataclass(frozen=True, slots=True)
class Hangup:
    """Leave the call; with no more than one other party on it, that ends it."""

    name: Literal["Hangup"] = "Hangup"


@dataclass(frozen=True, slots=True)
class Dial:
    """Begin a call from the sender's device: `legs` has the caller first."""

    conn_id: ConnId
    type: CallType
    dnis: str
    legs: tuple[Leg, ...]
    pairs: tuple[Pair, ...] = ()
    name: Literal["Dial"] = "Dial"


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The switch has a new call."""

    conn_id: ConnId
    type: CallType
    dnis: str
    legs: tuple[Leg, ...]
    pairs: tuple[Pair, ...] = ()
    began_at_ms: int | None = None
    name: Literal["CallStarted"] = "CallStarted"


@dataclass(frozen=True, slots=True)
class PartyChanged:
    """The switch tells new states of parties; a number that was not on the call joins it."""

    legs: tuple[Leg, ...]
    name: Literal["PartyChanged"] = "PartyChanged"


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is over for all: the switch says so, or (`silent`) has said nothing of it for too long."""

    reason: Literal["silent"] | None = None
    name: Literal["CallEnded"] = "CallEnded"


UserDataAction: TypeAlias = AttachUserData | UpdateUserData | DeleteUserDataPair | DeleteUserData
ClientAction: TypeAlias = UserDataAction | Answer | Hold | Retrieve | SendDtmf | Hangup
BeginAction: TypeAlias = Dial | CallStarted
SwitchAction: TypeAlias = PartyChanged | CallEnded
CallAction: TypeAlias = ClientAction | BeginAction | SwitchAction


@dataclass(frozen=True, slots=True)
class StartContactCenterSession:
    """Log the agent's devices in for some channels."""

    devices: tuple[tuple[DeviceId, str], ...]
    channels: tuple[str, ...]
    name: Literal["StartContactCenterSession"] = "StartContactCenterSession"


@dataclass(frozen=True, slots=True)
class EndContactCenterSession:
    """Log the agent's devices out."""

    devices: tuple[tuple[DeviceId, str], ...] = ()
    name: Literal["EndContactCenterSession"] = "EndContactCenterSession"


AgentAction: TypeAlias = StartContactCenterSession | EndContactCenterSession


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
    def key(self) -> str:
        """What it works on; operations with the same key take effect in the order in which they were sent."""
        return f"call:{self.call_id}"

    @property
    def partition_key(self) -> str:
        """What decides about its partition."""
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
    def key(self) -> str:
        """What it works on; operations with the same key take effect in the order in which they were sent."""
        return f"agent:{self.sender}"

    @property
    def partition_key(self) -> str:
        """What decides about its partition."""
        return self.sender


Operation: TypeAlias = CallOperation | AgentOperation
