"""Answers to connects: what waits goes out with them, now or once they were held, and what was sent is remembered.

Source of when a held connect is answered: Bayeux protocol 1.0 and CometD's own server.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from calltag.core.bayeux.answer_budget import AnswerBudget
from calltag.core.bayeux.codec import Message, Reply, encode_reply
from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.engine import Engine
from calltag.core.bayeux.position import Position
from calltag.core.bayeux.session import Held, Session
from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.core.store.session_records import HasEnded, Have
from calltag.notifier.cometd.clocks import latency_s, wall_ms
from calltag.notifier.cometd.ends import Ends
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.metrics import HubMetrics
from calltag.notifier.cometd.side_tasks import SideTasks

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
    budget: AnswerBudget


def end_of(session: Session) -> Ending | None:
    """How the session of a connect that has just come has ended since, if it has.

    One that was only silent here for too long has not: in the store, where the connect was first, it lives.
    """
    return None if session.ending is Ending.EXPIRED else session.ending


@dataclass(slots=True)
class Answers:
    """The answers of one node to the connects of the sessions that it holds."""

    engine: Engine
    store: RedisCometdSessions
    local: Local
    ends: Ends
    metrics: HubMetrics
    side_tasks: SideTasks
    clock_ms: Callable[[], int]
    draining: bool = False
    _saves: WeakValueDictionary[str, asyncio.Task[None]] = field(default_factory=WeakValueDictionary)

    def answer(self, connect: HeldConnect) -> Answer:
        """What waits, as far as one answer holds it, and the reply; the store is told what was sent."""
        session = connect.session
        events = self.take(session, connect.budget)
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

    def budget(self) -> AnswerBudget:
        """What one answer may carry."""
        return AnswerBudget(self.engine.limits.max_answer_bytes)

    def take(self, session: Session, budget: AnswerBudget | None = None) -> list[bytes]:
        """What waits in the session, for its client, as far as the budget of the answer admits it."""
        now_ms, repeated = wall_ms(), 0
        waiting = session.queue.copy()
        events = session.take(budget)
        for each in waiting[: len(waiting) - len(session.queue)]:
            if session.repeats(each):
                repeated += 1
            elif each.accepted_at_ms:
                self.metrics.handed_over(latency_s(each.accepted_at_ms, now_ms))
        if repeated:
            self.metrics.redelivered(repeated)
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
            alone_ms=self.alone_ms(session.interval_ms),
        )

    def have(self, session: Session) -> Have:
        """What this node has of a session, for the store."""
        return Have(
            session.cycle, session.position, session.sent, self._told_ago_ms(session), session.generation,
            session.answered,
        )  # fmt: skip

    def _told_ago_ms(self, session: Session) -> int | None:
        return None if session.told_at_ms is None else self.clock_ms() - session.told_at_ms

    def alone_ms(self, before_ms: int) -> int | None:
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
            return self.ended(connect, session.ending)
        if session.held is not connect.held or not self.local.holds(session):
            return None
        session.held = None
        return self.answer(connect)

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
        ending = end_of(connect.session)
        if ending is not None:
            return self.ended(connect, ending)
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

    def too_late(self, message: Message, client_id: str, over: HasEnded, arrived_ms: int) -> Answer:
        """The answer to a connect that came too late. Raises Fault."""
        self.ends.has_ended(client_id, over)
        if over.ending is Ending.LOGIN_ENDED:
            raise self.engine.unknown(message)
        reply = self.engine.ended(self.engine.connected(message, client_id))
        events = [encode_reply(self.engine.disconnected())]
        return events, self.engine.extend(message, reply, arrived_ms, wall_ms())

    def ended(self, connect: HeldConnect, ending: Ending) -> Answer:
        """The answer to a connect whose session has ended since it came."""
        reply = self.engine.ended(connect.held.reply)
        if ending is Ending.LOGIN_ENDED:
            reply = self.engine.unknown(connect.message).reply
        reply = self.engine.extend(connect.message, reply, connect.arrived_ms, wall_ms())
        return self.ends.bid_farewell(connect.session), reply

    def _expire_soon(self, session: Session) -> None:
        after_ms = session.interval_ms + self.engine.limits.max_interval_ms
        self.local.expire_at(session, self.clock_ms() + after_ms)
