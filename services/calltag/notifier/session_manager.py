"""Sessions and their homes: connects, claims, write-behind, and the end of sessions.

The node in a session's record is its home: it answers connects from memory while its lease is valid, and saves changes
a few times a second. A connect to another node claims the session there.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Final
from weakref import WeakValueDictionary

from calltag.core.bayeux.engine import LONG_POLLING, WEBSOCKET, Engine
from calltag.core.bayeux.events import Position
from calltag.core.bayeux.extensions import Beginning, ConnectWish
from calltag.core.bayeux.session import Connect, Ending, QueueMemory, Session, SessionPhase, Step
from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.process.waiting import backoff_s, set_within
from calltag.core.store.client_ids import is_bearer, user_of
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.sessions import (
    Found,
    HasEnded,
    NewSession,
    SessionRecord,
    SessionStore,
)
from calltag.notifier.authentication import CallerClaim
from calltag.notifier.channel_policy import WatchRenewal
from calltag.notifier.connect_replies import ConnectAnswer, ConnectReplies
from calltag.notifier.event_dispatcher import EventDispatcher
from calltag.notifier.metrics import NotifierMetrics
from calltag.notifier.node_presence import Background, NodeLease, Registrations
from calltag.notifier.session_claims import Claims, Flush
from calltag.notifier.session_endings import SessionEndings
from calltag.notifier.session_registry import (
    Connections,
    ConnectRequest,
    Crowded,
    RequestContext,
    Resident,
    SessionRegistry,
    Suspended,
)
from calltag.notifier.session_sync import SessionSync, alone_ms, resident_of, resubscribe

_ATTEMPTS: Final = 3
_TICK_S: Final = 0.05
"""Maximum delay of a deadline."""
_LONGEST_WAIT_S: Final = 3_600.0
_SETTLED: Final = 3
"""Number of consecutive connects at one node that end roaming."""


@dataclass(frozen=True, slots=True)
class HomeSettings:
    """Settings of homes."""

    save_interval_s: float = 0.25
    roaming_ms: int = 30_000
    """A session that moves again within this time roams."""
    credential_recheck_ms: int = 5_000
    """Time for which a check of credentials is cached."""


class Replaced(Exception):
    """The connect was replaced by a newer one of the session."""

    def __init__(self, request: ConnectRequest) -> None:
        super().__init__()
        self.request = request


@dataclass(slots=True)
class SessionManager:
    """The sessions of one node."""

    node: NodeId
    engine: Engine
    store: SessionStore
    registry: SessionRegistry
    dispatcher: EventDispatcher
    replies: ConnectReplies
    registrations: Registrations
    lease: NodeLease
    claims: Claims
    watches: WatchRenewal
    metrics: NotifierMetrics
    background: Background
    settings: HomeSettings = field(default_factory=HomeSettings)
    connects_only: Sequence[str] = (LONG_POLLING,)
    """Transports whose sessions by default get events with connect replies only."""
    bearer_lifetime_ms: int | None = None
    """Maximum lifetime of a session that was authenticated by its handshake only; None for no limit."""
    queue_memory: QueueMemory = field(init=False)
    connections: Connections = field(default_factory=Connections)
    endings: SessionEndings = field(init=False)
    sync: SessionSync = field(init=False)
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def __post_init__(self) -> None:
        limits = self.engine.limits
        self.queue_memory = QueueMemory(limits.max_queued_bytes_total)
        self.endings = SessionEndings(
            self.node,
            self.engine,
            self.store,
            self.registry,
            self.connections,
            self.registrations,
            self.replies,
            self.claims.post,
            self.metrics,
            self.background,
        )
        self.sync = SessionSync(
            self.node,
            limits,
            self.store,
            self.registry,
            self.dispatcher,
            self.endings,
            self.lease,
            self.background,
            self.settings.save_interval_s,
        )
        self.dispatcher.due = self.due

    # -- connects at home ------------------------------------------------------------------------------------------

    def at_home(self, client_id: str, now_ms: int | None = None, *, is_turn: bool = False) -> Resident | None:
        """Return the session if its connects can be answered from memory: not during a store operation on it, unless
        the caller holds its lock (`is_turn`)."""
        resident = self.registry.residents.get(client_id)
        if resident is None or not self.is_verified(resident, now_ms):
            return None
        return resident if is_turn or client_id not in self._turns else None

    def is_verified(self, resident: Resident, now_ms: int | None = None) -> bool:
        """Return whether this node is certainly the home: the lease excludes a take-over by another node."""
        return self.lease.covers(resident.verified_in, now_ms)

    def connect_at_home(
        self, resident: Resident, request: ConnectRequest, now_ms: int
    ) -> ConnectAnswer | Suspended | None:
        """Handle a connect from memory; return None, without any effect, if that takes Redis."""
        if resident.is_roaming or resident.proof != request.context.proof:
            return None
        if now_ms >= resident.proven_until_ms or self._may_be_over(resident, request.wish, now_ms):
            return None
        session = resident.session
        if session.needs_reading and not session.has_news:
            return None
        connect = self._as_connect(resident, request)
        if connect.again or not session.confirm(connect):
            return None
        self._begin(resident, request, now_ms)
        if session.needs_reading and not session.has_news:
            # `confirm` has rewound the session, and the stream has to be read first.
            suspended = self._suspend(resident, request, now_ms)
            self.background.begin(self._ask_and_answer(suspended, waits=True))
            return suspended
        self.metrics.add(self.metrics.fast_connects)
        return self._answer_or_suspend(resident, request, connect, now_ms)

    def _may_be_over(self, resident: Resident, wish: ConnectWish, now_ms: int) -> bool:
        """Return whether the session may have ended: its lifetime is over, its password changed, or its client seems
        inactive from here. Redis decides."""
        if resident.ends_at_ms is not None and now_ms >= resident.ends_at_ms:
            return True
        if wish.silent_ms is not None:
            delivered_at_ms = resident.delivered_at_ms if wish.deliveries_count else None
            if now_ms - max(resident.active_at_ms, delivered_at_ms or 0) > wish.silent_ms:
                return True
        return resident.is_bearer and self.claims.credential(resident.client_id) != resident.credential

    def _as_connect(self, resident: Resident, request: ConnectRequest) -> Connect:
        """Return the connect as the session sees it. Without acknowledgement the client may lack the last answer if its
        connection broke, or if a single connect on another connection asks for an answer at once, as the official
        client does after a failure."""
        wish, session = request.wish, resident.session
        is_elsewhere = resident.last_connection != request.context.connection_id
        is_retry = is_elsewhere and request.is_retry(
            was_hurried=resident.was_hurried, is_first=not session.has_connected
        )
        again = not session.acknowledges and (resident.is_answer_lost or is_retry)
        return Connect(wish.timeout_ms, wish.acknowledged, again, request.is_alone)

    def _begin(self, resident: Resident, request: ConnectRequest, now_ms: int) -> None:
        """Make the connect the session's latest; a suspended earlier one is replaced."""
        wish = request.wish
        former = resident.begin_connect(wish.interval_ms, now_ms + self._lifetime_ms(wish), is_hurried=wish.is_hurried)
        if former is not None:
            former.outlet.replace(former)
        self.connections.connected(resident, request.context.connection_id)
        if resident.address != request.context.address:
            self.registry.move(resident, request.context.address)
        session = resident.session
        kind = WEBSOCKET if request.context.is_streaming else LONG_POLLING
        session.served_by(
            kind if request.context.is_streaming else request.wish.transport,
            is_streaming=request.context.is_streaming,
            connects_only=kind in self.connects_only,
        )
        if resident.outlet is not request.context.outlet:
            # No event may be pushed on the former connection ahead of the answer to this connect.
            resident.push_to(None)
        if resident.watches and self.watches.is_due(session.user, session.subscriptions):
            self.background.begin(self._watch(session))
        self.registry.mark(resident)

    async def _watch(self, session: Session) -> None:
        await self.watches.begin(session.user, session.subscriptions)

    def _answer_or_suspend(
        self, resident: Resident, request: ConnectRequest, connect: Connect, now_ms: int
    ) -> ConnectAnswer | Suspended:
        if resident.session.ending is not None or resident.session.next_step(connect) is Step.ANSWER:
            kept = self.engine.kept(request.message)
            return self.replies.answer(resident, kept, request.arrived_ms, request.context.budget, now_ms)
        return self._suspend(resident, request, now_ms)

    def _suspend(self, resident: Resident, request: ConnectRequest, now_ms: int) -> Suspended:
        deadline_ms = self.replies.deadline_ms(now_ms + request.wish.timeout_ms)
        kept = self.engine.kept(request.message)
        suspended = Suspended(resident, request.context.outlet, kept, request.arrived_ms, deadline_ms)
        self.registry.suspend(suspended)
        return suspended

    # -- connects that need Redis ------------------------------------------------------------------------------------

    async def connect(self, request: ConnectRequest, claim: CallerClaim) -> ConnectAnswer | Suspended:
        """Handle a connect.

        Raises BayeuxError, HasLeft, Replaced, Crowded, CsrfRefused, LoginUnavailable, StoreUnavailable.
        """
        client_id = request.client_id
        user = user_of(client_id) or UserId("")
        # Replies of Redis have to be processed in order.
        async with self.turn(client_id), self.registrations.arrival(user):
            try:
                with self.registry.arrival(client_id):
                    return await self._connected(request, claim)
            except Crowded as crowded:
                self.metrics.limited(crowded.limit)
                raise
            except HasEnded as over:
                self.endings.has_ended(client_id, over)
                return self.replies.too_late(request.message, client_id, over.ending, request.arrived_ms)

    async def _connected(self, request: ConnectRequest, claim: CallerClaim) -> ConnectAnswer | Suspended:
        request.checked_at(self.registry.clock_ms())
        for number in range(_ATTEMPTS):
            outcome = await self._connect_here(request, claim) or await self._claim(
                request, claim, is_first=number == 0
            )
            if outcome is not None:
                return outcome
        raise Replaced(request)

    async def _connect_here(self, request: ConnectRequest, claim: CallerClaim) -> ConnectAnswer | Suspended | None:
        """Handle a connect of a session at home here; return None if it has to be claimed."""
        resident = self.at_home(request.client_id, is_turn=True)
        if resident is None:
            return None
        caller = await claim.caller()
        if caller.user is None and resident.login and claim.shown.login == resident.login:
            # The session's own login has ended.
            await self.store.remove(request.client_id, Ending.LOGIN_ENDED)
            raise HasEnded(Ending.LOGIN_ENDED, self.node)
        await self.claims.check(request.message, request.client_id, claim)
        now_ms = self.registry.clock_ms()
        is_over = self._may_be_over(resident, request.wish, now_ms)
        connect = self._as_connect(resident, request)
        if self.at_home(request.client_id, now_ms, is_turn=True) is not resident or is_over:
            return None
        if not resident.session.confirm(connect):
            return None
        self._settle(resident)
        self._prove(resident, request)
        self._begin(resident, request, now_ms)
        # Events that are sent again, possibly in several answers, must not count as sent in Redis.
        if connect.again or resident.is_roaming:
            is_exact = resident.is_roaming and not request.context.is_streaming
            if not await self.sync.save([resident], is_exact=is_exact):
                return None
            resident.roam(is_exact)
        return await self._respond(resident, request, connect)

    def _prove(self, resident: Resident, request: ConnectRequest) -> None:
        """Trust the credentials of the request for the session's user until they are checked again."""
        resident.trust(request.context.proof, request.checked_ms + self.settings.credential_recheck_ms)

    async def _respond(
        self, resident: Resident, request: ConnectRequest, connect: Connect
    ) -> ConnectAnswer | Suspended:
        """Answer a connect or suspend it. Raises Replaced if another node took the session over for a newer one."""
        was_verified = self.is_verified(resident)
        await self.dispatcher.catch_up(resident)
        if was_verified and not self.is_verified(resident) and self.registry.has(resident):
            # The lease has lapsed: Redis decides, as the last step, so that no other connect comes before the answer.
            await self.sync.save([resident])
        if not self.registry.has(resident) and resident.session.ending is None:
            raise Replaced(request)
        outcome = self._answer_or_suspend(resident, request, connect, self.registry.clock_ms())
        if isinstance(outcome, Suspended) or not resident.is_roaming or await self._saved(resident):
            return outcome
        self._lose_answer(resident)
        raise Replaced(request)

    def _settle(self, resident: Resident) -> None:
        """End roaming after several connects in a row here, once that is saved."""
        if resident.settle() >= _SETTLED and resident.is_roaming:
            self.background.begin(self._end_roaming(resident))

    async def _end_roaming(self, resident: Resident) -> None:
        async with self.turn(resident.client_id):
            number = resident.saves + 1
            if await self.sync.save([resident], is_exact=False) and resident.saves == number:
                # No later save has recorded the session as exact.
                resident.roam(False)

    # -- claims --------------------------------------------------------------------------------------------------------

    async def _claim(
        self, request: ConnectRequest, claim: CallerClaim, *, is_first: bool
    ) -> ConnectAnswer | Suspended | None:
        """Take over the session of a connect and handle the connect; return None if another take-over was first."""
        here = self.registry.residents.get(request.client_id)
        if here is not None:
            here.session.begin_claim()
        try:
            found = await self.claims.read(request, claim)
            # While a claim waits for a flush, or is refused, the client may give up the connect and send another one.
            record, has_waited = found.record, not is_first
            if here is not None and not self._is_current(here, record):
                self.endings.release(here)
                here = None
            if here is None and record.home != self.node and not record.is_exact:
                has_waited = True
                flushed = await self.claims.flush(record)
                if flushed is Flush.REFUSED:
                    return None
                # Not saved: the record is unchanged, or else the take-over fails because the number of saves differs.
                if flushed is Flush.SAVED:
                    found = await self.claims.read(request, claim)
                    if found.record.cycle != record.cycle:
                        return None
            login = claim.shown.login or record.login
            return await self._take_over(request, found, here, login, has_waited=has_waited)
        finally:
            # Also where the take-over failed because a save has verified the session: it is at home here.
            if here is not None and here.session.give_up_claim() and here.suspended is not None:
                self.background.begin(self._ask_and_answer(here.suspended, waits=True))

    def _is_current(self, resident: Resident, record: SessionRecord) -> bool:
        """Return whether the record still names this node as home; a save may have raised the cycle meanwhile."""
        return self.registry.has(resident) and record.home == self.node and record.cycle <= resident.session.cycle

    async def _take_over(
        self, request: ConnectRequest, found: Found, here: Resident | None, login: str, *, has_waited: bool
    ) -> ConnectAnswer | Suspended | None:
        record, period = found.record, self.lease.period
        resident = here or resident_of(record, self.queue_memory, is_streaming=request.context.is_streaming)
        session = resident.session
        resident.log_in(login)
        resubscribe(resident, record)
        session.adopt(request.wish.acknowledged, is_exact=here is not None or record.is_exact)
        connect = self._as_connect(resident, request)
        is_latest = not has_waited or session.acknowledges
        if is_latest or connect.again:
            session.confirm(connect)
        has_moved = record.home != self.node
        if has_moved:
            resident.roam(not request.context.is_streaming and record.moved_ago_ms < self.settings.roaming_ms)
        state = replace(
            self.sync.state(resident, is_exact=resident.is_roaming),
            lifetime_ms=self._lifetime_ms(request.wish),
            alone_ms=alone_ms(self.engine.limits, request.wish.timeout_ms + request.wish.interval_ms),
        )
        saved = await self.store.take_over(state, saved=record.saved if here is None else None, has_moved=has_moved)
        if saved is None:
            if here is not None and session.cycle == state.cycle:
                self.endings.release(here)
            return None
        if here is not None and not self.registry.has(here):
            if session.ending is None:
                return None
            return self.replies.ended(here, self.engine.kept(request.message), request.arrived_ms)
        self.metrics.claims.inc()
        resident.claimed(period)
        self._taken_over(resident, found, is_new=here is None, cycle=saved.cycle, head=saved.head)
        self.sync.note_saved(resident, state, saved)
        self._prove(resident, request)
        self._begin(resident, request, self.registry.clock_ms())
        self.registry.note(resident)
        if not is_latest:
            return self.replies.empty(resident, request.message, request.arrived_ms)
        return await self._respond(resident, request, connect)

    def _taken_over(self, resident: Resident, found: Found, *, is_new: bool, cycle: int, head: Position) -> None:
        """Adopt a session after its take-over, with the entries that its client may lack."""
        session, record, now_ms = resident.session, found.record, self.registry.clock_ms()
        session.claimed(cycle)
        if is_new:
            self.registry.add(resident, head)
        if record.home != self.node:
            self.metrics.sessions_resumed.inc()
            if record.has_connected and not record.is_exact and not session.acknowledges:
                self.metrics.repeated_after_crash.inc(len(found.entries))
            if record.is_exact:
                moved = SessionNotice(kind=NoticeKind.FLUSH, client_id=record.client_id, cycle=record.cycle)
                self.endings.notify(record.home, moved)
        ends_at_ms = None if record.ends_in_ms is None else now_ms + record.ends_in_ms
        resident.adopted(now_ms - record.active_ago_ms, ends_at_ms, self.claims.credential(record.client_id))
        if found.after <= session.position:
            self.dispatcher.take_in(session, found.entries, has_more=found.has_more)
        else:
            session.fall_behind()
        if self.registrations.has_unrouted_event(session.user):
            session.fall_behind()

    def _lifetime_ms(self, wish: ConnectWish) -> int:
        return wish.timeout_ms + wish.interval_ms + self.engine.limits.max_interval_ms

    def turn(self, client_id: str) -> asyncio.Lock:
        """Return the lock that serializes store operations of a session."""
        return self._turns.setdefault(client_id, asyncio.Lock())

    # -- suspended connects ----------------------------------------------------------------------------------------

    def due(self, resident: Resident) -> None:
        """Answer the suspended connect of a session with news, or wake its transport."""
        session, suspended = resident.session, resident.suspended
        if suspended is not None and session.has_news and not session.pushes:
            if self.is_verified(resident):
                self.answer(suspended)
        elif resident.outlet is not None and session.pushes:
            resident.outlet.has_news(resident)

    def answer(self, suspended: Suspended) -> None:
        """Answer a suspended connect now."""
        resident, now_ms = suspended.resident, self.registry.clock_ms()
        session = resident.session
        resident.resume()
        is_lacking = session.needs_reading and not session.has_news
        if is_lacking or resident.is_roaming or not self.is_verified(resident, now_ms):
            self.replies.expire_after(resident, now_ms)
            self.background.begin(self._ask_and_answer(suspended))
        else:
            self._send(suspended, self._compose(suspended, now_ms))

    def _compose(self, suspended: Suspended, now_ms: int) -> ConnectAnswer:
        budget = suspended.outlet.budget()
        return self.replies.answer(suspended.resident, suspended.message, suspended.arrived_ms, budget, now_ms)

    def _send(self, suspended: Suspended, answer: ConnectAnswer) -> None:
        if not suspended.outlet.send(suspended, answer.events, answer.reply):
            self._lose_answer(suspended.resident)

    async def _ask_and_answer(self, suspended: Suspended, *, waits: bool = False) -> None:
        """Read a session's missing events, verify that its home is here, and answer its connect if there is news. One
        that still `waits` may be answered, replaced or abandoned meanwhile."""
        resident, delays, is_home = suspended.resident, backoff_s(0.1, 2.0), False
        connects = resident.connects
        while True:
            try:
                async with self.turn(resident.client_id):
                    await self.dispatcher.catch_up(resident)
                    # The last step, so that no other connect comes before the answer.
                    is_home = self.is_verified(resident) or await self.sync.save([resident])
                break
            except StoreUnavailable:
                if resident.suspended is not suspended:
                    break
                await asyncio.sleep(next(delays))
        has_ended = resident.session.ending is not None
        may_answer = has_ended or (is_home and self.registry.has(resident))
        if resident.suspended is suspended:
            if not may_answer or not (resident.session.has_news or has_ended):
                return
            resident.resume()
        elif waits:
            return
        elif resident.connects != connects or not may_answer:
            suspended.outlet.replace(suspended)
            return
        answer = self._compose(suspended, self.registry.clock_ms())
        if not resident.is_roaming or await self._saved(resident):
            self._send(suspended, answer)
        else:
            self._lose_answer(resident)
            suspended.outlet.replace(suspended)

    async def _saved(self, resident: Resident) -> bool:
        """Save a roaming session before its answer; return whether the answer may be sent."""
        with suppress(StoreUnavailable):
            return await self.sync.save([resident], is_exact=True)
        return False

    async def deliver(self, client_ids: Iterable[str], context: RequestContext) -> list[bytes]:
        """Take the events of sessions at home here that sent a message other than a connect, and get events with any
        reply."""
        events: list[bytes] = []
        for client_id in client_ids:
            resident = self.at_home(client_id)
            if resident is None or not resident.session.delivers_with_replies:
                continue
            with suppress(StoreUnavailable):
                await self.dispatcher.catch_up(resident)
            is_here = self.registry.has(resident) and self.is_verified(resident)
            taken = self.replies.take(resident, context.budget, self.registry.clock_ms()) if is_here else []
            if taken and resident.is_roaming and not await self._saved(resident):
                self._lose_answer(resident)
                taken = []
            if taken:
                self.connections.wrote(resident, context.connection_id)
            events += taken
        return events

    def read_on(self, resident: Resident) -> None:
        """Continue reading the stream for a session with push, in the background."""
        self.background.begin(self._read_on(resident))

    async def _read_on(self, resident: Resident) -> None:
        async with self.turn(resident.client_id):
            await self.dispatcher.catch_up(resident)
        if self.registry.has(resident) and resident.session.has_messages:
            self.due(resident)

    def abandon(self, suspended: Suspended) -> None:
        """Drop a suspended connect whose client has disconnected; queued messages stay queued."""
        resident = suspended.resident
        if resident.suspended is suspended:
            resident.resume()
            self.replies.expire_after(resident, self.registry.clock_ms())

    def answer_lost(self, client_ids: Iterable[str]) -> None:
        """Note that an answer with events of sessions could not be written."""
        for client_id in client_ids:
            resident = self.registry.residents.get(client_id)
            if resident is not None:
                self._lose_answer(resident)

    def _lose_answer(self, resident: Resident) -> None:
        """Note that the last answer may be lost. A roaming session is saved, as its claims skip the flush."""
        self.registry.lose_answer(resident)
        if resident.is_roaming and self.registry.has(resident):
            self.background.begin(self._save(resident))

    async def _save(self, resident: Resident) -> None:
        await self.sync.save([resident])

    def connection_broke(self, connection_id: int) -> None:
        """Note that a connection has broken, so that the last answer on it may not have arrived."""
        resident = self.connections.broke(connection_id)
        if resident is not None:
            self._lose_answer(resident)

    def tick(self) -> None:
        """Answer connects at their deadline, and expire sessions without a connect."""
        now_ms = self.registry.clock_ms()
        for resident in self.registry.due(now_ms):
            if resident.suspended is not None:
                self.answer(resident.suspended)
            elif resident.session.state is not SessionPhase.CLAIMING:
                self.endings.expire(resident)

    async def keep_ticking(self) -> None:
        """Run `tick` at each deadline, until the task is cancelled."""
        registry, sooner = self.registry, asyncio.Event()
        registry.call_when_sooner(sooner.set)
        while True:
            self.tick()
            sooner.clear()
            await asyncio.sleep(_TICK_S)
            rest_s = (registry.next_due_ms - registry.clock_ms()) / 1000
            await set_within(sooner, min(rest_s, _LONGEST_WAIT_S))

    # -- creation of sessions, and their release to other nodes ------------------------------------------------------

    async def create(self, client_id: str, beginning: Beginning, login: str, ends_at: float | None = None) -> None:
        """Create a session, which its first connect claims, and which ends at this Unix time if there is one.

        Raises TooManySessions, StoreUnavailable.
        """
        limits = self.engine.limits
        new = NewSession(
            beginning.acknowledges,
            limits.timeout_ms + limits.max_interval_ms,
            limits.max_sessions_per_user,
            beginning.options,
            login,
            self._ends_in_ms(client_id, ends_at),
            self.claims.credential(client_id),
        )
        try:
            await self.store.create(client_id, new)
        except StoreUnavailable:
            # The session may exist, and would count for its user until it expires.
            self.background.begin(self.endings.remove(client_id, Ending.DISCONNECTED))
            raise

    def _ends_in_ms(self, client_id: str, ends_at: float | None) -> int | None:
        """Return the lifetime of a session: that of a bearer session, and that of its token."""
        of_bearer = self.bearer_lifetime_ms if is_bearer(client_id) else None
        of_token = None if ends_at is None else max(1, round((ends_at - time.time()) * 1000))
        return min((each for each in (of_bearer, of_token) if each is not None), default=None)

    async def flush(self, notice: SessionNotice) -> None:
        """Release a session that another node claims or, without `node` in the notice, has taken over."""
        if not self.claims.is_flushing(notice.client_id):
            # A take-over by this node in progress completes first, and raises the cycle.
            async with self.turn(notice.client_id):
                resident = self.registry.residents.get(notice.client_id)
                if resident is None:
                    self.registry.connected(notice.client_id)
                elif resident.session.cycle <= notice.cycle:
                    # A save registers the user here, so the registration must end after it.
                    async with self.registrations.arrival(resident.session.user):
                        await self.sync.give_up(resident, has_moved=not notice.node)
        if notice.node:
            answer = SessionNotice(kind=NoticeKind.FLUSHED, client_id=notice.client_id, cycle=notice.cycle)
            await self.claims.post.send_notice(notice.node, answer)

    async def leave(self) -> None:
        """Save all sessions and stop the routing of events here, before the node stops."""
        async with AsyncExitStack() as users:
            for client_id in list(self.registry.residents):
                # Requests for a session wait until it is saved.
                await users.enter_async_context(self.turn(client_id))
            for user in list(self.registry.feeds):
                await users.enter_async_context(self.registrations.arrival(user))
            residents = list(self.registry.residents.values())
            states = [self.sync.state(each, is_exact=True) for each in residents]
            for resident in residents:
                self.endings.release(resident)
            with suppress(StoreUnavailable):
                await self.store.save(states)
        await self.background.finish()
        with suppress(StoreUnavailable):
            await self.store.end_lease()
