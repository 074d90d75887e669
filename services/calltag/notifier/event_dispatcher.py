"""Dispatch of events to sessions, received from the broker or read from user streams."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bayeux.events import Event, Queued, StreamedEvent
from calltag.core.bayeux.messages import BayeuxLimit, BayeuxLimits, encode
from calltag.core.bayeux.session import Session
from calltag.core.bayeux.user_feed import Feed, Gap
from calltag.core.domain.ids import UserId
from calltag.core.http.websocket import text_frame
from calltag.core.process.waiting import backoff_s
from calltag.core.store.event_log import Entry, EventLog
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.conditions import Condition
from calltag.notifier.metrics import NotifierMetrics, wall_ms
from calltag.notifier.node_presence import Background, NodeLease
from calltag.notifier.session_registry import NEVER, Resident, SessionRegistry

_WAITS: Final = Condition("feed_waits_for_store", level="info")
_FEW: Final = 8
"""Beyond this number of sessions of a user, frames are written at once instead of corked."""
Translate = Callable[[UserId, Entry], StreamedEvent]


class _Batch:
    """Consecutive entries, rendered once for all sessions with the same subscriptions."""

    def __init__(self, entries: Sequence[StreamedEvent], most_bytes: int) -> None:
        self.entries = entries
        self.previous, self.first, self.last = entries[0].previous, entries[0].position, entries[-1].position
        self._most_bytes = most_bytes
        self._queued: dict[bool, tuple[list[Queued], int]] = {}
        self._frames: dict[bool, bytes] = {}
        channels = {event.channel for published in entries for event in published.events}
        self._channel = channels.pop() if len(channels) == 1 else ""

    def _is_usual(self, session: Session) -> bool:
        """Return whether the session wants all messages, as most do."""
        since = session.subscriptions.get(self._channel)
        return since is not None and since < self.first

    def queued_of(self, session: Session) -> tuple[list[Queued], int]:
        """Return the messages for a session, and their size in bytes."""
        if not self._is_usual(session):
            return self._make_queued(session)
        made = self._queued.get(session.is_numbered)
        if made is None:
            made = self._queued[session.is_numbered] = self._make_queued(session)
        return made

    def _make_queued(self, session: Session) -> tuple[list[Queued], int]:
        queued = [each for published in self.entries for each in session.queued(published)]
        return queued, sum(len(each.body) for each in queued)

    def frame_of(self, session: Session) -> bytes:
        """Return the frame for a session; empty if it wants no message, or the frame would be too large."""
        if not self._is_usual(session):
            return self._make_frame(session)
        made = self._frames.get(session.is_numbered)
        if made is None:
            made = self._frames[session.is_numbered] = self._make_frame(session)
        return made

    def _make_frame(self, session: Session) -> bytes:
        queued, _ = self.queued_of(session)
        frame = text_frame(encode([each.body for each in queued], ())) if queued else b""
        return frame if len(queued) == 1 or len(frame) <= self._most_bytes else b""


@dataclass(slots=True)
class EventDispatcher:
    """Gives events to the sessions of their users.

    `translate` renders a stream entry for its user; `due` is called for sessions that have something to send.
    """

    registry: SessionRegistry
    streams: EventLog
    translate: Translate
    limits: BayeuxLimits
    metrics: NotifierMetrics
    background: Background
    lease: NodeLease
    due: Callable[[Resident], None] = lambda _: None
    clock_ms: Callable[[], int] = field(init=False)

    def __post_init__(self) -> None:
        self.clock_ms = self.registry.clock_ms

    def publish(self, user: UserId, *entries: StreamedEvent) -> None:
        """Dispatch events of a user that were received together; gaps are filled from the stream."""
        feed = self.registry.feeds.get(user)
        if feed is None or not entries:
            return
        news: dict[Session, None] = {}
        if feed.follow(entries):
            followed, left = self._give(feed, entries)
            news |= dict.fromkeys(followed)
            for published in entries:
                more = feed.advance(published, left, self.limits)
                self._count(published.events, len(followed) + len(more))
                self._count_overflows(left)
                news |= dict.fromkeys(more)
            self._notify(news)
            return
        try:
            for published in entries:
                news |= self._counted(published, feed.accept(published, self.limits))
                self._count_overflows(feed.sessions.values())
        except Gap:
            self.metrics.gaps_filled.inc()
            self._repair(feed)
        self._notify(news)

    def _give(self, feed: Feed, entries: Sequence[StreamedEvent]) -> tuple[list[Session], list[Session]]:
        """Give sessions the feed's next entries together; a WebSocket without queued messages gets them in one frame.

        Return the sessions that have news, and those that have to be given each entry by itself.
        """
        batch, many, now_ms = _Batch(entries, self.limits.max_frame_bytes), len(feed.sessions) > _FEW, self.clock_ms()
        period = self.lease.period if self.lease.is_valid else NEVER - 1
        residents, limits, pushed = self.registry.residents, self.limits, 0
        followed, left = list[Session](), list[Session]()
        for session in feed.sessions.values():
            if session.pushes:
                resident = residents[session.client_id]
                outlet = resident.outlet if resident.verified_in == period else None
                if outlet is not None and session.can_push_directly(batch.previous, batch.first):
                    frame = batch.frame_of(session)
                    if frame and outlet.push(frame, one_of_many=many):
                        session.went_out(batch.last)
                        resident.delivered(now_ms)
                        self.registry.mark(resident)
                        pushed += 1
                        continue
            if not session.can_follow(batch.previous, batch.first):
                left.append(session)
                continue
            queued, size = batch.queued_of(session)
            if not session.follow(queued, size, batch.last, limits):
                left.append(session)
            elif queued:
                followed.append(session)
        if pushed:
            self._count_pushed(entries, pushed)
        return followed, left

    def _count_pushed(self, entries: Sequence[StreamedEvent], pushed: int) -> None:
        now_ms = wall_ms()
        for published in entries:
            for event in published.events:
                self.metrics.delivered(event.channel, pushed)
            if published.accepted_at_ms and published.events:
                self.metrics.handed_over(published.accepted_at_ms, now_ms, pushed * len(published.events))

    def _count_overflows(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            overflow = session.take_overflow()
            if overflow:
                self.metrics.limited(BayeuxLimit(overflow))

    def publish_services(self, event: Event, *, active: bool) -> None:
        """Give the state of the services, which is in no stream, to subscribed sessions that know another state."""
        notified = []
        for resident in self.registry.residents.values():
            if resident.session.offer_services(event, self.limits, active=active):
                self.registry.mark(resident)
                notified.append(resident.session)
        self._count([event], len(notified))
        self._notify(notified)

    def _counted(self, published: StreamedEvent, sessions: Sequence[Session]) -> dict[Session, None]:
        """Count the messages of an entry; return its sessions, which are notified after all entries of the batch."""
        self._count(published.events, len(sessions))
        return dict.fromkeys(sessions)

    def _notify(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            self.due(self.registry.residents[session.client_id])

    def _count(self, events: Sequence[Event], sessions: int) -> None:
        for event in events if sessions else ():
            self.metrics.delivered(event.channel, sessions)

    # -- sessions that are behind --------------------------------------------------------------------------------

    def take_in(self, session: Session, entries: Sequence[Entry], *, has_more: bool) -> None:
        """Give a session the entries that were read for it; the user's other sessions get new ones among them."""
        feed = self.registry.feeds[session.user]
        session.begin_reading()
        news: dict[Session, None] = {}
        for entry in entries:
            latest = feed.latest
            if latest is not None and (latest.position, latest.previous) == (entry.position, entry.previous):
                published = latest
            else:
                published = self.translate(UserId(session.user), entry)
            session.offer(published, self.limits)
            if published.previous <= feed.head:
                news |= self._counted(published, feed.accept_next(published, self.limits))
        self._notify(news)
        if has_more or session.position < feed.head:
            session.fall_behind()

    async def catch_up(self, resident: Resident) -> None:
        """Read the stream until there is something to send or its end is reached. Raises StoreUnavailable."""
        session = resident.session
        while self.registry.has(resident) and session.needs_reading and not (session.queue or session.replays.queue):
            if not session.replays.is_read:
                await self._read_past(session)
                continue
            began, head = session.position, self.registry.feeds[session.user].head
            page = await self.streams.read(UserId(session.user), began, self.limits.max_queued_events)
            if not self.registry.has(resident) or session.position != began or not session.is_behind:
                continue
            if not page.entries:
                # Only up to the head before the read: later entries may have been appended after it.
                session.skip(head)
            self.take_in(session, page.entries, has_more=page.has_more)

    async def _read_past(self, session: Session) -> None:
        after, until = session.replays.read_to, session.position
        page = await self.streams.read(UserId(session.user), after, self.limits.max_queued_events)
        if session.replays.is_read or session.replays.read_to != after:
            return
        count = next((number for number, each in enumerate(page.entries, 1) if each.position > until), None)
        entries = [self.translate(UserId(session.user), each) for each in page.entries[:count]]
        through = page.entries[-1].position if page.has_more and page.entries else until
        session.fill(entries, through, self.limits)

    # -- feeds with a gap ----------------------------------------------------------------------------------------

    def look_at_all(self) -> None:
        """Read every stream from the head of its feed, because events may have been missed."""
        for feed in list(self.registry.feeds.values()):
            self._repair(feed)

    def look_at(self, user: UserId) -> None:
        """Read the stream of a user from the head of its feed, because events may have been missed."""
        feed = self.registry.feeds.get(user)
        if feed is not None:
            self._repair(feed)

    def _repair(self, feed: Feed) -> None:
        if feed.begin_repair():
            self.background.begin(self._read_on(feed))

    async def _read_on(self, feed: Feed) -> None:
        delays = backoff_s(0.1, 2.0)
        try:
            while feed.look_again and self.registry.feeds.get(feed.user) is feed:
                feed.look()
                try:
                    page = await self.streams.read(UserId(feed.user), feed.head, self.limits.max_queued_events)
                except StoreUnavailable as error:
                    _WAITS.fails(error)
                    feed.looked(has_more=True)
                    await asyncio.sleep(next(delays))
                    continue
                news: dict[Session, None] = {}
                for entry in page.entries:
                    published = self.translate(UserId(feed.user), entry)
                    news |= self._counted(published, feed.accept_next(published, self.limits))
                self._notify(news)
                feed.looked(has_more=page.has_more)
        finally:
            feed.end_repair()
