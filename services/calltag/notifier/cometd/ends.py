"""How sessions end on this node, and who is told.

In the store a session ends by itself, with its lifetime; here it is let go of, and its held connect is answered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from calltag.core.bayeux.codec import encode_reply
from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.engine import Engine
from calltag.core.bayeux.session import Session
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import HANDLE_LENGTH, digest_of, handle_of, user_of
from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.core.store.session_records import HasEnded
from calltag.core.wire.messages import NoticeKind, SessionNotice
from calltag.notifier.cometd.admission import Admission
from calltag.notifier.cometd.endings import SessionListener
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.metrics import HubMetrics
from calltag.notifier.cometd.residence import Residence
from calltag.notifier.cometd.side_tasks import SideTasks

_CLOCKS_DIFFER_MS: Final = 2_000
"""How much later than here a session may end in the store, by its clock and after the way there."""


class Post(Protocol):
    """The way to the other nodes."""

    async def tell(self, node: NodeId, notice: SessionNotice) -> None:
        """Send a notice; if it does not arrive, what it says shows later."""
        ...


@dataclass(frozen=True, slots=True)
class Ends:
    """Ends the sessions that this node holds."""

    node: NodeId
    engine: Engine
    store: RedisCometdSessions
    local: Local
    residence: Residence
    admission: Admission
    post: Post
    metrics: HubMetrics
    side_tasks: SideTasks
    clock_ms: Callable[[], int]
    listeners: Sequence[SessionListener]

    def end(self, client_id: str, ending: Ending = Ending.DISCONNECTED) -> None:
        """The session has ended: its held connect is answered so."""
        session = self.local.sessions.get(client_id)
        if session is not None:
            session.ending = ending
            if ending is Ending.CLOSED:
                session.farewell = encode_reply(self.engine.disconnected())
            self.let_go(session)
        else:
            self.admission.release(client_id)

    async def close(self, user: UserId, digest: str) -> None:
        """An operator ends the session whose id has this digest. Raises StoreUnavailable."""
        holder = await self.store.end(user, digest)
        feed = self.local.feeds.get(user)
        client_id = next((each for each in feed.sessions if digest_of(each) == digest), None) if feed else None
        if client_id is not None:
            self.end(client_id, Ending.CLOSED)
        if holder is not None or client_id is not None:
            self._tell_ended(digest[:HANDLE_LENGTH], user, Ending.CLOSED)

    def disconnected(self, client_id: str) -> None:
        """The client has ended its session."""
        self.end(client_id)
        self._tell_ended(handle_of(client_id), user_of(client_id) or "", Ending.DISCONNECTED)

    def has_ended(self, client_id: str, over: HasEnded) -> None:
        """A session has ended with a message that came for it too late."""
        self.end(client_id, over.ending)
        if over.former != self.node:
            notice = SessionNotice(kind=NoticeKind.ENDED, client_id=client_id)
            self.side_tasks.begin(self.post.tell(over.former, notice))
        self._tell_ended(handle_of(client_id), user_of(client_id) or "", over.ending)

    def bid_farewell(self, session: Session) -> list[bytes]:
        """What the client is told, once, of the end that the server made of its session."""
        farewell, session.farewell = session.farewell, b""
        return [farewell] if farewell else []

    def _tell_ended(self, handle: str, user: str, ending: Ending) -> None:
        for listener in self.listeners:
            listener.ended(handle, user, ending)

    def let_go(self, session: Session) -> None:
        """Another node holds the session, or nobody does."""
        if self.local.holds(session):
            self.admission.release(session.client_id)
        if self.local.remove(session):
            self.residence.leave(session.user)

    def sweep(self) -> None:
        """Forget silent sessions. In the store they end by themselves."""
        self.admission.sweep()
        for session in self.local.silent(self.clock_ms()):
            session.ending = Ending.EXPIRED
            self.metrics.swept()
            self.let_go(session)
            self.side_tasks.begin(self._expire(session))

    async def _expire(self, session: Session) -> None:
        if await self.store.expire(session.client_id, cycle=session.cycle, within_ms=_CLOCKS_DIFFER_MS):
            self._tell_ended(handle_of(session.client_id), session.user, Ending.EXPIRED)
