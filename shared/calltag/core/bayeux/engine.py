"""The decisions of a Bayeux server, without transports, clocks or tasks.

Source: Bayeux protocol 1.0; where it leaves a choice, CometD's own server. Times come in as milliseconds of any clock
that does not go back. What goes out says what transports have to do: which replies to write, which connect to hold,
which held connects to end.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bayeux import channels, errors
from calltag.core.bayeux.channels import CONNECT, HANDSHAKE, is_meta, is_name, is_pattern, is_service
from calltag.core.bayeux.codec import Message, Reply
from calltag.core.bayeux.deadlines import Deadlines
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.session import Held, Session

CONNECTION_TYPES: Final = ("websocket", "long-polling")
VERSION: Final = "1.0"
_SHED_INTERVAL_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: the user that it is proven to be of (None: nobody), over which kind of transport.

    `by_ext` says that the proof came with the handshake message itself.
    """

    user: str | None
    streaming: bool = False
    by_ext: bool = False


@dataclass(slots=True)
class Turn:
    """What follows from one request: `replies` in order; `events_of` the session whose queue goes before them;
    `held` the connect whose reply has to wait; `ended` the sessions whose held connect is over, to be woken."""

    replies: list[Reply] = field(default_factory=list)
    events_of: Session | None = None
    held: tuple[Session, Held] | None = None
    ended: list[Session] = field(default_factory=list)
    created: Session | None = None


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a handshake fails, and what the client is advised to do."""

    error: str
    reconnect: str = "none"
    interval_ms: int = 0


def _shed(most: int) -> _Refusal:
    return _Refusal(errors.too_many_sessions(most), "handshake", _SHED_INTERVAL_MS)


def handshake_in(messages: Sequence[object]) -> Message | None:
    """The handshake among the messages, if there is one."""
    return next((each for each in messages if isinstance(each, dict) and each.get("channel") == HANDSHAKE), None)


class Engine:
    """All sessions of one server. `may_subscribe(user, channel)` is the authorizer of subscriptions."""

    def __init__(self, limits: BayeuxLimits, may_subscribe: Callable[[str, str], bool]) -> None:
        self.limits = limits
        self._may_subscribe = may_subscribe
        self._sessions: dict[str, Session] = {}
        self._by_user: dict[str, dict[str, Session]] = {}
        self._deadlines = Deadlines()

    @property
    def count(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    def sessions(self) -> list[Session]:
        """All sessions."""
        return list(self._sessions.values())

    def users(self) -> list[str]:
        """All users with sessions."""
        return list(self._by_user)

    def has_sessions(self, user: str) -> bool:
        """Whether the user has a session."""
        return user in self._by_user

    # -- requests ------------------------------------------------------------------------------------------------

    def handle(self, messages: Sequence[object], caller: Caller, now_ms: int) -> Turn:
        """Work through one request. A handshake goes alone: whatever came with it is ignored."""
        turn = Turn()
        handshake = handshake_in(messages)
        if handshake is not None:
            turn.replies.append(self._handshake(handshake, caller, now_ms, turn))
            return turn
        for message in messages:
            self._dispatch(message, caller, now_ms, turn, alone=len(messages) == 1)
        return turn

    def _dispatch(self, message: object, caller: Caller, now_ms: int, turn: Turn, *, alone: bool) -> None:
        if not isinstance(message, dict):
            turn.replies.append({"successful": False, "error": errors.MESSAGE_INVALID})
            return
        channel = message.get("channel")
        if not isinstance(channel, str) or not channel:
            turn.replies.append(_failure(message, errors.CHANNEL_MISSING))
            return
        session = self._session(message, caller)
        if session is None:
            turn.replies.append(self._unknown(message))
        elif channel == CONNECT:
            self._connect(message, session, caller, now_ms, turn, alone=alone)
        else:
            self._prolong(session, now_ms)
            turn.replies.append(self._other(channel, message, session, turn))

    def _other(self, channel: str, message: Message, session: Session, turn: Turn) -> Reply:
        match channel:
            case channels.SUBSCRIBE:
                return self._subscribe(message, session)
            case channels.UNSUBSCRIBE:
                return self._unsubscribe(message, session)
            case channels.DISCONNECT:
                return self._disconnect(message, session, turn)
            case _:
                return self._publish(channel, message)

    def _handshake(self, message: Message, caller: Caller, now_ms: int, turn: Turn) -> Reply:
        refusal = self._handshake_refusal(message, caller)
        if refusal is not None:
            return self._refused(message, refusal)
        user = caller.user or ""
        session = Session(secrets.token_hex(20), user, by_ext=caller.by_ext, streaming=caller.streaming)
        self._sessions[session.client_id] = session
        self._by_user.setdefault(session.user, {})[session.client_id] = session
        self._expire_at(session, now_ms + self.limits.timeout_ms + self.limits.max_interval_ms)
        turn.created = session
        return _success(message) | {
            "version": VERSION,
            "minimumVersion": VERSION,
            "supportedConnectionTypes": list(CONNECTION_TYPES),
            "clientId": session.client_id,
            "advice": self._advice(),
        }

    def _refused(self, message: Message, refusal: _Refusal) -> Reply:
        return _failure(message, refusal.error) | {
            "version": VERSION,
            "supportedConnectionTypes": list(CONNECTION_TYPES),
            "advice": self._advice(refusal.reconnect, refusal.interval_ms),
        }

    def unavailable(self, handshake: Message) -> Turn:
        """The answer to a handshake while the server cannot keep its promises: come back in a while."""
        return Turn([self._refused(handshake, _Refusal(errors.UNAVAILABLE, "handshake", _SHED_INTERVAL_MS))])

    def _handshake_refusal(self, message: Message, caller: Caller) -> _Refusal | None:
        """Error, `reconnect` and `interval` of a handshake that must fail."""
        types = message.get("supportedConnectionTypes")
        known = isinstance(types, list) and any(each in CONNECTION_TYPES for each in types if isinstance(each, str))
        of_user = len(self._by_user.get(caller.user or "", ()))
        limits = self.limits
        refusals = (
            (not isinstance(message.get("version"), str), _Refusal(errors.VERSION_MISSING)),
            (not isinstance(types, list), _Refusal(errors.CONNECTION_TYPES_MISSING)),
            (not known, _Refusal(errors.connection_types_unsupported(CONNECTION_TYPES))),
            (caller.user is None, _Refusal(errors.UNAUTHORIZED)),
            (self.count >= limits.max_sessions, _shed(limits.max_sessions)),
            (of_user >= limits.max_sessions_per_user, _shed(limits.max_sessions_per_user)),
        )
        return next((refusal for failed, refusal in refusals if failed), None)

    def _connect(
        self, message: Message, session: Session, caller: Caller, now_ms: int, turn: Turn, *, alone: bool
    ) -> None:
        """Hold the connect, unless it is the first one, not alone, in a hurry, or there is something to tell.

        A newer connect ends an older one that is still held.
        """
        if not isinstance(message.get("connectionType"), str):
            turn.replies.append(_failure(message, errors.CONNECTION_TYPE_MISSING))
            return
        if session.held is not None:
            turn.ended.append(session)
            session.held = None
        session.cycle += 1
        session.streaming = caller.streaming
        first, session.connected = not session.connected, True
        timeout_ms, session.interval_ms = self._wishes(message)
        self._expire_at(session, now_ms + timeout_ms + session.interval_ms + self.limits.max_interval_ms)
        reply = _success(message) | {"clientId": session.client_id, "advice": self._advice()}
        waiting = bool(session.queue) and not caller.streaming
        if first or not alone or timeout_ms == 0 or waiting:
            turn.events_of = session
            turn.replies.append(self._told_of_loss(session, reply))
            return
        session.held = Held(session.cycle, reply, now_ms + timeout_ms)
        turn.held = (session, session.held)

    def _wishes(self, message: Message) -> tuple[int, int]:
        """Timeout and interval that the client asks for in this cycle, within the server's limits."""
        advice = message.get("advice")
        wishes = advice if isinstance(advice, dict) else {}
        timeout, interval = wishes.get("timeout"), wishes.get("interval")
        most = self.limits.timeout_ms
        return (
            min(timeout, most) if type(timeout) is int and timeout >= 0 else most,
            min(interval, 10 * most) if type(interval) is int and interval >= 0 else self.limits.interval_ms,
        )

    def _subscribe(self, message: Message, session: Session) -> Reply:
        """All or nothing: one name that is refused refuses the request."""
        names = _names(message.get("subscription"))
        if names is None:
            return _failure(message, errors.SUBSCRIPTION_MISSING)
        reply = {"clientId": session.client_id, "subscription": message["subscription"]}
        for name in names:
            if not is_name(name) and not is_pattern(name):
                return _failure(message, errors.subscription_invalid(name)) | reply
            if is_meta(name) or not (is_service(name) or self._may_subscribe(session.user, name)):
                return _failure(message, errors.subscribe_denied(name)) | reply
        wanted = session.subscriptions | {name: None for name in names if not is_service(name)}
        if len(wanted) > self.limits.max_subscriptions:
            return _failure(message, errors.too_many_subscriptions(self.limits.max_subscriptions)) | reply
        session.subscriptions = wanted
        return _success(message) | reply

    def _unsubscribe(self, message: Message, session: Session) -> Reply:
        names = _names(message.get("subscription"))
        if names is None:
            return _failure(message, errors.SUBSCRIPTION_MISSING)
        for name in names:
            session.subscriptions.pop(name, None)
        return _success(message) | {"clientId": session.client_id, "subscription": message["subscription"]}

    def _disconnect(self, message: Message, session: Session, turn: Turn) -> Reply:
        self.remove(session)
        turn.ended.append(session)
        return _success(message) | {"clientId": session.client_id}

    def _publish(self, channel: str, message: Message) -> Reply:
        """Clients publish to the server's own channels only, where nothing listens; all else is denied."""
        if is_meta(channel) or not is_name(channel):
            return _failure(message, errors.channel_invalid(channel))
        if is_service(channel):
            return _success(message)
        return _failure(message, errors.publish_denied(channel))

    # -- sessions ------------------------------------------------------------------------------------------------

    def _session(self, message: Message, caller: Caller) -> Session | None:
        """The session that the message names, if it is the caller's."""
        client_id = message.get("clientId")
        session = self._sessions.get(client_id) if isinstance(client_id, str) else None
        if session is None:
            return None
        proven = caller.user == session.user or (caller.user is None and session.by_ext)
        return session if proven else None

    def _unknown(self, message: Message) -> Reply:
        reply = _failure(message, errors.UNKNOWN_CLIENT)
        if message.get("channel") == CONNECT:
            reply["advice"] = self._advice("handshake")
        return reply

    def remove(self, session: Session) -> None:
        """End a session. A connect of its that is held is to be woken; it then finds the session gone."""
        if self._sessions.pop(session.client_id, None) is None:
            return
        of_user = self._by_user[session.user]
        del of_user[session.client_id]
        if not of_user:
            del self._by_user[session.user]

    def alive(self, session: Session) -> bool:
        """Whether the session has not ended."""
        return session.client_id in self._sessions

    def expire(self, now_ms: int) -> list[Session]:
        """End the sessions that were silent too long; returns them."""
        silent = []
        for client_id, deadline_ms in self._deadlines.due(now_ms):
            session = self._sessions.get(client_id)
            if session is None or session.noted_deadline_ms != deadline_ms:
                continue
            if session.expires_at_ms > now_ms:
                self._note_deadline(session)
                continue
            self.remove(session)
            silent.append(session)
        return silent

    def _prolong(self, session: Session, now_ms: int) -> None:
        """Any message of a client shows that it is there."""
        self._expire_at(session, max(session.expires_at_ms, now_ms + self.limits.max_interval_ms))

    def _expire_at(self, session: Session, deadline_ms: int) -> None:
        """One noted deadline a session suffices: a later one is looked up when the earlier one is due."""
        session.expires_at_ms = deadline_ms
        if not session.noted_deadline_ms or deadline_ms < session.noted_deadline_ms:
            self._note_deadline(session)

    def _note_deadline(self, session: Session) -> None:
        session.noted_deadline_ms = session.expires_at_ms
        self._deadlines.add(session.expires_at_ms, session.client_id)

    # -- delivery ------------------------------------------------------------------------------------------------

    def publish(self, user: str, channel: str, event: bytes) -> list[Session]:
        """Queue an encoded event for the user's sessions that are subscribed; returns those, to be woken."""
        return self._enqueue(self._by_user.get(user, {}).values(), channel, event)

    def broadcast(self, channel: str, event: bytes) -> list[Session]:
        """Queue an encoded event for all sessions that are subscribed; returns those, to be woken."""
        return self._enqueue(self._sessions.values(), channel, event)

    def _enqueue(self, sessions: Iterable[Session], channel: str, event: bytes) -> list[Session]:
        reached = [session for session in sessions if session.subscribed(channel)]
        for session in reached:
            session.enqueue(event, self.limits)
        return reached

    def finish(self, session: Session, held: Held) -> Reply | None:
        """The reply of a connect that was held, now that it is to be answered; None if a newer one took its place."""
        if not self.alive(session):
            return held.reply | {"advice": self._advice("none")}
        if session.held is not held:
            return None
        session.held = None
        return self._told_of_loss(session, held.reply)

    def answered(self, session: Session, cycle: int, now_ms: int) -> None:
        """The answer to a connect was written (or could not be): from here on the client has to show up again.

        Nothing happens if a newer connect has come by then.
        """
        if session.cycle == cycle and session.held is None:
            self._expire_at(session, now_ms + session.interval_ms + self.limits.max_interval_ms)

    def _told_of_loss(self, session: Session, reply: Reply) -> Reply:
        if not session.dropped:
            return reply
        dropped, session.dropped = session.dropped, 0
        return reply | {"ext": {"calltag": {"dropped": dropped}}}

    def _advice(self, reconnect: str = "retry", interval_ms: int | None = None) -> Reply:
        """Always whole: the official client replaces what it was told before and fills gaps with its own defaults."""
        interval = self.limits.interval_ms if interval_ms is None else interval_ms
        return {"reconnect": reconnect, "interval": interval, "timeout": self.limits.timeout_ms}


def _success(message: Message) -> Reply:
    return _echo(message) | {"successful": True}


def _failure(message: Message, error: str) -> Reply:
    return _echo(message) | {"successful": False, "error": error}


def _echo(message: Message) -> Reply:
    """What a reply repeats: the channel, and the id where there was one."""
    return {name: message[name] for name in ("id", "channel") if isinstance(message.get(name), str | int)}


def _names(subscription: object) -> list[str] | None:
    """The channels of a subscription: one, or a list of at least one."""
    given = subscription if isinstance(subscription, list) else [subscription]
    names = [name for name in given if isinstance(name, str) and name]
    return names if names and len(names) == len(given) else None
