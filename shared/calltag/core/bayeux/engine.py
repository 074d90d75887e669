"""Bayeux protocol logic without I/O, clock or tasks: validates messages and builds replies.

Source: Bayeux protocol 1.0; where it leaves a choice, CometD's own server. The caller keeps the sessions. A method
returns the parameters of a valid message, and raises `BayeuxError` with the reply to an invalid one.
"""

from collections.abc import Callable, Sequence
from typing import Final

from calltag.core.bayeux import errors
from calltag.core.bayeux.channels import CONNECT, DISCONNECT, HANDSHAKE, is_meta, is_name, is_pattern, is_service
from calltag.core.bayeux.extensions import (
    Beginning,
    ConnectWish,
    Extension,
    Refused,
    SubscribeWish,
    ext_of,
    overriding,
)
from calltag.core.bayeux.messages import BayeuxLimits, Message, Reply, can_encode
from calltag.core.bayeux.session import Session

VERSION: Final = "1.0"
WEBSOCKET: Final = "websocket"
LONG_POLLING: Final = "long-polling"
CALLBACK_POLLING: Final = "callback-polling"
_VERSIONS: Final = ("1.", "0.9")
_MAX_ID_LENGTH: Final = 256


class BayeuxError(Exception):
    """The message is refused; `reply` has the reason."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.get("error"))
        self.reply = reply


def handshake_in(messages: Sequence[object]) -> Message | None:
    """Return the first handshake among the messages, if there is one."""
    return next((each for each in messages if isinstance(each, dict) and each.get("channel") == HANDSHAKE), None)


class Engine:
    """`may_subscribe(user, channel)` authorizes subscriptions, `may_publish(user, channel)` messages.

    With `handshake_reconnect` the advice has `maxInterval`: after that time without a connect, clients handshake again.
    """

    def __init__(
        self,
        limits: BayeuxLimits,
        may_subscribe: Callable[[str, str], bool],
        may_publish: Callable[[str, str], bool],
        extensions: Sequence[Extension] = (),
        connection_types: Sequence[str] = (WEBSOCKET, LONG_POLLING),
        *,
        handshake_reconnect: bool = False,
    ) -> None:
        self.limits = limits
        self.connection_types = connection_types
        self._may_subscribe = may_subscribe
        self._may_publish = may_publish
        self._handshake_reconnect = handshake_reconnect
        self._extensions = extensions
        # Most extensions override few hooks.
        self._on_connect = [each.connect for each in overriding(extensions, "connect")]
        self._on_kept = [each.kept for each in overriding(extensions, "kept")]
        self._on_connected = [each.connected for each in overriding(extensions, "connected")]
        self._on_reply = [each.reply for each in overriding(extensions, "reply")]
        self._usual_advice = self.advice()

    # -- handshake -----------------------------------------------------------------------------------------------

    def handshake(self, message: Message, user: str | None, refusal: str = errors.UNAUTHORIZED) -> Beginning:
        """Return the parameters of a new session. `refusal` is the error if there is no user. Raises BayeuxError."""
        version, types = message.get("version"), message.get("supportedConnectionTypes")
        if not isinstance(version, str):
            raise self._no_session(message, errors.VERSION_MISSING)
        if not version.startswith(_VERSIONS):
            raise self._no_session(message, errors.version_unsupported(version))
        if not isinstance(types, list):
            raise self._no_session(message, errors.CONNECTION_TYPES_MISSING)
        if not any(each in self.connection_types for each in types if isinstance(each, str)):
            raise self._no_session(message, errors.connection_types_unsupported(tuple(self.connection_types)))
        if user is None:
            raise self._no_session(message, refusal)
        beginning = Beginning()
        for extension in self._extensions:
            extension.handshake(ext_of(message), beginning)
        return beginning

    def begun(self, message: Message, client_id: str, beginning: Beginning) -> Reply:
        """Return the reply to a successful handshake."""
        reply = success(message) | {
            "version": VERSION,
            "minimumVersion": VERSION,
            "supportedConnectionTypes": list(self.connection_types),
            "clientId": client_id,
            "advice": self.advice(),
        }
        ext: dict[str, object] = {}
        for extension in self._extensions:
            extension.begun(beginning, ext)
        return reply | ({"ext": ext} if ext else {})

    def busy(self, message: Message, error: str, interval_ms: int) -> BayeuxError:
        """Return the error of a handshake that is to be retried after the interval."""
        return self._no_session(message, error, "handshake", interval_ms)

    def _no_session(self, message: Message, error: str, reconnect: str = "none", interval_ms: int = 0) -> BayeuxError:
        return BayeuxError(
            failure(message, error)
            | {
                "version": VERSION,
                "supportedConnectionTypes": list(self.connection_types),
                "advice": self.advice(reconnect, interval_ms),
            }
        )

    # -- messages of a session -----------------------------------------------------------------------------------

    @property
    def extends(self) -> bool:
        """Return whether `extend` has an effect."""
        return bool(self._on_reply)

    def channel_of(self, message: object) -> tuple[str, Message]:
        """Return the channel of a message, and the message. Raises BayeuxError."""
        if not isinstance(message, dict):
            raise BayeuxError({"successful": False, "error": errors.MESSAGE_INVALID})
        channel = message.get("channel")
        if not isinstance(channel, str) or not channel:
            raise BayeuxError(failure(message, errors.CHANNEL_MISSING))
        if not (message.get("id") is None or _can_echo("id", message["id"])):
            # The client could not match the reply to the message.
            raise BayeuxError(failure(message, errors.MESSAGE_ID_INVALID))
        return channel, message

    def unknown(self, message: Message) -> BayeuxError:
        """Return the error for a session that does not exist or belongs to another user."""
        reply = failure(message, errors.UNKNOWN_CLIENT)
        if message.get("channel") == CONNECT:
            reply["advice"] = self.advice("handshake", 0)
        return BayeuxError(reply)

    def connect(self, message: Message) -> ConnectWish:
        """Return the parameters of a connect. Raises BayeuxError."""
        connection_type = message.get("connectionType")
        if not isinstance(connection_type, str):
            raise BayeuxError(failure(message, errors.CONNECTION_TYPE_MISSING))
        if connection_type not in self.connection_types:
            raise BayeuxError(failure(message, errors.CONNECTION_TYPE_UNKNOWN))
        timeout_ms = most = self.limits.timeout_ms
        interval_ms, is_hurried = self.limits.interval_ms, False
        advice = message.get("advice")
        if isinstance(advice, dict):
            timeout, interval = advice.get("timeout"), advice.get("interval")
            if type(timeout) is int and timeout >= 0:
                timeout_ms, is_hurried = min(timeout, most), timeout == 0
            if type(interval) is int and interval >= 0:
                interval_ms = min(interval, 10 * most)
        wish = ConnectWish(timeout_ms, interval_ms, is_hurried, connection_type)
        if self._on_connect:
            ext = ext_of(message)
            for on_connect in self._on_connect:
                on_connect(ext, wish)
        return wish

    def kept(self, message: Message) -> Message:
        """Return the parts of a connect that its reply needs: a suspended message may be as large as a request."""
        kept = _connect(message)
        if "timestamp" in message:
            kept["timestamp"] = ""
        if "ext" in message:
            ext: dict[str, object] = {}
            given = ext_of(message)
            for on_kept in self._on_kept:
                on_kept(given, ext)
            if ext:
                kept["ext"] = ext
        return kept

    def answered(self, session: Session, kept: Message) -> Reply:
        """Return the reply to a connect, after its events were taken from the session's queue.

        `ext.calltag` has `missed` if events were lost by retention, and `behind` if more events wait than one reply may
        carry; the advice then is to connect again at once.
        """
        reply = self.connected(kept, session.client_id)
        ext: dict[str, object] = {}
        for on_connected in self._on_connected:
            on_connected(session, ext)
        state: dict[str, object] = {}
        if session.take_missed():
            state["missed"] = True
        if session.has_more:
            state["behind"] = True
            reply["advice"] = self.advice("retry", 0)
        if state:
            ext["calltag"] = state
        if ext:
            reply["ext"] = ext
        return reply

    def connected(self, message: Message, client_id: str) -> Reply:
        """Return the reply to a connect without events."""
        reply = _connect(message)
        reply["successful"], reply["clientId"], reply["advice"] = True, client_id, self._usual_advice
        return reply

    def replaced(self, message: Message) -> Reply:
        """Return the reply to a connect that a newer one replaced."""
        return failure(message, errors.CONNECT_REPLACED) | {"advice": self.advice()}

    def ended(self, message: Message, client_id: str) -> Reply:
        """Return the reply to a connect whose session has ended meanwhile."""
        return self.connected(message, client_id) | {"advice": self.advice("none", 0)}

    def disconnected(self) -> Reply:
        """Return the message to a client whose session the server has ended."""
        return {"channel": DISCONNECT, "successful": True, "advice": self.advice("none", 0)}

    def subscribe(self, message: Message, client_id: str, user: str) -> SubscribeWish:
        """Return the channels to subscribe to. One refused name refuses all of them. Raises BayeuxError."""
        names = self._named(message, client_id)
        for name in names:
            if is_meta(name) or not (is_service(name) or self._may_subscribe(user, name)):
                raise self.not_subscribed(message, client_id, errors.subscribe_denied(name))
        wish = SubscribeWish({name: None for name in names if not is_service(name)})
        try:
            for extension in self._extensions:
                extension.subscribe(ext_of(message), wish)
        except Refused as refused:
            raise self.not_subscribed(message, client_id, refused.error) from None
        return wish

    def not_subscribed(self, message: Message, client_id: str, error: str) -> BayeuxError:
        """Return the error of a refused /meta/subscribe or /meta/unsubscribe."""
        return BayeuxError(failure(message, error) | {"clientId": client_id} | _subscription(message))

    def unsubscribe(self, message: Message, client_id: str) -> list[str]:
        """Return the channels to unsubscribe from. Raises BayeuxError."""
        return self._named(message, client_id)

    def _named(self, message: Message, client_id: str) -> list[str]:
        """Return the channels and patterns in a message. Raises BayeuxError."""
        names = _names(message.get("subscription"))
        if names is None:
            raise BayeuxError(failure(message, errors.SUBSCRIPTION_MISSING))
        for name in names:
            if not is_name(name) and not is_pattern(name):
                raise self.not_subscribed(message, client_id, errors.subscription_invalid(name))
        return names

    def done(self, message: Message, client_id: str) -> Reply:
        """Return the reply to a successful message; a subscription is repeated as it was sent."""
        return success(message) | {"clientId": client_id} | _subscription(message)

    def publish(self, channel: str, message: Message, user: str) -> Reply:
        """Return the reply to an accepted message, which goes to no client. Raises BayeuxError."""
        if is_meta(channel) or not is_name(channel):
            raise BayeuxError(failure(message, errors.channel_invalid(channel)))
        if not self._may_publish(user, channel):
            raise BayeuxError(failure(message, errors.publish_denied(channel)))
        return success(message)

    def extend(self, message: Message, reply: Reply, arrived_ms: int, now_ms: int) -> Reply:
        """Apply the `reply` hooks of the extensions; times are Unix time in milliseconds."""
        for on_reply in self._on_reply:
            on_reply(message, reply, arrived_ms, now_ms)
        return reply

    def advice(self, reconnect: str = "retry", interval_ms: int | None = None) -> Reply:
        """Return complete advice: the official client replaces the former one, and fills gaps with its defaults."""
        interval = self.limits.interval_ms if interval_ms is None else interval_ms
        advice: Reply = {"reconnect": reconnect, "interval": interval, "timeout": self.limits.timeout_ms}
        return advice | ({"maxInterval": self.limits.max_interval_ms} if self._handshake_reconnect else {})


def success(message: Message) -> Reply:
    """Return the common fields of a successful reply."""
    reply = _echo(message)
    reply["successful"] = True
    return reply


def failure(message: Message, error: str) -> Reply:
    """Return the common fields of a failed reply."""
    return _echo(message) | {"successful": False, "error": error}


def _connect(message: Message) -> Reply:
    """Return the common fields of a reply to a connect."""
    message_id = message.get("id")
    return {"id": message_id, "channel": CONNECT} if _can_echo("id", message_id) else {"channel": CONNECT}


def _echo(message: Message) -> Reply:
    """Return the fields that a reply repeats: the channel, and the id unless it is too long."""
    return {name: message[name] for name in ("id", "channel") if name in message and _can_echo(name, message[name])}


def _can_echo(name: str, value: object) -> bool:
    if isinstance(value, str):
        return (name == "channel" or len(value) <= _MAX_ID_LENGTH) and (value.isascii() or can_encode(value))
    return isinstance(value, int) and can_encode(value)


def _subscription(message: Message) -> Reply:
    """Return the subscription as it was sent, if there was one."""
    given = {name: message[name] for name in ("subscription",) if name in message}
    return given if can_encode(given) else {}


def _names(subscription: object) -> list[str] | None:
    """Return the channels of a subscription: one, or a non-empty list; None if it is malformed."""
    given = subscription if isinstance(subscription, list) else [subscription]
    names = [name for name in given if isinstance(name, str) and name]
    return names if names and len(names) == len(given) else None
