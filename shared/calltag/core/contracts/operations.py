"""Wire models of the broker: one versioned JSON message for each exchange.

`calltag.ops` carries `OperationMessage`, one operation each. `calltag.events` carries `NodeMessage`: the output of one
batch for one node, split by size."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from calltag.core.broker.ports import NodeId
from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, OperationRefused
from calltag.core.domain.ids import CallId, OperationId, UserId
from calltag.core.domain.operations import AgentOperation, CallOperation
from calltag.core.domain.status import StatusCode

_FORM: Final = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
_KEYS_BELOW: Final = "user_data"
"""Error locations stop here: those below contain keys chosen by users."""
_LARGEST: Final = 2**53
# Without the discriminator, pydantic would try every type in turn, which takes several times as long.
_Event: TypeAlias = Annotated[CallChanged | DevicesChanged | OperationRefused, Field(discriminator="kind")]


class WireError(ValueError):
    """The bytes are not a message of this form and version; the text names the locations, never the values."""


class OperationMessage(BaseModel):
    """One accepted operation, for the worker that owns its partition."""

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
    """Position of an event in the stream of a user with sessions on the node; `previous` is that of the one before."""

    model_config = _FORM
    user: UserId
    event: int = Field(ge=0, description="Which of the message's events it is, from 0.")
    position: int = Field(gt=0, lt=_LARGEST)
    previous: int = Field(ge=0, lt=_LARGEST)


class NoticeKind(StrEnum):
    """Action on a CometD session: done or requested by another node, an operator (`closed`) or a logout."""

    CHANGED = "changed"
    ENDED = "ended"
    CLOSED = "closed"
    FLUSH = "flush"
    FLUSHED = "flushed"
    LOGIN_ENDED = "login_ended"


class SessionNotice(BaseModel):
    """Another node changed the subscriptions of a CometD session, ended it, or claims it as of the cycle it has read:
    its home saves and releases it (`flush`; replies `flushed` to `node`, if given).

    An operator (`closed`) names the session by its user and the digest of its id, which is not in Redis; a logout
    (`login_ended`) by the user and the digest of the login.
    """

    model_config = _FORM
    kind: NoticeKind
    client_id: str = ""
    cycle: int = 0
    user: UserId = UserId("")
    digest: str = ""
    node: NodeId = NodeId("")


class NodeMessage(BaseModel):
    """Events, replies and notices for one node, each kind in order of creation."""

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
    """Action of an Envelope."""

    model_config = _FORM
    name: str = ""


class EnvelopeOperation(BaseModel):
    """Sender and call of an Envelope."""

    model_config = _FORM
    id: OperationId
    sender: UserId | None = None
    call_id: CallId | None = None
    accepted_at_ms: int = 0
    action: EnvelopeAction = EnvelopeAction()


class Envelope(BaseModel):
    """The fields of an undecodable OperationMessage that identify the recipients of its refusal."""

    model_config = _FORM
    operation: EnvelopeOperation
    reply_to: NodeId | None = None


M = TypeVar("M")


class Form(Generic[M]):
    """Encodes and decodes one type of value as JSON bytes."""

    def __init__(self, adapter: TypeAdapter[M]) -> None:
        self._adapter = adapter

    def encode(self, message: M) -> bytes:
        # A warning would show the value.
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
