"""What an extension may see and change, and when."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from calltag.core.bayeux.codec import Message, Reply
from calltag.core.bayeux.position import Position
from calltag.core.bayeux.session import Session


@dataclass(slots=True)
class Beginning:
    """A session that is about to begin."""

    acknowledges: bool = False
    options: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ConnectWish:
    """What a /meta/connect asks for. `again`: the client may lack what was sent last, so it is sent once more.

    A session whose client has sent nothing but connects for longer than `longest_inactivity_ms` ends, if that is given;
    `deliveries_are_activity` says whether events sent to it count as well.
    """

    client_id: str
    timeout_ms: int
    interval_ms: int
    again: bool
    acknowledged: tuple[Position, int] | None = None
    longest_inactivity_ms: int | None = None
    deliveries_are_activity: bool = False


@dataclass(slots=True)
class SubscribeWish:
    """The channels of a /meta/subscribe, each with the position after which its messages are wanted.

    None wants what comes from now on.
    """

    client_id: str
    channels: dict[str, Position | None]


class Refused(Exception):
    """The extension refuses the message; `error` goes into the reply."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class Extension:
    """An extension overrides what it needs. `ext` is the message's `ext`, empty where there is none."""

    def handshake(self, ext: Mapping[str, object], beginning: Beginning) -> None:
        """A session begins."""

    def begun(self, beginning: Beginning, reply_ext: dict[str, object]) -> None:
        """The handshake succeeded: tell the client what the extension has agreed to."""

    def connect(self, ext: Mapping[str, object], wish: ConnectWish) -> None:
        """A connect came."""

    def subscribe(self, ext: Mapping[str, object], wish: SubscribeWish) -> None:
        """A subscription is wanted. Raises Refused."""

    def connected(self, session: Session, reply_ext: dict[str, object]) -> None:
        """A connect is answered now, and all that waited goes with it."""

    def kept(self, ext: Mapping[str, object]) -> dict[str, object]:  # noqa: ARG002 - a parameter for those that override
        """The parts of `ext` that `reply` needs for a connect that is held; small, as they are kept until then."""
        return {}

    def reply(self, message: Message, reply: Reply, arrived_ms: int, now_ms: int) -> None:
        """Any meta message is answered; times are Unix time in milliseconds."""


def ext_of(message: Message) -> Mapping[str, object]:
    """The `ext` of a message."""
    ext = message.get("ext")
    return ext if isinstance(ext, Mapping) else {}
