"""Events on their straight way out: to the clients for which nothing waits, in one frame that all of them are sent.

What cannot go that way goes through the queues of the sessions, and their transports are woken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from calltag.core.bayeux.codec import encode
from calltag.core.bayeux.events import Published
from calltag.core.bayeux.feed import Feed
from calltag.core.bayeux.session import Session
from calltag.core.http.websocket import text_frame
from calltag.notifier.cometd.clocks import latency_s, monotonic_ms, wall_ms
from calltag.notifier.cometd.metrics import HubMetrics

_FEW: Final = 8
"""For so many sessions of a user, what is written in one turn of the loop is better written together."""


class Frames:
    """The frame of these entries for each session: sessions that want the same get the same bytes.

    There is none for a session that wants nothing of them, or for which it would be too large.
    """

    def __init__(self, entries: Sequence[Published], most_bytes: int) -> None:
        self._entries = entries
        self._most_bytes = most_bytes
        self._made: dict[bool, bytes] = {}
        channels = {event.channel for published in entries for event in published.events}
        self.channel = channels.pop() if len(channels) == 1 else ""
        """The one on which all is; a session that wants all of that may be given the frame `for_all`."""

    def for_all(self, session: Session) -> bytes:
        """The frame for a session that wants all."""
        made = self._made.get(session.numbered)
        if made is None:
            made = self._made[session.numbered] = self.of(session)
        return made

    def of(self, session: Session) -> bytes:
        """The frame for the session, or nothing."""
        wanted = session.wanted(self._entries)
        frame = text_frame(encode(wanted, ())) if wanted else b""
        return frame if len(wanted) == 1 or len(frame) <= self._most_bytes else b""


@dataclass(frozen=True, slots=True)
class Pushing:
    """`most_bytes` is what a frame with more than one event may come to, `clock_ms` the node's clock."""

    metrics: HubMetrics
    most_bytes: int
    clock_ms: Callable[[], int] = monotonic_ms

    def push(self, feed: Feed, entries: Sequence[Published]) -> Sequence[Session]:
        """Send the feed's next entries, between which nothing is, to those of its sessions that can have them at once.

        What came together goes out together. Returns the sessions that were sent nothing.
        """
        first, last = entries[0], entries[-1].position
        previous, position = first.previous, first.position
        now_ms = self.clock_ms()
        frames = Frames(entries, self.most_bytes)
        channel, many = frames.channel, len(feed.sessions) > _FEW
        left = []
        for session in feed.sessions.values():
            outlet = session.outlet
            if outlet is not None and session.goes_past(previous, position):
                since = session.subscriptions.get(channel)
                wants_all = since is not None and since < position
                frame = frames.for_all(session) if wants_all else frames.of(session)
                if frame and outlet(frame, one_of_many=many):
                    session.position = session.sent = last
                    session.told_at_ms = now_ms
                    continue
            left.append(session)
        pushed = len(feed.sessions) - len(left)
        if pushed:
            self._note(entries, pushed)
        return left

    def _note(self, entries: Sequence[Published], pushed: int) -> None:
        now_ms = wall_ms()
        for published in entries:
            for event in published.events:
                self.metrics.delivered(event.channel, pushed)
            if published.accepted_at_ms and published.events:
                self.metrics.handed_over(latency_s(published.accepted_at_ms, now_ms), pushed * len(published.events))
