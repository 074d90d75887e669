"""The sessions that this node holds, and the feeds of their users."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bayeux.deadlines import Deadlines
from calltag.core.bayeux.feed import Feed
from calltag.core.bayeux.position import Position
from calltag.core.bayeux.session import Outlet, Session

_LATE_MS: Final = 1_000
"""How much later than due a session may be forgotten."""


@dataclass(slots=True)
class Local:
    """What is here is a copy that makes things fast: a session's own place is the store."""

    sessions: dict[str, Session] = field(default_factory=dict)
    feeds: dict[str, Feed] = field(default_factory=dict)
    _deadlines: Deadlines = field(default_factory=Deadlines)
    _wakers: dict[str, asyncio.Event] = field(default_factory=dict)

    def add(self, session: Session, head: Position) -> Feed:
        """Hold a session; where the user had none here, the feed begins at `head`."""
        self.sessions[session.client_id] = session
        feed = self.feeds.setdefault(session.user, Feed(session.user, head))
        feed.sessions[session.client_id] = session
        return feed

    def remove(self, session: Session) -> bool:
        """Hold the session no more, and wake who waits for it. Returns whether it was the user's last one here."""
        if self.sessions.get(session.client_id) is not session:
            return False
        del self.sessions[session.client_id]
        session.outlet = None
        session.leave_memory()
        feed = self.feeds[session.user]
        del feed.sessions[session.client_id]
        self.wake([session])
        if feed.sessions:
            return False
        del self.feeds[session.user]
        return True

    def holds(self, session: Session) -> bool:
        """Whether the session is (still) held here."""
        return self.sessions.get(session.client_id) is session

    # -- waiting -------------------------------------------------------------------------------------------------

    def adopt_waker(self, session: Session, waker: asyncio.Event, outlet: Outlet | None = None) -> None:
        """Let a transport be woken when there is news: events, the end of a held connect, the end of all.

        With an outlet, events may go out through that without anybody being woken.

        Who waited with another event is woken: the newest transport of a session is the one to be told.
        """
        former = self._wakers.get(session.client_id)
        if former is not None and former is not waker:
            former.set()
        self._wakers[session.client_id] = waker
        session.outlet = outlet if session.pushes else None

    def is_told_by(self, session: Session, waker: asyncio.Event) -> bool:
        """Whether the session is here, and the transport with that event is the one to be told."""
        return self.holds(session) and self._wakers.get(session.client_id) is waker

    def dismiss(self, session: Session) -> None:
        """A newer transport comes: the former one is woken, and gets no news any more."""
        former = self._wakers.pop(session.client_id, None)
        session.outlet = None
        if former is not None:
            former.set()

    def release_waker(self, session: Session, waker: asyncio.Event) -> None:
        """The transport waits no more."""
        if self._wakers.get(session.client_id) is waker:
            del self._wakers[session.client_id]
            session.outlet = None

    def wake(self, sessions: Iterable[Session]) -> None:
        """Wake the transports of sessions."""
        for session in sessions:
            waker = self._wakers.get(session.client_id)
            if waker is not None:
                waker.set()

    def wake_all(self) -> None:
        """Wake every transport."""
        for waker in list(self._wakers.values()):
            waker.set()

    # -- expiry --------------------------------------------------------------------------------------------------

    def expire_at(self, session: Session, deadline_ms: int) -> None:
        """One noted deadline a session suffices: a later one is looked up when the earlier one is due.

        One that is hardly earlier is not noted: a client chooses it with each connect.
        """
        session.expires_at_ms = deadline_ms
        if not session.noted_deadline_ms or deadline_ms < session.noted_deadline_ms - _LATE_MS:
            self._note_deadline(session)

    def _note_deadline(self, session: Session) -> None:
        session.noted_deadline_ms = session.expires_at_ms
        self._deadlines.add(session.expires_at_ms, session.client_id)

    def silent(self, now_ms: int) -> Iterator[Session]:
        """The sessions of which nothing was heard for too long."""
        for client_id, deadline_ms in self._deadlines.due(now_ms):
            session = self.sessions.get(client_id)
            if session is None or session.noted_deadline_ms != deadline_ms:
                continue
            if session.expires_at_ms > now_ms:
                self._note_deadline(session)
            else:
                yield session
