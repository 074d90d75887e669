"""Replies to connects, with the events they carry."""

import random
from dataclasses import dataclass
from typing import NamedTuple

from calltag.core.bayeux.engine import Engine
from calltag.core.bayeux.messages import AnswerBudget, Message, Reply, encode_reply
from calltag.core.bayeux.session import Ending
from calltag.notifier.metrics import NotifierMetrics, wall_ms
from calltag.notifier.session_registry import ConnectRequest, Resident, SessionRegistry, Suspended


class ConnectAnswer(NamedTuple):
    """The reply to a connect, and the events it carries."""

    events: list[bytes]
    reply: Reply
    resident: Resident | None = None


@dataclass(slots=True)
class ConnectReplies:
    """Takes queued events from sessions and builds replies."""

    engine: Engine
    registry: SessionRegistry
    metrics: NotifierMetrics
    drained_at_ms: int | None = None
    """The end of the drain timeout, while the node drains."""

    @property
    def is_draining(self) -> bool:
        return self.drained_at_ms is not None

    def drain(self) -> None:
        """Spread the answers to suspended connects over the drain timeout, so that their clients do not reconnect to
        other nodes all at once."""
        now_ms = self.registry.clock_ms()
        spread_ms = self.engine.limits.drain_spread_ms
        self.drained_at_ms = now_ms + spread_ms
        for resident in self.registry.residents.values():
            if resident.suspended is not None and not resident.session.is_streaming:
                leaves_at_ms = now_ms + random.randint(0, spread_ms)  # noqa: S311 - spreads load
                resident.suspended.answer_by(leaves_at_ms)
                self.registry.note(resident)

    def deadline_ms(self, deadline_ms: int) -> int:
        """Return the deadline of a connect, which is earlier while the node drains."""
        return deadline_ms if self.drained_at_ms is None else min(deadline_ms, self.drained_at_ms)

    def budget(self) -> AnswerBudget:
        """Return the bytes of events that one answer may carry."""
        return AnswerBudget(self.engine.limits.max_answer_bytes)

    def take(self, resident: Resident, budget: AnswerBudget, now_ms: int) -> list[bytes]:
        """Take the queued events of a session that fit into the budget."""
        session = resident.session
        queued = session.queue.copy()
        events = session.take(budget)
        if queued:
            self.metrics.taken(session, queued[: len(queued) - len(session.queue)] if session.queue else queued)
        session.note_sent()
        if events:
            resident.delivered(now_ms)
        self.registry.mark(resident)
        return events

    def answer(
        self, resident: Resident, kept: Message, arrived_ms: int, budget: AnswerBudget, now_ms: int
    ) -> ConnectAnswer:
        """Return the answer to a connect."""
        session = resident.session
        if session.ending is not None:
            return self.ended(resident, kept, arrived_ms)
        events = self.take(resident, budget, now_ms)
        session.note_answer()
        reply = self.engine.answered(session, kept)
        self.expire_after(resident, now_ms)
        return ConnectAnswer(events, self._extended(kept, reply, arrived_ms), resident)

    def _extended(self, message: Message, reply: Reply, arrived_ms: int) -> Reply:
        return self.engine.extend(message, reply, arrived_ms, wall_ms()) if self.engine.extends else reply

    def empty(self, resident: Resident, message: Message, arrived_ms: int) -> ConnectAnswer:
        """Return an answer without events, after which the client connects again."""
        resident.session.note_answer()
        reply = self.engine.answered(resident.session, message)
        self.expire_after(resident, self.registry.clock_ms())
        return ConnectAnswer([], self._extended(message, reply, arrived_ms), resident)

    def expire_after(self, resident: Resident, now_ms: int) -> None:
        """Let the session expire if no connect arrives within its interval plus `max_interval_ms`."""
        after_ms = resident.interval_ms + self.engine.limits.max_interval_ms
        self.registry.expire_at(resident, now_ms + after_ms)

    def without_events(self, connect: Suspended | ConnectRequest, *, has_failed: bool = False) -> Reply:
        """Return the reply to a connect that was replaced, or whose client is half-closed: connect again.

        `has_failed` makes a client that does not acknowledge report that it may lack the last events.
        """
        message = connect.message
        if has_failed and not connect.acknowledges:
            reply = self.engine.replaced(message)
        else:
            reply = self.engine.connected(message, connect.client_id)
        return self.engine.extend(message, reply, connect.arrived_ms, wall_ms())

    def ended(self, resident: Resident, kept: Message, arrived_ms: int) -> ConnectAnswer:
        """Return the answer to a suspended connect of a session that has ended."""
        if resident.session.ending in (Ending.LOGIN_ENDED, Ending.EXPIRED):
            reply = self.engine.unknown(kept).reply
        else:
            reply = self.engine.ended(kept, resident.client_id)
        reply = self.engine.extend(kept, reply, arrived_ms, wall_ms())
        return ConnectAnswer(resident.take_goodbye(), reply, resident)

    def too_late(self, message: Message, client_id: str, ending: Ending, arrived_ms: int) -> ConnectAnswer:
        """Return the answer to a connect after the end of its session. Raises BayeuxError."""
        if ending is Ending.LOGIN_ENDED:
            raise self.engine.unknown(message)
        reply = self.engine.ended(message, client_id)
        events = [encode_reply(self.engine.disconnected())]
        return ConnectAnswer(events, self.engine.extend(message, reply, arrived_ms, wall_ms()))
