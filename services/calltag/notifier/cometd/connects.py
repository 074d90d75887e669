"""Connects: a session is held by the node to which its last /meta/connect came.

Source of when a connect is held: Bayeux protocol 1.0 and CometD's own server.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

import structlog

from calltag.core.bayeux.codec import Message, Reply, encode_reply
from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.engine import CALLBACK_POLLING, LONG_POLLING, WEBSOCKET, Engine
from calltag.core.bayeux.extensions.delivery import delivers_with_connects_only
from calltag.core.bayeux.extensions.interface import ConnectWish
from calltag.core.bayeux.position import Position
from calltag.core.bayeux.session import Held, Session
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.runtime.backoff import backoff_s
from calltag.core.store.cometd_sessions import (
    Activity,
    Attached,
    HasEnded,
    Have,
    NotProven,
    Proof,
    RedisCometdSessions,
    SessionRecord,
    is_bearer,
    user_of,
)
from calltag.core.store.ports import StoreUnavailable
from calltag.core.wire.messages import NoticeKind, SessionNotice
from calltag.notifier.cometd.admission import Admission
from calltag.notifier.cometd.claim import Claim
from calltag.notifier.cometd.clocks import latency_s, monotonic_ms, wall_ms
from calltag.notifier.cometd.endings import SessionListener
from calltag.notifier.cometd.ends import Ends, Post
from calltag.notifier.cometd.feeding import Feeding
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.metrics import HubMetrics
from calltag.notifier.cometd.residence import Residence
from calltag.notifier.cometd.side_tasks import SideTasks
from calltag.notifier.cometd.watching import Watching

log = structlog.get_logger()
Answer = tuple[list[bytes], Reply]
"""Events, and the reply to the connect that they go with."""
_SOCKET_CLOSES_MS: Final = 2_000
"""While its client waits so long, a WebSocket is closed, and nothing is under way on it."""


class Gone(Exception):
    """The client of a held connect has gone away."""


@dataclass(frozen=True, slots=True)
class HeldConnect:
    """A connect that waits, with all that its reply needs."""

    session: Session
    held: Held
    message: Message
    arrived_ms: int


class Replaced(Exception):
    """A newer connect of the session has come meanwhile."""

    def __init__(self, connect: HeldConnect) -> None:
        super().__init__()
        self.connect = connect


def _transport(message: Message, *, streaming: bool) -> str:
    if streaming:
        return WEBSOCKET
    return CALLBACK_POLLING if message.get("connectionType") == CALLBACK_POLLING else LONG_POLLING


def _end_of(session: Session) -> Ending | None:
    """How the session of a connect that has just come has ended since, if it has.

    One that was only silent here for too long has not: in the store, where the connect was first, it lives.
    """
    return None if session.ending is Ending.EXPIRED else session.ending


@dataclass(slots=True)
class Connects:
    """The sessions that this node holds, and their connects."""

    node: NodeId
    engine: Engine
    store: RedisCometdSessions
    local: Local
    feeding: Feeding
    residence: Residence
    watching: Watching
    post: Post
    metrics: HubMetrics
    side_tasks: SideTasks
    credential_of: Callable[[UserId], str]
    """With what a user logs in now, in the form in which sessions keep it."""
    clock_ms: Callable[[], int] = monotonic_ms
    draining: bool = False
    admission: Admission = field(init=False)
    ends: Ends = field(init=False)
    listeners: Sequence[SessionListener] = ()
    connects_only: Sequence[str] = (LONG_POLLING,)
    """The transports (of the engine's names) whose sessions get events with connect replies only, unless they wish
    otherwise."""
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _saves: WeakValueDictionary[str, asyncio.Task[None]] = field(default_factory=WeakValueDictionary)

    def __post_init__(self) -> None:
        self.admission = Admission(self.engine.limits, self.local, self.metrics, self.clock_ms)
        self.ends = Ends(
            self.node, self.engine, self.store, self.local, self.residence, self.admission, self.post, self.metrics,
            self.side_tasks, self.clock_ms, self.listeners,
        )  # fmt: skip

    async def connect(
        self, message: Message, client_id: str, claim: Claim, *, streaming: bool, alone: bool
    ) -> Answer | HeldConnect:
        """Hold the connect, unless it is the first one, not alone, in a hurry, or there is something to tell.

        Raises Fault, HasLeft, Replaced, Crowded, StoreUnavailable.
        """
        arrived_ms = wall_ms()
        wish = self.engine.connect(message, client_id)
        # The store answers in order, and so must what is done with the answers.
        async with self.turn(client_id), self.residence.arrival(str(user_of(client_id))):
            try:
                with self.admission.arrival(client_id, claim.address):
                    local = self.local.sessions.get(client_id)
                    with local.asking() if local is not None else nullcontext():
                        attached, have = await self._attach(message, client_id, wish, claim, local)
                    if local is not None and not self.local.holds(local):
                        # It was let go meanwhile, with all that waited in it.
                        attached, have = await self._attach(message, client_id, wish, claim, None)
                    session = self._here(attached, have, streaming=streaming)
            except HasEnded as over:
                return self._over(message, client_id, over, arrived_ms)
            await self.feeding.catch_up(session)
        held = Held(attached.record.cycle, self.engine.connected(message, client_id), self.clock_ms() + wish.timeout_ms)
        connect = HeldConnect(session, held, message, arrived_ms)
        ending = _end_of(session)
        if ending is not None:
            return self._ended(connect, ending)
        if not self.local.holds(session) or session.cycle != held.cycle:
            raise Replaced(connect)
        session.interval_ms = wish.interval_ms
        session.transport = _transport(message, streaming=streaming)
        self.local.expire_at(session, self.clock_ms() + self._lifetime_ms(wish))
        tells = session.has_news and not session.pushes
        leaves = self.draining and not streaming
        if session.cycle == 1 or not alone or wish.timeout_ms == 0 or tells or leaves:
            return self._answer(connect)
        session.held = held
        return connect

    async def _attach(
        self, message: Message, client_id: str, wish: ConnectWish, claim: Claim, local: Session | None
    ) -> tuple[Attached, Have | None]:
        have = self._have(local) if local is not None else None
        longest_ms = wish.longest_inactivity_ms
        activity = Activity(longest_ms, wish.deliveries_are_activity) if longest_ms is not None else None

        async def attach(proof: Proof) -> Attached | None:
            return await self.store.attach(
                client_id,
                proof,
                lifetime_ms=self._lifetime_ms(wish),
                most=self.feeding.page,
                acknowledged=wish.acknowledged,
                again=wish.again,
                have=have,
                activity=activity,
                alone_ms=self._alone_ms(wish.timeout_ms + wish.interval_ms),
                credential=self.credential(client_id),
            )

        if claim.login:
            # Where the login is the session's own, one round trip looks at both.
            looking = claim.caller()
            try:
                attached = await attach(Proof(False, claim.login))
            except NotProven:
                await looking
                self.prove(message, client_id, claim)
                attached = await attach(Proof(True, claim.login))
            else:
                if attached is not None and (await looking).user is None:
                    # What was this session's login proves nobody any more.
                    await self.store.remove(client_id)
                    self.residence.leave(attached.record.user)
                    raise HasEnded(Ending.LOGIN_ENDED, attached.former)
                await looking
                self.prove(message, client_id, claim)
        else:
            await claim.caller()
            self.prove(message, client_id, claim)
            attached = await attach(Proof(True))
        if attached is None:
            raise self.engine.unknown(message)
        if attached.former != self.node:
            notice = SessionNotice(kind=NoticeKind.MOVED, client_id=client_id, cycle=attached.record.cycle)
            self.side_tasks.begin(self.post.tell(attached.former, notice))
            self.metrics.resumed()
        return attached, have

    def turn(self, client_id: str) -> asyncio.Lock:
        """What is done with a session here is done one after another."""
        return self._turns.setdefault(client_id, asyncio.Lock())

    def prove(self, message: Message, client_id: str, claim: Claim) -> None:
        """Whether the caller, who was looked at, is the session's user. Raises Fault."""
        caller = claim.caller().result()
        if caller.user != user_of(client_id) and not (caller.user is None and is_bearer(client_id)):
            raise self.engine.unknown(message)

    def credential(self, client_id: str) -> str:
        """With what the session must have begun to go on; "" where each request proves its user by itself."""
        user = user_of(client_id)
        return self.credential_of(user) if user is not None and is_bearer(client_id) else ""

    def _here(self, attached: Attached, have: Have | None, *, streaming: bool) -> Session:
        """The session as it is held here from now on."""
        record = attached.record
        session = self.local.sessions.get(record.client_id)
        if session is None:
            session = Session(
                record.client_id, record.user, record.cycle, record.generation, attached.after,
                min(record.sent, attached.after),
                acknowledges=record.acknowledges,
            )  # fmt: skip
            self.local.add(session, attached.after)
        elif have is None or attached.after != have.position or not self._held_until_now(attached, have):
            # Another node that held the session meanwhile may have sent what waits here.
            session.restart(attached.after)
        elif not session.queue:
            # What was read goes on from where the session is.
            session.behind = False
        session.cycle = record.cycle
        session.streaming = streaming
        session.sent_before = record.sent
        session.held = None
        self.local.dismiss(session)
        self._take_in(session, attached)
        session.behind = session.behind or self.residence.has_overlooked(session.user)
        return session

    def _held_until_now(self, attached: Attached, have: Have) -> bool:
        return attached.former == self.node and attached.record.cycle == have.cycle + 1

    def _take_in(self, session: Session, attached: Attached) -> None:
        record: SessionRecord = attached.record
        session.generation = record.generation
        session.subscriptions = record.subscriptions
        session.numbered = record.options.get("numbered") == "1"
        self.watching.stay(session.user, session.subscriptions)
        usual = (WEBSOCKET if session.streaming else LONG_POLLING) in self.connects_only
        session.connects_only = delivers_with_connects_only(record.options, usual=usual)
        self.feeding.take_in(session, attached.entries)

    async def look_again(self, client_id: str) -> None:
        """Subscriptions of a session that is held here changed.

        Where the store does not say how, the session takes nothing until it does.
        """
        try:
            await self._look(client_id)
        except StoreUnavailable as error:
            session = self.local.sessions.get(client_id)
            if session is not None and not session.asked:
                log.info("subscriptions_not_known", reason=str(error))
                session.asked = True
                self.side_tasks.begin(self._look_until_known(session))

    async def _look_until_known(self, session: Session) -> None:
        delays = backoff_s(0.1, 2.0)
        while session.asked and self.local.holds(session):
            await asyncio.sleep(next(delays))
            with suppress(StoreUnavailable):
                await self._look(session.client_id)

    async def _look(self, client_id: str) -> None:
        async with self.turn(client_id):
            session = self.local.sessions.get(client_id)
            if session is None:
                return
            have = self._have(session)
            try:
                with session.asking():
                    attached = await self.store.look_again(client_id, most=self.feeding.page, have=have)
            except HasEnded as over:
                self.ends.has_ended(client_id, over)
                return
            if attached is None or not self.local.holds(session):
                return
            if attached.after != have.position:
                session.restart(attached.after)
            self._take_in(session, attached)
            await self.feeding.catch_up(session)
        if session.has_news:
            self.local.wake([session])

    # -- answers -------------------------------------------------------------------------------------------------

    def _answer(self, connect: HeldConnect) -> Answer:
        """All that waits, and the reply; the store is told what was sent."""
        session = connect.session
        events = self.take(session)
        session.answered = session.sent
        reply = self.engine.answered(session, connect.held.reply)
        if self.draining:
            # The session lives on for as long as its client is asked to wait.
            session.interval_ms = self._leave_ms(session)
            reply = reply | {"advice": self.engine.advice("retry", session.interval_ms)}
        self._expire_soon(session)
        saving = self.side_tasks.begin(self._save(session, session.cycle, session.generation, session.sent))
        if events and not session.acknowledges:
            self._saves[session.client_id] = saving
        return events, self.engine.extend(connect.message, reply, connect.arrived_ms, wall_ms())

    def _leave_ms(self, session: Session) -> int:
        """How long a client waits before it connects to another node. WebSockets are spread by when they close."""
        spread_ms = self.engine.limits.drain_spread_ms
        return _SOCKET_CLOSES_MS if session.streaming else random.randint(0, spread_ms)  # noqa: S311 - spreads load

    def take(self, session: Session) -> list[bytes]:
        """All that waits in the session, for its client."""
        now_ms, repeated = wall_ms(), 0
        for each in session.queue:
            if session.repeats(each):
                repeated += 1
            elif each.accepted_at_ms:
                self.metrics.handed_over(latency_s(each.accepted_at_ms, now_ms))
        if repeated:
            self.metrics.redelivered(repeated)
        events = session.take()
        if events:
            session.told_at_ms = self.clock_ms()
        return events

    async def _save(self, session: Session, cycle: int, generation: int, sent: Position) -> None:
        await self.store.save(
            session.client_id,
            cycle=cycle,
            generation=generation,
            sent=sent,
            lifetime_ms=session.interval_ms + self.engine.limits.max_interval_ms,
            told_ago_ms=self._told_ago_ms(session),
            alone_ms=self._alone_ms(session.interval_ms),
        )

    def _have(self, session: Session) -> Have:
        return Have(
            session.cycle, session.position, session.sent, self._told_ago_ms(session), session.generation,
            session.answered,
        )  # fmt: skip

    def _told_ago_ms(self, session: Session) -> int | None:
        return None if session.told_at_ms is None else self.clock_ms() - session.told_at_ms

    def _alone_ms(self, before_ms: int) -> int | None:
        """For how long other messages may keep a session alive; `before_ms` is when its next connect is expected."""
        most = self.engine.limits.max_server_interval_ms
        return None if most is None else before_ms + most

    async def saved(self, client_id: str) -> None:
        """Wait until the store knows which events were taken for the last answer (or is away).

        Before, the answer is not to go out: the client's next connect may come to another node, which would send them
        again. Clients that acknowledge tell that node themselves what they have.
        """
        saving = self._saves.get(client_id)
        if saving is not None:
            await asyncio.wait({saving})

    async def hold(self, connect: HeldConnect, gone: asyncio.Future[None] | None = None) -> Answer | None:
        """Wait until a held connect is to be answered; None if a newer one took its place.

        Where the client is `gone` before, what is queued stays queued. Raises Gone.
        """
        waker = asyncio.Event()
        self.local.adopt_waker(connect.session, waker)
        if gone is not None:
            gone.add_done_callback(lambda _: waker.set())
        timer: asyncio.TimerHandle | None = None
        try:
            while not self.is_due(connect):
                if gone is not None and gone.done():
                    self.abandon(connect)
                    raise Gone
                left_s = max(0, connect.held.deadline_ms - self.clock_ms()) / 1000
                timer = asyncio.get_running_loop().call_later(left_s, waker.set)
                await waker.wait()
                timer.cancel()
                waker.clear()
        finally:
            if timer is not None:
                timer.cancel()
            self.local.release_waker(connect.session, waker)
        return self.finish(connect)

    def is_due(self, connect: HeldConnect) -> bool:
        """Whether a held connect is to be answered now."""
        session = connect.session
        return (
            session.held is not connect.held
            or session.ended
            or (self.draining and not session.streaming)
            or not self.local.holds(session)
            or connect.held.deadline_ms <= self.clock_ms()
            or (session.has_news and not session.pushes)
        )

    def finish(self, connect: HeldConnect) -> Answer | None:
        """The answer to a connect that was held; None if a newer one took its place."""
        session = connect.session
        if session.ending is not None:
            return self._ended(connect, session.ending)
        if session.held is not connect.held or not self.local.holds(session):
            return None
        session.held = None
        return self._answer(connect)

    def overtaken(self, connect: HeldConnect) -> Reply:
        """The answer to a connect that was replaced, and whose client is here all the same: it is to connect again.

        To a client that does not acknowledge, the connect has failed: so it says with the next one that it may lack
        what was sent last.
        """
        told = connect.held.reply if connect.session.acknowledges else self.engine.replaced(connect.message)
        return self._without_events(connect, told)

    def superseded(self, connect: HeldConnect) -> Answer:
        """The answer to a connect after which its client has sent another one on the same connection.

        It says nothing of events: the latest one counts, for the client as well. The official one passes over replies
        to others, but for their advice.
        """
        ending = _end_of(connect.session)
        if ending is not None:
            return self._ended(connect, ending)
        return [], self._without_events(connect, connect.held.reply)

    def _without_events(self, connect: HeldConnect, reply: Reply) -> Reply:
        if self.draining:
            reply = reply | {"advice": self.engine.advice("retry", _SOCKET_CLOSES_MS)}
        return self.engine.extend(connect.message, reply, connect.arrived_ms, wall_ms())

    def abandon(self, connect: HeldConnect) -> None:
        """The client of a held connect has gone away: what waits goes on waiting."""
        session = connect.session
        if session.held is connect.held:
            session.held = None
            self._expire_soon(session)

    def _over(self, message: Message, client_id: str, over: HasEnded, arrived_ms: int) -> Answer:
        """The answer to a connect that came too late. Raises Fault."""
        self.ends.has_ended(client_id, over)
        if over.ending is Ending.LOGIN_ENDED:
            raise self.engine.unknown(message)
        reply = self.engine.ended(self.engine.connected(message, client_id))
        events = [encode_reply(self.engine.disconnected())]
        return events, self.engine.extend(message, reply, arrived_ms, wall_ms())

    def _ended(self, connect: HeldConnect, ending: Ending) -> Answer:
        """The answer to a connect whose session has ended since it came."""
        reply = self.engine.ended(connect.held.reply)
        if ending is Ending.LOGIN_ENDED:
            reply = self.engine.unknown(connect.message).reply
        reply = self.engine.extend(connect.message, reply, connect.arrived_ms, wall_ms())
        return self.ends.bid_farewell(connect.session), reply

    def _expire_soon(self, session: Session) -> None:
        after_ms = session.interval_ms + self.engine.limits.max_interval_ms
        self.local.expire_at(session, self.clock_ms() + after_ms)

    def _lifetime_ms(self, wish: ConnectWish) -> int:
        return wish.timeout_ms + wish.interval_ms + self.engine.limits.max_interval_ms
