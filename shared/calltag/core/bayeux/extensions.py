"""Supported extensions of the Bayeux protocol; each overrides the hooks that it needs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from calltag.core.bayeux.events import BEGINNING, LARGEST, Position
from calltag.core.bayeux.messages import Message, Reply
from calltag.core.bayeux.session import Session

_LARGEST_BATCH: Final = 2**31
CONNECTS_ONLY: Final = "connects_only"
REPLAYS: Final = "replays"
"""Names of stored options of a session."""
_DELIVERY: Final = "metaConnectDeliveryOnly"
_NEW_ONLY: Final = -1
_ALL: Final = -2
_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")
_ACCURACY_MS: Final = 25


@dataclass(slots=True)
class Beginning:
    """Parameters of a new session."""

    acknowledges: bool = False
    options: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ConnectWish:
    """Parameters of a /meta/connect.

    A client that sends only connects for longer than `silent_ms`, if that is set, is inactive; with `deliveries_count`,
    events sent to it are activity too.
    """

    timeout_ms: int
    interval_ms: int
    is_hurried: bool
    """The client itself asked for a reply at once."""
    transport: str
    acknowledged: int | None = None
    silent_ms: int | None = None
    deliveries_count: bool = False


@dataclass(slots=True)
class SubscribeWish:
    """The channels of a /meta/subscribe, each with the position after which messages are sent (None: new ones only).

    `replays`: the client asked for the positions of messages; `snapshot`: it asked for the present state.
    """

    channels: dict[str, Position | None]
    replays: bool = False
    snapshot: bool = False


class Refused(Exception):
    """The extension refuses the message; `error` goes into the reply."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class Extension:
    """Hooks of an extension; `ext` is that of the message, empty if there is none."""

    def handshake(self, ext: Mapping[str, object], beginning: Beginning) -> None:
        """Set parameters of a new session."""

    def begun(self, beginning: Beginning, reply_ext: dict[str, object]) -> None:
        """Confirm the extension in the reply to a successful handshake."""

    def connect(self, ext: Mapping[str, object], wish: ConnectWish) -> None:
        """Set parameters of a connect."""

    def subscribe(self, ext: Mapping[str, object], wish: SubscribeWish) -> None:
        """Set parameters of a subscription. Raises Refused."""

    def connected(self, session: Session, reply_ext: dict[str, object]) -> None:
        """Extend the reply to a connect, after its events were taken."""

    def kept(self, ext: Mapping[str, object], kept: dict[str, object]) -> None:
        """Keep the parts of `ext` that `reply` needs for a suspended connect."""

    def reply(self, message: Message, reply: Reply, arrived_ms: int, now_ms: int) -> None:
        """Extend the reply to any meta message; times are Unix time in milliseconds."""


def ext_of(message: Message) -> Mapping[str, object]:
    """Return the `ext` of a message, empty if there is none."""
    ext = message.get("ext")
    return ext if isinstance(ext, dict) else {}


class Acknowledgment(Extension):
    """`ext.ack`: the client acknowledges replies; unacknowledged ones are sent again, by any node that it connects to.

    Source: CometD's documentation of its acknowledgment extension, and the clients' `AckExtension`.
    """

    def handshake(self, ext: Mapping[str, object], beginning: Beginning) -> None:
        beginning.acknowledges = ext.get("ack") is True

    def begun(self, beginning: Beginning, reply_ext: dict[str, object]) -> None:
        if beginning.acknowledges:
            reply_ext["ack"] = True

    def connect(self, ext: Mapping[str, object], wish: ConnectWish) -> None:
        number = _number(ext.get("ack"))
        if number is not None and 0 <= number < _LARGEST_BATCH:
            wish.acknowledged = int(number)

    def connected(self, session: Session, reply_ext: dict[str, object]) -> None:
        if session.acknowledges:
            reply_ext["ack"] = session.close_batch()


class ReplayExtension(Extension):
    """`ext.replay`: a subscription may begin in the past, even in a new session.

    Source: the streaming API of Salesforce, whose clients send a map of channel to the `replayId` of the last event
    seen, -1 for new events only, -2 for all retained ones, null if they have none. Some write the number as a string.
    """

    def handshake(self, ext: Mapping[str, object], beginning: Beginning) -> None:
        if ext.get("replay") is True:
            beginning.options[REPLAYS] = "1"

    def begun(self, beginning: Beginning, reply_ext: dict[str, object]) -> None:  # noqa: ARG002 - the interface's
        reply_ext["replay"] = True

    def subscribe(self, ext: Mapping[str, object], wish: SubscribeWish) -> None:
        asked = ext.get("replay")
        if not isinstance(asked, dict):
            return
        wish.replays = True
        for channel, replay_id in asked.items():
            if channel in wish.channels:
                wish.channels[channel] = _position(replay_id)


