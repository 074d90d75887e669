"""Events on their straight way out: to the clients for which nothing waits, in one frame that all of them are sent.

What cannot go that way goes through the queues of the sessions, and their transports are woken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from calltag.core.bayeux.codec import encode
from calltag.core.bayeux.events import Published
from calltag.core.bayeux.feed import Feed
from calltag.core.runtime.frames import text_frame
from calltag.notifier.cometd.clocks import latency_s, monotonic_ms, wall_ms
from calltag.notifier.cometd.metrics import HubMetrics


@dataclass(frozen=True, slots=True)
class Pushing:
    """`most_bytes` is what a frame with more than one event may come to, `clock_ms` the node's clock."""

    metrics: HubMetrics
    most_bytes: int
    clock_ms: Callable[[], int] = monotonic_ms

    def push(self, feed: Feed, entries: Sequence[Published]) -> None:
        """Send the feed's next entries, between which nothing is, to those of its sessions that can have them at once.

        What came together goes out together.
        """
        first, last = entries[0], entries[-1].position
        now_ms = self.clock_ms()
        bodies: list[bytes] = []
        frame = b""
        pushed = 0
        for session in feed.sessions.values():
            outlet = session.outlet
            if outlet is None or not session.goes_past(first):
                continue
            wanted = session.wanted(entries)
            if not wanted:
                continue
            if wanted != bodies:
                bodies, frame = wanted, text_frame(encode(wanted, ()))
            if (len(wanted) == 1 or len(frame) <= self.most_bytes) and outlet(frame):
                session.position = session.sent = last
                session.told_at_ms = now_ms
                pushed += 1
        if pushed:
            self._note(entries, pushed)

    def _note(self, entries: Sequence[Published], pushed: int) -> None:
        now_ms = wall_ms()
        for published in entries:
            for event in published.events:
                self.metrics.delivered(event.channel, pushed)
            if published.accepted_at_ms and published.events:
                self.metrics.handed_over(latency_s(published.accepted_at_ms, now_ms), pushed * len(published.events))
