"""The hub: the requests of CometD clients, whichever transport they come by.

A session belongs to no node: every message may come to any, and costs one round trip to the store.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bayeux import channels, errors
from calltag.core.bayeux.answer_budget import AnswerBudget
from calltag.core.bayeux.codec import CodecError, Message, Reply
from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.engine import Engine, Fault, handshake_in
from calltag.core.bayeux.extensions.interface import Beginning
from calltag.core.bayeux.extensions.replay import invalid
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.identity.model import NOBODYS
from calltag.core.store.client_ids import is_bearer, new_client_id, user_of
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.session_records import HasEnded, HasLeft, NotKept, TooManySessions, TooManySubscriptions
from calltag.core.wire.messages import NoticeKind, SessionNotice
from calltag.notifier.cometd.admission import Crowded, come_back_ms
from calltag.notifier.cometd.answers import HeldConnect
from calltag.notifier.cometd.claim import Claim
from calltag.notifier.cometd.clocks import wall_ms
from calltag.notifier.cometd.connects import Connects, Replaced
from calltag.notifier.cometd.metrics import Limit
from calltag.notifier.cometd.sockets import Sockets
from calltag.notifier.cometd.watching import check_watched

_SWEEP_S: Final = 1.0
_MESSAGES_A_TURN: Final = 16
"""After so many messages of one request others have their turn: some are refused without any wait."""


@dataclass(slots=True)
class Turn:
    """What follows from one request: `events`, then `replies` in order; `held` is a connect whose reply has to wait.

    `replaced` are connects in the request of which newer ones took the place, and which the transport is to answer.
    `budget` is what the answer may carry.
    """

    budget: AnswerBudget
    events: list[bytes] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    held: HeldConnect | None = None
    replaced: list[HeldConnect] = field(default_factory=list)
    connected: str = ""
    """The session whose connect was answered or is held."""
    spoke: dict[str, None] = field(default_factory=dict)
    """The sessions that sent something else."""


@dataclass(slots=True)
class Hub:
    """The CometD side of one notifier."""

    connects: Connects
    sockets: Sockets = field(default_factory=Sockets)
    reachable: bool = False
    """Whether events can come to this node."""
    bearer_lifetime_ms: int | None = None
    """How long a session lives at most that needs no login but its own handshake."""
    parting_s: float = 1.0
    """How long a connect waits for its refusal whose client has disconnected while it was on its way: the official
    client takes back the disconnect, and calls it failed, when a connect fails before that was answered."""

    @property
    def engine(self) -> Engine:
        return self.connects.engine

    @property
    def limits(self) -> BayeuxLimits:
        return self.connects.engine.limits

    @property
    def draining(self) -> bool:
        return self.connects.answers.draining

    async def exchange(
        self,
        messages: Sequence[object],
        claim: Claim,
        budget: AnswerBudget | None = None,
        *,
        streaming: bool = False,
    ) -> Turn:
        """Work through one request. A handshake goes alone: whatever came with it is ignored.

        `budget` is what the answer may carry beside the replies.
        Raises StoreUnavailable, and Crowded where a session cannot come here.
        """
        self.connects.metrics.received(len(messages))
        handshake = handshake_in(messages)
        turn, alone = Turn(budget or self.connects.answers.budget()), len(messages) == 1
        for number, message in enumerate(messages if handshake is None else [handshake], 1):
            if number % _MESSAGES_A_TURN == 0:
                await asyncio.sleep(0)
            arrived_ms = wall_ms()
            try:
                reply = await self._carry_out(message, claim, turn, streaming=streaming, alone=alone)
            except Fault as fault:
                self.connects.metrics.refused(str(fault.reply.get("error")))
                reply = fault.reply
            except Replaced as replaced:
                if streaming or alone:
                    turn.replaced.append(replaced.connect)
                    continue
                # Its neighbours have their replies in the same answer.
                reply = self.engine.replaced(replaced.connect.message)
            if reply is not None:
                known = message if isinstance(message, dict) else {}
                turn.replies.append(self.engine.extend(known, reply, arrived_ms, wall_ms()))
        return turn

    async def _carry_out(
        self, given: object, claim: Claim, turn: Turn, *, streaming: bool, alone: bool
    ) -> Reply | None:
        """The reply to one message, if it is not on the turn already.

        Raises Fault, Replaced, Crowded, StoreUnavailable.
        """
        channel, message = self.engine.channel_of(given)
        if channel == channels.HANDSHAKE:
            return await self._handshake(message, claim)
        client_id = message.get("clientId")
        user = user_of(client_id) if isinstance(client_id, str) else None
        if user is None or not isinstance(client_id, str):
            raise self.engine.unknown(message)
        if channel == channels.CONNECT:
            await self._connect(message, client_id, claim, turn, streaming=streaming, alone=alone)
            return None
        await claim.caller()
        self.connects.prove(message, client_id, claim)
        turn.spoke[client_id] = None
        try:
            return await self._of_session(channel, message, client_id, user)
        except HasEnded as over:
            self.connects.ends.has_ended(client_id, over)
            raise self.engine.unknown(message) from None

    async def _of_session(self, channel: str, message: Message, client_id: str, user: UserId) -> Reply:
        """The reply to a message of the session's own user that is no connect.

        Raises Fault, HasEnded, StoreUnavailable.
        """
        store, credential = self.connects.store, self.connects.credential(client_id)
        lifetime_ms = self.limits.interval_ms + self.limits.max_interval_ms
        if credential == NOBODYS:
            holder = await store.remove(client_id)
            raise HasEnded(Ending.LOGIN_ENDED, holder) if holder is not None else self.engine.unknown(message)
        match channel:
            case channels.SUBSCRIBE:
                await self._subscribe(message, client_id, user)
            case channels.UNSUBSCRIBE:
                names = self.engine.unsubscribe(message, client_id)
                holder = await store.unsubscribe(client_id, names, lifetime_ms=lifetime_ms, credential=credential)
                await self._changed(message, client_id, holder)
            case channels.DISCONNECT:
                # It ends in any case.
                await self._disconnect(message, client_id)
            case _:
                reply = self.engine.publish(channel, message, user)
                if not await store.touch(client_id, lifetime_ms=lifetime_ms, credential=credential):
                    raise self.engine.unknown(message)
                return reply
        return self.engine.done(message, client_id)

    async def _connect(
        self, message: Message, client_id: str, claim: Claim, turn: Turn, *, streaming: bool, alone: bool
    ) -> None:
        try:
            outcome = await self.connects.connect(
                message, client_id, claim, turn.budget, streaming=streaming, alone=alone
            )
        except HasLeft:
            if not streaming:
                # What comes on one WebSocket is answered in order.
                await asyncio.sleep(self.parting_s)
            raise self.engine.unknown(message) from None
        turn.connected = client_id
        if isinstance(outcome, HeldConnect):
            turn.held = outcome
        else:
            events, reply = outcome
            turn.events += events
            turn.replies.append(reply)

    async def _handshake(self, message: Message, claim: Claim) -> Reply:
        # First what costs nothing: to prove a caller takes a look into the store, or much computing. Who shows nothing
        # is refused without either, and takes nothing of the rates of others.
        # While this node drains, a session begins all the same: it is for the other nodes to hold.
        if not self.reachable:
            raise self.engine.busy(message, errors.UNAVAILABLE, come_back_ms())
        admission = self.connects.admission
        try:
            if claim.shows_credentials:
                admission.handshake(claim.address)
            caller = await claim.caller()
            refusal = errors.SESSION_OVER if caller.session_over else errors.UNAUTHORIZED
            beginning = self.engine.handshake(message, caller.user, refusal)
            client_id = new_client_id(UserId(caller.user or ""), bearer=caller.bearer)
            admission.begin(client_id, claim.address)
            await self._create(client_id, beginning, claim)
        except Crowded as crowded:
            raise self.engine.busy(message, crowded.error, come_back_ms()) from None
        self.connects.metrics.begun()
        return self.engine.begun(message, client_id, beginning)

    async def _create(self, client_id: str, beginning: Beginning, claim: Claim) -> None:
        """Raises Crowded, StoreUnavailable."""
        limits, created = self.limits, False
        try:
            await self.connects.store.create(
                client_id,
                acknowledges=beginning.acknowledges,
                options=beginning.options,
                login=claim.login,
                lifetime_ms=limits.timeout_ms + limits.max_interval_ms,
                most_of_user=limits.max_sessions_per_user,
                ends_in_ms=self.bearer_lifetime_ms if is_bearer(client_id) else None,
                credential=self.connects.credential(client_id),
            )
            created = True
        except TooManySessions as error:
            self.connects.metrics.limited(Limit.SESSIONS_OF_USER)
            raise Crowded(str(error), errors.too_many_sessions(limits.max_sessions_per_user)) from None
        except StoreUnavailable:
            # Perhaps it was created: it would count for its user until it expires.
            self.connects.side_tasks.begin(self._forget(client_id))
            raise
        finally:
            if not created:
                self.connects.admission.release(client_id)

    async def _forget(self, client_id: str) -> None:
        await self.connects.store.remove(client_id)

    async def _subscribe(self, message: Message, client_id: str, user: str) -> None:
        wish = self.engine.subscribe(message, client_id, user)
        limits = self.limits
        watched_since_ms = await self.connects.watching.begin(user, wish.channels)
        try:
            check_watched(wish.channels, watched_since_ms)
            holder = await self.connects.store.subscribe(
                client_id,
                wish.channels,
                lifetime_ms=limits.interval_ms + limits.max_interval_ms,
                most=limits.max_subscriptions,
                credential=self.connects.credential(client_id),
            )
        except TooManySubscriptions:
            self.connects.metrics.limited(Limit.SUBSCRIPTIONS)
            error = errors.too_many_subscriptions(limits.max_subscriptions)
            raise self.engine.not_subscribed(message, client_id, error) from None
        except NotKept as lost:
            raise self.engine.not_subscribed(message, client_id, invalid(lost.position)) from None
        await self._changed(message, client_id, holder)

    async def _changed(self, message: Message, client_id: str, holder: NodeId | None) -> None:
        """Subscriptions changed in the store: whoever holds the session is to see it."""
        if holder is None:
            raise self.engine.unknown(message)
        if holder == self.connects.node:
            await self.connects.look_again(client_id)
        else:
            notice = SessionNotice(kind=NoticeKind.CHANGED, client_id=client_id)
            self.connects.side_tasks.begin(self.connects.post.tell(holder, notice))

    async def _disconnect(self, message: Message, client_id: str) -> None:
        holder = await self.connects.store.remove(client_id, left=True)
        if holder is None:
            raise self.engine.unknown(message)
        self.connects.ends.disconnected(client_id)
        if holder != self.connects.node:
            notice = SessionNotice(kind=NoticeKind.ENDED, client_id=client_id)
            self.connects.side_tasks.begin(self.connects.post.tell(holder, notice))

    def unreadable(self, error: CodecError) -> None:
        """A request could not be read."""
        if error.limit:
            self.connects.metrics.limited(Limit(error.limit))

    async def heed(self, notice: SessionNotice) -> None:
        """Another node changed a session that this node holds, or held. Raises StoreUnavailable."""
        session = self.connects.local.sessions.get(notice.client_id)
        match notice.kind:
            case NoticeKind.CHANGED:
                await self.connects.look_again(notice.client_id)
            case NoticeKind.ENDED:
                self.connects.ends.end(notice.client_id)
            case NoticeKind.CLOSED:
                await self.connects.ends.close(notice.user, notice.digest)
            case NoticeKind.MOVED:
                if session is None:
                    self.connects.admission.release(notice.client_id)
                elif session.cycle < notice.cycle:
                    self.connects.ends.let_go(session)

    async def sweep(self) -> None:
        """Forget silent sessions, for as long as the task runs."""
        while True:
            self.connects.ends.sweep()
            await asyncio.sleep(_SWEEP_S)

    def drain(self) -> None:
        """Answer every held connect, and let every WebSocket close. Sessions that begin are for other nodes to hold."""
        self.connects.answers.draining = True
        self.sockets.drain()
        self.connects.local.wake_all()