def _position(replay_id: object) -> Position | None:
    number = _number(int(replay_id) if isinstance(replay_id, str) and _DIGITS.fullmatch(replay_id) else replay_id)
    if replay_id is None or number == _NEW_ONLY:
        return None
    if number is None:
        raise Refused(invalid_replay("of another type"))
    if not _ALL <= number < LARGEST:
        raise Refused(invalid_replay("out of range"))
    return BEGINNING if number == _ALL else Position(int(number))


def invalid_replay(replay_id: object) -> str:
    """Return the error for an invalid or expired id, with the text of Salesforce's server."""
    return (
        f"400::The replayId {{{replay_id}}} you provided was invalid. Please provide a valid ID, "
        "-2 to replay all events, or -1 to replay only new events."
    )


class DeliveryExtension(Extension):
    """`ext.calltag.metaConnectDeliveryOnly` of a handshake: events are sent with connect replies only (true), or with
    any reply (false). The default depends on the transport; a client that acknowledges gets them with connect replies
    in any case.

    Source: CometD's option `metaConnectDeliverOnly`, here for one session.
    """

    def handshake(self, ext: Mapping[str, object], beginning: Beginning) -> None:
        asked = ext.get("calltag")
        wish = asked.get(_DELIVERY) if isinstance(asked, dict) else None
        if isinstance(wish, bool):
            beginning.options[CONNECTS_ONLY] = str(int(wish))

    def begun(self, beginning: Beginning, reply_ext: dict[str, object]) -> None:
        if CONNECTS_ONLY in beginning.options:
            agreed = beginning.acknowledges or beginning.options[CONNECTS_ONLY] == "1"
            # No other extension sets this name at a handshake.
            reply_ext["calltag"] = {_DELIVERY: agreed}


class SnapshotExtension(Extension):
    """`ext.calltag.snapshot` of a subscription: it gets the state that the channels are about."""

    def subscribe(self, ext: Mapping[str, object], wish: SubscribeWish) -> None:
        asked = ext.get("calltag")
        wish.snapshot = isinstance(asked, dict) and asked.get("snapshot") is True


@dataclass(frozen=True, slots=True)
class Activity(Extension):
    """A session that sends only connects for `silent_ms` ends; with `both_sides`, events sent to the client are
    activity too.

    Source: CometD's `ActivityExtension`, which checks with each connect.
    """

    silent_ms: int
    both_sides: bool = False

    def connect(self, ext: Mapping[str, object], wish: ConnectWish) -> None:  # noqa: ARG002 - the interface's
        wish.silent_ms = self.silent_ms
        wish.deliveries_count = self.both_sides


class Timestamp(Extension):
    """The reply to a message with a `timestamp` has one.

    Source: Bayeux protocol 1.0, section 5.10: `YYYY-MM-DDThh:mm:ss.ss`, in GMT.
    """

    def reply(self, message: Message, reply: Reply, arrived_ms: int, now_ms: int) -> None:  # noqa: ARG002 - the interface's
        if "timestamp" in message:
            reply["timestamp"] = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-4]


class Timesync(Extension):
    """`ext.timesync`: the client computes the offset of the server's clock.

    Source: CometD's documentation of its time synchronization extension.
    """

    def kept(self, ext: Mapping[str, object], kept: dict[str, object]) -> None:
        asked = ext.get("timesync")
        if isinstance(asked, dict):
            kept["timesync"] = {name: asked[name] for name in ("tc", "l", "o") if _is_number(asked.get(name))}

    def reply(self, message: Message, reply: Reply, arrived_ms: int, now_ms: int) -> None:
        asked = ext_of(message).get("timesync")
        if not isinstance(asked, dict) or not _is_number(asked.get("tc")):
            return
        timing = {"tc": asked["tc"], "ts": arrived_ms, "p": now_ms - arrived_ms}
        lag, offset = asked.get("l"), asked.get("o")
        if _is_number(lag) and _is_number(offset):
            timing["a"] = asked["tc"] + offset + lag - arrived_ms
            if lag != 0 and abs(timing["a"]) < _ACCURACY_MS:
                return
        ext = reply.setdefault("ext", {})
        if isinstance(ext, dict):
            ext["timesync"] = timing


def _is_number(value: object) -> bool:
    """Return whether it is a number, not NaN, and small enough that sums stay within 64 bits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _number(value: object) -> int | None:
    """Return a JSON number with an integer value, such as 2 or 2.0, as integer; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def overriding(extensions: Sequence[Extension], hook: str) -> list[Extension]:
    """Return the extensions that override the hook."""
    return [each for each in extensions if getattr(type(each), hook) is not getattr(Extension, hook)]
