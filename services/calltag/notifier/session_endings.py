"""End of sessions, for each reason, and their removal from a node."""

from dataclasses import dataclass
from typing import Final

from calltag.core.bayeux.engine import Engine
from calltag.core.bayeux.messages import encode_reply
from calltag.core.bayeux.session import Ending
from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import HANDLE_LENGTH, digest_of, handle_of, user_of
from calltag.core.store.sessions import HasEnded, SessionStore
from calltag.notifier.connect_replies import ConnectReplies
from calltag.notifier.metrics import NotifierMetrics
from calltag.notifier.node_presence import Background, Registrations
from calltag.notifier.session_claims import Post
from calltag.notifier.session_registry import Connections, Resident, SessionRegistry

_CLOCKS_DIFFER_MS: Final = 2_000
"""Tolerance for the clock of Redis and the round trip, when an expired session is removed."""


@dataclass(slots=True)
class SessionEndings:
    """Ends sessions, here and in Redis, and notifies their home if that is another node."""

    node: NodeId
    engine: Engine
    store: SessionStore
    registry: SessionRegistry
    connections: Connections
    registrations: Registrations
    replies: ConnectReplies
    post: Post
    metrics: NotifierMetrics
    background: Background

    def end(self, client_id: str, ending: Ending = Ending.DISCONNECTED) -> None:
        """End a session here, and answer its suspended connect."""
        resident = self.registry.residents.get(client_id)
        if resident is None:
            self.registry.connected(client_id)
            return
        resident.session.end(ending)
        if ending is Ending.CLOSED:
            resident.say_goodbye(encode_reply(self.engine.disconnected()))
        self.release(resident)

    async def close(self, user: UserId, digest: str) -> None:
        """End the session with this digest for an operator. Raises StoreUnavailable."""
        home = await self.store.end(user, digest, Ending.CLOSED)
        feed = self.registry.feeds.get(user)
        client_id = next((each for each in feed.sessions if digest_of(each) == digest), None) if feed else None
        if client_id is not None:
            self.end(client_id, Ending.CLOSED)
        if home is not None or client_id is not None:
            self.metrics.ended(digest[:HANDLE_LENGTH], user, Ending.CLOSED)

    def disconnected(self, client_id: str, home: NodeId) -> None:
        """End a session by its client's disconnect."""
        self.end(client_id)
        if home != self.node:
            self.notify(home, SessionNotice(kind=NoticeKind.ENDED, client_id=client_id))
        self.metrics.ended(handle_of(client_id), user_of(client_id) or "", Ending.DISCONNECTED)

    def has_ended(self, client_id: str, over: HasEnded) -> None:
        """End a session here that a late message found ended in Redis."""
        self.end(client_id, over.ending)
        if over.former != self.node:
            self.notify(over.former, SessionNotice(kind=NoticeKind.ENDED, client_id=client_id))
        self.metrics.ended(handle_of(client_id), user_of(client_id) or "", over.ending)

    def login_ended(self, user: UserId, login: str) -> None:
        """End the sessions that a login authenticated, because it has ended."""
        feed = self.registry.feeds.get(user)
        for client_id in list(feed.sessions) if feed is not None else ():
            if self.registry.residents[client_id].login == login:
                self.has_ended(client_id, HasEnded(Ending.LOGIN_ENDED, self.node))
                self.background.begin(self.remove(client_id, Ending.LOGIN_ENDED))

    def release(self, resident: Resident) -> None:
        """Remove a session whose home is another node, or which has ended."""
        suspended, outlet = resident.resume(), resident.outlet
        resident.push_to(None)
        self.connections.forget(resident)
        if self.registry.remove(resident):
            self.registrations.leave(resident.session.user)
        if suspended is not None:
            if resident.session.ending is None:
                suspended.outlet.replace(suspended)
            else:
                answer = self.replies.ended(resident, suspended.message, suspended.arrived_ms)
                suspended.outlet.send(suspended, answer.events, answer.reply)
        if outlet is not None:
            outlet.has_news(resident)

    def expire(self, resident: Resident) -> None:
        resident.session.end(Ending.EXPIRED)
        self.metrics.sessions_swept.inc()
        self.release(resident)
        self.background.begin(self._expire_stored(resident))

    async def _expire_stored(self, resident: Resident) -> None:
        session = resident.session
        if await self.store.expire(session.client_id, cycle=session.cycle, within_ms=_CLOCKS_DIFFER_MS):
            self.metrics.ended(handle_of(session.client_id), session.user, Ending.EXPIRED)

    def notify(self, node: NodeId, notice: SessionNotice) -> None:
        """Send a notice to another node, in the background."""
        self.background.begin(self._notify(node, notice))

    async def _notify(self, node: NodeId, notice: SessionNotice) -> None:
        await self.post.send_notice(node, notice)

    async def remove(self, client_id: str, ending: Ending) -> None:
        """Remove a session from Redis. Raises StoreUnavailable."""
        await self.store.remove(client_id, ending)
