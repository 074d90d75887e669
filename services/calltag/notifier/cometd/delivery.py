"""Events with the replies to other messages than connects, for sessions that want them so.

Only the node that holds a session has its events. The store has to know what was taken before the answer goes out: the
session's next connect may come to another node, which goes on from there.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from calltag.core.bayeux.answer_budget import AnswerBudget
from calltag.core.bayeux.session import Session
from calltag.core.store.ports import StoreUnavailable
from calltag.notifier.cometd.connects import Connects


@dataclass(frozen=True, slots=True)
class Delivery:
    """Takes what waits in the sessions that this node holds."""

    connects: Connects

    async def with_replies(self, client_ids: Iterable[str], budget: AnswerBudget | None = None) -> list[bytes]:
        """What waits for these sessions, which sent something other than a connect, as far as the answer holds it."""
        events: list[bytes] = []
        for client_id in client_ids:
            async with self.connects.turn(client_id):
                session = self.connects.local.sessions.get(client_id)
                if session is not None and session.delivers_with_replies:
                    events += await self._take(session, budget)
        return events

    async def _take(self, session: Session, budget: AnswerBudget | None) -> list[bytes]:
        connects = self.connects
        try:
            await connects.feeding.catch_up(session)
            if not connects.local.holds(session) or not session.has_events:
                return []
            events, cycle = connects.answers.take(session, budget), session.cycle
            known = await connects.store.save(
                session.client_id, cycle=cycle, generation=session.generation, sent=session.sent,
                lifetime_ms=session.interval_ms + connects.engine.limits.max_interval_ms, prolong=True, told_ago_ms=0,
            )  # fmt: skip
        except StoreUnavailable:
            known = False
        if known:
            return events
        # Another node may send the same: here nothing of it goes out, and the client's next connect asks the store.
        connects.ends.let_go(session)
        return []
