"""What the bus carries: one message form for each exchange, as JSON, with a version.

`calltag.ops` carries `OperationMessage`, one operation each. `calltag.events` carries `NodeMessage`: what one batch of
work has to say to one node, in as many messages as its length takes.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from calltag.core.bus.ports import NodeId
from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, OperationRefused
from calltag.core.domain.ids import CallId, OperationId, UserId
from calltag.core.domain.operations import AgentOperation, CallOperation
from calltag.core.domain.status import StatusCode

_FORM: Final = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
_KEYS_BELOW: Final = "user_data"
"""Of what is below it, places are keys that users chose."""
_LARGEST: Final = 2**53
# Told by its kind, an event is tried once; else it would be tried as each of them, which takes several times as long.
_Event: TypeAlias = Annotated[CallChanged | DevicesChanged | OperationRefused, Field(discriminator="kind")]


class WireError(ValueError):
    """The bytes are not a message of this form and version; `where` names the places, never the values."""


class OperationMessage(BaseModel):
    """One accepted operation, on its way to the worker that owns its partition."""

    model_config = _FORM
    v: Literal[1] = 1
    operation: CallOperation | AgentOperation = Field(discriminator="subject")
    reply_to: NodeId | None = Field(default=None, description="Inbox of the gateway that waits for the outcome.")


class OperationReply(BaseModel):
    """The outcome of an operation for the gateway that waits for it."""

    model_config = _FORM
    operation_id: OperationId
    code: StatusCode
    text: str = ""
    call: Call | None = Field(default=None, description="The call after the operation.")


class StreamPlace(BaseModel):
    """Where an event is in the stream of a user with sessions on the node: after the one at `previous`."""

    model_config = _FORM
    user: UserId
    event: int = Field(ge=0, description="Which of the message's events it is, from 0.")
    position: int = Field(gt=0, lt=_LARGEST)
    previous: int = Field(ge=0, lt=_LARGEST)


class NoticeKind(StrEnum):
    """What another node did with a CometD session, or asks for; or what an operator (`closed`) or a logout asks for."""

    CHANGED = "changed"
    ENDED = "ended"
    CLOSED = "closed"
    FLUSH = "flush"
    FLUSHED = "flushed"
    LOGIN_ENDED = "login_ended"


class SessionNotice(BaseModel):
    """Another node changed the subscriptions of a CometD session, or ended it; or it claims the session, which it has
    read in a cycle: its home is to save it and let it go (`flush`, answered by `flushed` to `node`, if there is one).

    An operator (`closed`) names the session by its user and the digest of its id, which the store does not know; a
    logout (`login_ended`) the user and the digest of the login.
    """

    model_config = _FORM
    kind: NoticeKind
    client_id: str = ""
    cycle: int = 0
    user: UserId = UserId("")
    digest: str = ""
    node: NodeId = NodeId("")


class NodeMessage(BaseModel):
    """For one node, each kind in the order in which it came about."""

    model_config = _FORM
    v: Literal[1] = 1
    events: tuple[_Event, ...] = ()
    places: tuple[StreamPlace, ...] = ()
    replies: tuple[OperationReply, ...] = ()
    notices: tuple[SessionNotice, ...] = ()
    stale_users: tuple[UserId, ...] = Field(
        default=(), description="Users of whose events the node may have missed some: it has to read their streams."
    )


class EnvelopeAction(BaseModel):
    """What kind of operation it is."""

    model_config = _FORM
    name: str = ""


class EnvelopeOperation(BaseModel):
    """Whose operation it is, and on what."""

    model_config = _FORM
    id: OperationId
    sender: UserId | None = None
    call_id: CallId | None = None
    accepted_at_ms: int = 0
    action: EnvelopeAction = EnvelopeAction()


class Envelope(BaseModel):
    """As much of an OperationMessage as tells who is to hear of it, where the rest cannot be read."""

    model_config = _FORM
    operation: EnvelopeOperation
    reply_to: NodeId | None = None


M = TypeVar("M")


class Form(Generic[M]):
    """Encoding of one kind of value as JSON bytes, and back."""

    def __init__(self, adapter: TypeAdapter[M]) -> None:
        self._adapter = adapter

    def encode(self, message: M) -> bytes:
        # A warning would show the value that it is about.
        return self._adapter.dump_json(message, warnings="none")

    def decode(self, body: bytes) -> M:
        """Raises WireError."""
        try:
            return self._adapter.validate_json(body)
        except ValidationError as error:
            places = "; ".join(
                f"{_place(each['loc'])}: {each['type']}"
                for each in error.errors(include_input=False, include_url=False)[:5]
            )
            raise WireError(places) from None


def _place(steps: Sequence[int | str]) -> str:
    shown = steps[: steps.index(_KEYS_BELOW) + 1] if _KEYS_BELOW in steps else steps
    return ".".join(map(str, shown)) or "message"


ENVELOPE: Final = Form(TypeAdapter(Envelope))
OPERATION: Final = Form(TypeAdapter(OperationMessage))
NODE: Final = Form(TypeAdapter(NodeMessage))
EVENT: Final = Form[Event](TypeAdapter(_Event))
CALL: Final = Form(TypeAdapter(Call))
AGENT: Final = Form(TypeAdapter(Agent))
REPLY: Final = Form(TypeAdapter(OperationReply))
