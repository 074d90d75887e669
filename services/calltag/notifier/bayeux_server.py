"""Processing of Bayeux messages, independent of the transport."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bayeux import channels, errors
from calltag.core.bayeux.engine import BayeuxError, Engine, handshake_in
from calltag.core.bayeux.extensions import invalid_replay
from calltag.core.bayeux.messages import BayeuxLimit, BayeuxLimits, CodecError, Message, Reply
from calltag.core.bayeux.session import Ending
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import NOBODYS
from calltag.core.store.client_ids import new_client_id, user_of
from calltag.core.store.sessions import HasEnded, HasLeft, NotKept, TooManySessions, TooManySubscriptions
from calltag.notifier.authentication import CallerClaim
from calltag.notifier.channel_policy import check_watched
from calltag.notifier.connect_replies import ConnectAnswer
from calltag.notifier.metrics import wall_ms
from calltag.notifier.session_manager import Replaced, SessionManager
from calltag.notifier.session_registry import ConnectRequest, Crowded, RequestContext, Suspended, come_back_ms
from calltag.notifier.snapshots import Snapshots

_MESSAGES_A_TURN: Final = 16
"""Messages of one request that are processed before other tasks run."""


@dataclass(slots=True)
class BayeuxResponse:
    """Outcome of one request: `events`, then `replies` in order; `suspended` is a connect whose reply waits.

    `replaced` are connects in the request that newer ones replaced, and that the transport is to answer.
    """

    events: list[bytes] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    suspended: Suspended | None = None
    replaced: list[ConnectRequest] = field(default_factory=list)
    connected: str = ""
    """Session of the answered or suspended connect."""
    spoke: dict[str, None] = field(default_factory=dict)
    """Sessions of the other messages."""

    @property
    def served(self) -> list[str]:
        """Return the sessions whose events may be in the response."""
        return [each for each in (self.connected, *self.spoke) if each]


@dataclass(slots=True)
class BayeuxServer:
    """The Bayeux server of one notifier."""

    sessions: SessionManager
    is_reachable: bool = False
    """The inbox receives, so that events can be routed here."""
    snapshots: Snapshots | None = None
    parting_s: float = 1.0
    """Seconds before the refusal of a connect that was in flight when its client disconnected. The official client
    reports the disconnect as failed if a connect fails before the reply to the disconnect."""

    def opened(self) -> None:
        """Note that the inbox receives."""
        self.is_reachable = True

    @property
    def engine(self) -> Engine:
        return self.sessions.engine

    @property
    def limits(self) -> BayeuxLimits:
        return self.sessions.engine.limits

    def unreadable(self, error: CodecError) -> None:
        """Count a request that could not be parsed."""
        if error.limit:
            self.sessions.metrics.limited(BayeuxLimit(error.limit))

    # -- from memory -------------------------------------------------------------------------------------------------

    def process_now(self, messages: Sequence[object], context: RequestContext) -> ConnectAnswer | Suspended | None:
        """Handle a connect of a session at home here from memory; return None for any other request."""
        if len(messages) != 1:
            return None
        message = messages[0]
        if not isinstance(message, dict) or message.get("channel") != channels.CONNECT:
            return None
        client_id = message.get("clientId")
        if not isinstance(client_id, str):
            return None
        now_ms = self.sessions.registry.clock_ms()
        resident = self.sessions.at_home(client_id, now_ms)
        if resident is None:
            return None
        try:
            self.engine.channel_of(message)
            request = self._request(message, resident.client_id, context, is_alone=True)
        except BayeuxError:
            return None
        outcome = self.sessions.connect_at_home(resident, request, now_ms)
        if outcome is not None:
            self.sessions.metrics.add(self.sessions.metrics.messages)
        return outcome

    def _request(self, message: Message, client_id: str, context: RequestContext, *, is_alone: bool) -> ConnectRequest:
        return ConnectRequest(message, client_id, self.engine.connect(message), context, wall_ms(), is_alone)

    # -- in a task -----------------------------------------------------------------------------------------------------

    async def process(self, messages: Sequence[object], claim: CallerClaim, context: RequestContext) -> BayeuxResponse:
        """Process one request. The other messages of a request with a handshake are ignored.

        Raises StoreUnavailable, CsrfRefused, LoginUnavailable, and Crowded if this node has no room for a session.
        """
        self.sessions.metrics.messages.inc(len(messages))
        handshake = handshake_in(messages)
        response, is_alone = BayeuxResponse(), len(messages) == 1
        for number, message in enumerate(messages if handshake is None else [handshake], 1):
            if number % _MESSAGES_A_TURN == 0:
                await asyncio.sleep(0)
            arrived_ms = wall_ms()
            try:
                reply = await self._process(message, claim, response, context, is_alone=is_alone)
            except BayeuxError as fault:
                self.sessions.metrics.refused(fault.reply.get("error"))
                reply = fault.reply
            except Replaced as replaced:
                if context.is_streaming or is_alone:
                    response.replaced.append(replaced.request)
                    continue
                # The other messages have their replies in the same response.
                reply = self.engine.replaced(replaced.request.message)
            if reply is not None:
                known = message if isinstance(message, dict) else {}
                response.replies.append(self.engine.extend(known, reply, arrived_ms, wall_ms()))
        return response

    async def _process(
        self, given: object, claim: CallerClaim, response: BayeuxResponse, context: RequestContext, *, is_alone: bool
    ) -> Reply | None:
        """Return the reply to one message, unless it is in the response already."""
        channel, message = self.engine.channel_of(given)
        if channel == channels.HANDSHAKE:
            return await self._handshake(message, claim)
        client_id = message.get("clientId")
        user = user_of(client_id) if isinstance(client_id, str) else None
        if user is None or not isinstance(client_id, str):
            raise self.engine.unknown(message)
        if channel == channels.CONNECT:
            await self._connect(self._request(message, client_id, context, is_alone=is_alone), claim, response)
            return None
        await self.sessions.claims.check(message, client_id, claim)
        response.spoke[client_id] = None
        try:
            return await self._of_session(channel, message, client_id, user, response)
        except HasEnded as over:
            self.sessions.endings.has_ended(client_id, over)
            raise self.engine.unknown(message) from None

    async def _connect(self, request: ConnectRequest, claim: CallerClaim, response: BayeuxResponse) -> None:
        try:
            outcome = await self.sessions.connect(request, claim)
        except HasLeft:
            if not request.context.is_streaming:
                # On a WebSocket replies are sent in order, so the disconnect is answered already.
                await asyncio.sleep(self.parting_s)
            raise self.engine.unknown(request.message) from None
        response.connected = request.client_id
        if isinstance(outcome, Suspended):
            response.suspended = outcome
        else:
            response.events += outcome.events
            response.replies.append(outcome.reply)

    async def _handshake(self, message: Message, claim: CallerClaim) -> Reply:
        # Cheap checks first: authentication takes a round trip to Redis or a password hash. A request without
        # credentials is refused without either, and does not count for the rate limits.
        if not self.is_reachable:
            raise self.engine.busy(message, errors.UNAVAILABLE, come_back_ms())
        registry, address = self.sessions.registry, claim.shown.address
        try:
            if claim.shows_credentials:
                registry.check_handshake(address)
            caller = await claim.caller()
            refusal = errors.SESSION_OVER if caller.is_session_over else errors.UNAUTHORIZED
            beginning = self.engine.handshake(message, caller.user, refusal)
            client_id = new_client_id(UserId(caller.user or ""), bearer=caller.bearer)
            registry.begin(client_id, address)
            try:
                await self.sessions.create(client_id, beginning, claim.shown.login, caller.ends_at)
            except BaseException:
                registry.connected(client_id)
                raise
        except Crowded as crowded:
            self.sessions.metrics.limited(crowded.limit)
            raise self.engine.busy(message, crowded.error, come_back_ms()) from None
        except TooManySessions:
            self.sessions.metrics.limited(BayeuxLimit.SESSIONS_OF_USER)
            error = errors.too_many_sessions(self.limits.max_sessions_per_user)
            raise self.engine.busy(message, error, come_back_ms()) from None
        self.sessions.metrics.handshakes.inc()
        return self.engine.begun(message, client_id, beginning)

    async def _of_session(
        self, channel: str, message: Message, client_id: str, user: UserId, response: BayeuxResponse
    ) -> Reply:
        """Return the reply to a message of the session's own user that is no connect.

        Raises BayeuxError, HasEnded, StoreUnavailable.
        """
        sessions = self.sessions
        credential = sessions.claims.credential(client_id)
        lifetime_ms = self.limits.interval_ms + self.limits.max_interval_ms
        if credential == NOBODYS:
            home = await sessions.store.remove(client_id, Ending.LOGIN_ENDED)
            raise HasEnded(Ending.LOGIN_ENDED, home) if home is not None else self.engine.unknown(message)
        match channel:
            case channels.SUBSCRIBE:
                return await self._subscribe(message, client_id, user, response)
            case channels.UNSUBSCRIBE:
                names = self.engine.unsubscribe(message, client_id)
                changed = await sessions.store.unsubscribe(
                    client_id, names, lifetime_ms=lifetime_ms, credential=credential
                )
                if changed is None:
                    raise self.engine.unknown(message)
                await sessions.sync.changed(client_id, changed, removed=names)
            case channels.DISCONNECT:
                # No check of the credential: with a changed one the session has to end as well.
                home = await sessions.store.remove(client_id, Ending.DISCONNECTED)
                if home is None:
                    raise self.engine.unknown(message)
                sessions.endings.disconnected(client_id, home)
            case _:
                reply = self.engine.publish(channel, message, user)
                if not await sessions.store.touch(client_id, lifetime_ms=lifetime_ms, credential=credential):
                    raise self.engine.unknown(message)
                return reply
        return self.engine.done(message, client_id)

    async def _subscribe(self, message: Message, client_id: str, user: UserId, response: BayeuxResponse) -> Reply:
        wish = self.engine.subscribe(message, client_id, user)
        sessions, limits = self.sessions, self.limits
        watched_since_ms = await sessions.watches.begin(user, wish.channels)
        try:
            check_watched(wish.channels, watched_since_ms)
            changed = await sessions.store.subscribe(
                client_id,
                wish.channels,
                lifetime_ms=limits.interval_ms + limits.max_interval_ms,
                most=limits.max_subscriptions,
                replays=wish.replays,
                credential=sessions.claims.credential(client_id),
            )
        except TooManySubscriptions:
            sessions.metrics.limited(BayeuxLimit.SUBSCRIPTIONS)
            error = errors.too_many_subscriptions(limits.max_subscriptions)
            raise self.engine.not_subscribed(message, client_id, error) from None
        except NotKept as lost:
            raise self.engine.not_subscribed(message, client_id, invalid_replay(lost.position)) from None
        if changed is None:
            raise self.engine.unknown(message)
        past = {name: since for name, since in wish.channels.items() if since is not None}
        await sessions.sync.changed(client_id, changed, past=past, replays=wish.replays)
        reply = self.engine.done(message, client_id)
        if wish.snapshot:
            # Read after the session is subscribed: a change is in the snapshot, or comes as an event, or both.
            taken = sum(map(len, response.events))
            snapshot = None if self.snapshots is None else await self.snapshots.of(user, wish.channels, taken)
            response.events += snapshot or []
            reply["ext"] = {"calltag": {"snapshot": snapshot is not None}}
        return reply

    # -- other nodes ---------------------------------------------------------------------------------------------------

    async def handle_notice(self, notice: SessionNotice) -> None:
        """Handle a notice of another node about a session. Raises StoreUnavailable."""
        sessions = self.sessions
        match notice.kind:
            case NoticeKind.CHANGED:
                async with sessions.turn(notice.client_id):
                    await sessions.sync.reload(notice.client_id)
            case NoticeKind.ENDED:
                sessions.endings.end(notice.client_id)
            case NoticeKind.CLOSED:
                await sessions.endings.close(notice.user, notice.digest)
            case NoticeKind.FLUSH:
                await sessions.flush(notice)
            case NoticeKind.LOGIN_ENDED:
                sessions.endings.login_ended(notice.user, notice.digest)

    def drain(self) -> None:
        """Spread the answers to suspended connects over the drain timeout."""
        self.sessions.replies.drain()
