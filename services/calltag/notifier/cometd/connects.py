"""Connects: a session is held by the node to which its last /meta/connect came.

Source of when a connect is held: Bayeux protocol 1.0 and CometD's own server.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from calltag.core.bayeux.answer_budget import AnswerBudget
from calltag.core.bayeux.codec import Message
from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.engine import CALLBACK_POLLING, LONG_POLLING, WEBSOCKET, Engine
from calltag.core.bayeux.events import Event
from calltag.core.bayeux.extensions.delivery import delivers_with_connects_only
from calltag.core.bayeux.extensions.interface import ConnectWish
from calltag.core.bayeux.session import Held, QueueMemory, Session
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.runtime.backoff import backoff_s
from calltag.core.store.client_ids import is_bearer, user_of
from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.session_records import Activity, Attached, HasEnded, Have, NotProven, Proof, SessionRecord
from calltag.core.telemetry.conditions import Condition
from calltag.core.wire.messages import NoticeKind, SessionNotice
from calltag.notifier.cometd.admission import Admission
from calltag.notifier.cometd.answers import Answer, Answers, HeldConnect, end_of
from calltag.notifier.cometd.claim import Claim
from calltag.notifier.cometd.clocks import monotonic_ms, wall_ms
from calltag.notifier.cometd.endings import SessionListener
from calltag.notifier.cometd.ends import Ends, Post
from calltag.notifier.cometd.feeding import Feeding
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.metrics import HubMetrics
from calltag.notifier.cometd.residence import Residence
from calltag.notifier.cometd.side_tasks import SideTasks
from calltag.notifier.cometd.watching import Watching

_UNKNOWN: Final = Condition("subscriptions_not_known", level="info")


class Replaced(Exception):
    """A newer connect of the session has come meanwhile."""

    def __init__(self, connect: HeldConnect) -> None:
        super().__init__()
        self.connect = connect


def _transport(message: Message, *, streaming: bool) -> str:
    if streaming:
        return WEBSOCKET
    return CALLBACK_POLLING if message.get("connectionType") == CALLBACK_POLLING else LONG_POLLING


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
    admission: Admission = field(init=False)
    ends: Ends = field(init=False)
    answers: Answers = field(init=False)
    queue_memory: QueueMemory = field(init=False)
    listeners: Sequence[SessionListener] = ()
    connects_only: Sequence[str] = (LONG_POLLING,)
    """The transports (of the engine's names) whose sessions get events with connect replies only, unless they wish
    otherwise."""
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def __post_init__(self) -> None:
        self.queue_memory = QueueMemory(self.engine.limits.max_queued_bytes_total)
        self.admission = Admission(self.engine.limits, self.local, self.metrics, self.clock_ms)
        self.ends = Ends(
            self.node, self.engine, self.store, self.local, self.residence, self.admission, self.post, self.metrics,
            self.side_tasks, self.clock_ms, self.listeners,
        )  # fmt: skip
        self.answers = Answers(
            self.engine, self.store, self.local, self.ends, self.metrics, self.side_tasks, self.clock_ms
        )

    async def connect(
        self,
        message: Message,
        client_id: str,
        claim: Claim,
        budget: AnswerBudget,
        *,
        streaming: bool,
        alone: bool,
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
                    with self._reconnecting(local) if local is not None else nullcontext():
                        attached, have = await self._attach(message, client_id, wish, claim, local)
                    if local is not None and not self.local.holds(local):
                        # It was let go meanwhile, with all that waited in it.
                        attached, have = await self._attach(message, client_id, wish, claim, None)
                    session = self._here(attached, have, streaming=streaming)
            except HasEnded as over:
                return self.answers.too_late(message, client_id, over, arrived_ms)
            await self.feeding.catch_up(session)
        held = Held(attached.record.cycle, self.engine.connected(message, client_id), self.clock_ms() + wish.timeout_ms)
        connect = HeldConnect(session, held, self.engine.kept(message), arrived_ms, budget)
        ending = end_of(session)
        if ending is not None:
            return self.answers.ended(connect, ending)
        if not self.local.holds(session) or session.cycle != held.cycle:
            raise Replaced(connect)
        session.interval_ms = wish.interval_ms
        session.transport = _transport(message, streaming=streaming)
        self.local.expire_at(session, self.clock_ms() + self._lifetime_ms(wish))
        tells = session.has_news and not session.pushes
        leaves = self.answers.draining and not streaming
        if session.cycle == 1 or not alone or wish.timeout_ms == 0 or tells or leaves:
            return self.answers.answer(connect)
        session.held = held
        return connect

    @contextmanager
    def _reconnecting(self, session: Session) -> Iterator[None]:
        try:
            with session.reconnected():
                yield
        finally:
            # If this connect failed, the held one is answered with what came meanwhile.
            self.local.wake([session])

    async def _attach(
        self, message: Message, client_id: str, wish: ConnectWish, claim: Claim, local: Session | None
    ) -> tuple[Attached, Have | None]:
        have = self.answers.have(local) if local is not None else None
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
                alone_ms=self.answers.alone_ms(wish.timeout_ms + wish.interval_ms),
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
                acknowledges=record.acknowledges, memory=self.queue_memory,
            )  # fmt: skip
            self.local.add(session, attached.after)
        elif have is None or attached.after != have.position or not self._held_until_now(attached, have):
            # Another node that held the session meanwhile may have sent what waits here.
            session.restart(attached.after)
        elif not session.queue:
            # What was read goes on from where the session is.
            session.behind = False
        if attached.former != self.node:
            session.take_over_services(active=record.services_active)
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
        self.feeding.take_in(session, attached.entries, has_more=attached.has_more)

    async def look_again(self, client_id: str) -> None:
        """Subscriptions of a session that is held here changed.

        Where the store does not say how, the session takes nothing until it does.
        """
        try:
            await self._look(client_id)
        except StoreUnavailable as error:
            session = self.local.sessions.get(client_id)
            if session is not None and not session.asked:
                _UNKNOWN.fails(error)
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
            have = self.answers.have(session)
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

    def tell_services(self, event: Event, *, active: bool) -> None:
        """Tell the sessions here the state of the services, where it is news to them. The store is to know: the client
        may be told of the next change by another node."""
        for session in self.feeding.tell_services(event, active=active):
            self.side_tasks.begin(self.store.note_services(session.client_id, active=active))

    def _lifetime_ms(self, wish: ConnectWish) -> int:
        return wish.timeout_ms + wish.interval_ms + self.engine.limits.max_interval_ms
