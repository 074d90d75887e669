"""Events on their straight way out: to the clients for which nothing waits, in one frame that all of them are sent.

What cannot go that way goes through the queues of the sessions, and their transports are woken.
"""

from collections.abc import Callable
from dataclasses import dataclass

from calltag.core.bayeux.events import Published
from calltag.core.bayeux.feed import Feed
from calltag.core.runtime.frames import text_frame
from calltag.notifier.cometd.clocks import latency_s, monotonic_ms, wall_ms
from calltag.notifier.cometd.metrics import HubMetrics


@dataclass(frozen=True, slots=True)
class Pushing:
    """`clock_ms` is the node's."""

    metrics: HubMetrics
    clock_ms: Callable[[], int] = monotonic_ms

    def push(self, feed: Feed, published: Published) -> None:
        """Send the feed's next entry to those of its sessions that can have it at once."""
        now_ms = self.clock_ms()
        bodies: list[bytes] = []
        frame = b""
        pushed = messages = 0
        for session in feed.sessions.values():
            outlet = session.outlet
            if outlet is None or not session.goes_past(published):
                continue
            wanted = session.wanted(published)
            if not wanted:
                continue
            if wanted != bodies:
                bodies = wanted
                frame = text_frame(b"[" + b",".join(wanted) + b"]")
            if outlet(frame):
                session.position = session.sent = published.position
                session.told_at_ms = now_ms
                pushed += 1
                messages += len(wanted)
        if pushed:
            self._note(published, pushed, messages)

    def _note(self, published: Published, pushed: int, messages: int) -> None:
        for event in published.events:
            self.metrics.delivered(event.channel, pushed)
        if published.accepted_at_ms:
            self.metrics.handed_over(latency_s(published.accepted_at_ms, wall_ms()), messages)
