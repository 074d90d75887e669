"""What is said to the store of CometD sessions, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.position import BEGINNING, Position
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.store.user_streams import Entry


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as the store has it. `subscriptions` are by channel, with the position after which its messages are
    wanted; `confirmed` is what the client has for certain, `sent` what was sent to it."""

    client_id: str
    user: UserId
    confirmed: Position
    sent: Position
    cycle: int = 0
    generation: int = 0
    acknowledges: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    subscriptions: Mapping[str, Position] = field(default_factory=dict)
    services_active: bool = True
    """The state of the services that the client was told last."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A session that this node holds from here on: its record, and what follows `after` in the user's stream.

    `former` is who held it before, `has_more` whether more follows than `entries`.
    """

    record: SessionRecord
    after: Position
    entries: Sequence[Entry]
    former: NodeId
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class Have:
    """What a node has of a session: the cycle in which it holds it, the position up to which it has the stream, the one
    up to which it was sent (the store may learn of that later), and the generation of the last answer that it got."""

    cycle: int
    position: Position
    sent: Position
    told_ago_ms: int | None = None
    """How long ago an event was sent, if the store may not know of it."""
    generation: int = 0
    answered: Position = BEGINNING
    """Up to where it was sent when the last connect was answered: what was pushed since may be on its way."""


class TooManySessions(Exception):
    """The user has as many sessions as a user may have."""


class TooManySubscriptions(Exception):
    """The session has as many subscriptions as it may have."""


class NotProven(Exception):
    """The caller has not shown (yet) to be the session's user."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows that a caller is the session's user: it was looked at (`known`), or the login is the session's own.

    `login` is a digest that stands for the login; it is remembered with the session, "" for none.
    """

    known: bool
    login: str = ""


class HasEnded(Exception):
    """The session was over: it has ended with what came for it."""

    def __init__(self, ending: Ending, former: NodeId) -> None:
        super().__init__(ending)
        self.ending = ending
        self.former = former


class HasLeft(Exception):
    """The client has ended the session a moment ago: what comes now was on its way when it did."""


@dataclass(frozen=True, slots=True)
class Activity:
    """How long in ms a client may send nothing but connects, and whether events that are sent to it count as well."""

    longest_ms: int
    both_sides: bool = False


class NotKept(Exception):
    """Messages are wanted from a position of which the successors are not kept any more."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"what followed {position} is not kept any more")
        self.position = position
