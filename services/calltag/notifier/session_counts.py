"""What the sessions of a node come to at the moment: counted when somebody asks, so that it costs nothing else."""

from collections import Counter
from dataclasses import dataclass

from calltag.core.bayeux.engine import CALLBACK_POLLING, LONG_POLLING, WEBSOCKET
from calltag.core.telemetry.metrics import Metrics
from calltag.notifier.cometd.local import Local


@dataclass(frozen=True, slots=True)
class SessionCounts:
    """Sets the gauges about sessions."""

    metrics: Metrics
    local: Local

    def observe(self) -> None:
        """Look at every session once."""
        by_transport: Counter[str] = Counter()
        held = behind = events = size = 0
        for session in self.local.sessions.values():
            by_transport[session.transport] += 1
            held += session.held is not None
            behind += session.behind
            events += len(session.queue) + len(session.aside)
            size += session.queued_bytes
        for transport in (LONG_POLLING, CALLBACK_POLLING, WEBSOCKET):
            self.metrics.cometd_sessions.labels(transport).set(by_transport[transport])
        self.metrics.cometd_held_connects.set(held)
        self.metrics.cometd_sessions_behind.set(behind)
        self.metrics.cometd_queued_events.set(events)
        self.metrics.cometd_queued_bytes.set(size)
