"""Events on their way into the sessions: as they come over the bus, or read from the users' streams."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bayeux.events import Event, Published
from calltag.core.bayeux.feed import Feed, Gap
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.position import Position
from calltag.core.bayeux.session import Session
from calltag.core.domain.ids import UserId
from calltag.core.runtime.backoff import backoff_s
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.user_streams import Entry, UserStreams
from calltag.core.telemetry.conditions import Condition
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.metrics import HubMetrics, Limit
from calltag.notifier.cometd.pushing import Pushing
from calltag.notifier.cometd.side_tasks import SideTasks

_WAITS: Final = Condition("feed_waits_for_store", level="info")
Translate = Callable[[UserId, Entry], Published]


@dataclass(slots=True)
class Feeding:
    """`translate` makes of a stream's entry what the user is told."""

    local: Local
    streams: UserStreams
    translate: Translate
    limits: BayeuxLimits
    metrics: HubMetrics
    side_tasks: SideTasks
    pushing: Pushing = field(init=False)

    def __post_init__(self) -> None:
        self.pushing = Pushing(self.metrics, self.limits.max_frame_bytes)

    @property
    def page(self) -> int:
        """How many entries are read at once at most."""
        return self.limits.max_queued_events

    def publish(self, user: UserId, *entries: Published) -> None:
        """Events for a user came in together; a gap before one is filled from the stream."""
        feed = self.local.feeds.get(user)
        if feed is None or not entries:
            return
        if feed.follow(entries):
            left = self.pushing.push(feed, entries)
            for published in entries:
                self._tell(published.events, feed.advance(published, left, self.limits))
                self._note_overflows(left)
            return
        try:
            for published in entries:
                self._tell(published.events, feed.accept(published, self.limits))
                self._note_overflows(feed.sessions.values())
        except Gap:
            self.metrics.gap()
            self._repair(feed)

    def _note_overflows(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            if session.overflow:
                self.metrics.limited(Limit(session.overflow))
                session.overflow = ""

    def tell_services(self, event: Event, *, active: bool) -> Sequence[Session]:
        """Give the state of the services, which is in no stream, to the subscribed sessions here that were told another
        one last. Returns these."""
        sessions = self.local.sessions.values()
        told = [each for each in sessions if each.offer_services(event, self.limits, active=active)]
        self._tell([event], told)
        return told

    def _tell(self, events: Sequence[Event], sessions: Sequence[Session]) -> None:
        self.local.wake(sessions)
        for event in events if sessions else ():
            self.metrics.delivered(event.channel, len(sessions))

    # -- sessions that read on from where they are ---------------------------------------------------------------

    def take_in(self, session: Session, entries: Sequence[Entry], *, has_more: bool) -> None:
        """Give a session what was read for it; the user's other sessions get what is new here."""
        feed = self.local.feeds[session.user]
        for entry in entries:
            latest = feed.latest
            if latest is not None and (latest.position, latest.previous) == (entry.position, entry.previous):
                published = latest
            else:
                published = self.translate(UserId(session.user), entry)
            session.offer(published, self.limits)
            if published.previous <= feed.head:
                self._tell(published.events, feed.accept_next(published, self.limits))
        if has_more or session.position < feed.head:
            session.behind = True

    async def catch_up(self, session: Session) -> None:
        """Read on until there is something to send, or nothing more to read.

        Where the store is being asked about the session, who asks reads on.
        """
        while self.local.holds(session) and session.behind and not (session.queue or session.asked):
            began, head = session.position, self.local.feeds[session.user].head
            page = await self.streams.read(UserId(session.user), began, self.page)
            if not self.local.holds(session) or session.position != began or session.asked:
                continue
            session.behind = False
            if not page.entries:
                # What the feed has seen since may have been added after this was read.
                self._skip(session, head)
            self.take_in(session, page.entries, has_more=page.has_more)

    def _skip(self, session: Session, head: Position) -> None:
        """What the feed had seen up to there and the session has not is not kept any more."""
        if session.position < head:
            session.position, session.missed = head, True

    # -- feeds that missed something -----------------------------------------------------------------------------

    def look_at_all(self) -> None:
        """Events may have been missed: look at every stream."""
        for feed in list(self.local.feeds.values()):
            self._repair(feed)

    def look_at(self, user: UserId) -> None:
        """Events of this user may have been missed."""
        feed = self.local.feeds.get(user)
        if feed is not None:
            self._repair(feed)

    def _repair(self, feed: Feed) -> None:
        feed.look_again = True
        if not feed.repairing:
            feed.repairing = True
            self.side_tasks.begin(self._read_on(feed))

    async def _read_on(self, feed: Feed) -> None:
        delays = backoff_s(0.1, 2.0)
        try:
            while feed.look_again and self.local.feeds.get(feed.user) is feed:
                feed.look_again = False
                try:
                    page = await self.streams.read(UserId(feed.user), feed.head, self.page)
                except StoreUnavailable as error:
                    _WAITS.fails(error)
                    feed.look_again = True
                    await asyncio.sleep(next(delays))
                    continue
                for entry in page.entries:
                    published = self.translate(UserId(feed.user), entry)
                    self._tell(published.events, feed.accept_next(published, self.limits))
                feed.look_again = feed.look_again or page.has_more
        finally:
            feed.repairing = False
