"""Metrics and log events of a notifier's sessions."""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Final

import prometheus_client
import structlog

from calltag.core.bayeux.engine import CALLBACK_POLLING, LONG_POLLING, WEBSOCKET
from calltag.core.bayeux.events import Queued
from calltag.core.bayeux.messages import BayeuxLimit
from calltag.core.bayeux.session import Ending, Session, SessionPhase
from calltag.core.domain.ids import UserId
from calltag.core.http.metrics import http_requests
from calltag.core.telemetry.metrics import LATENCY_S, Metrics
from calltag.notifier.channel_policy import calls_channel_of
from calltag.notifier.session_registry import Resident

log = structlog.get_logger()
_OF_ANY_USER: Final = calls_channel_of(UserId("{id}"))
_OF_USERS: Final = _OF_ANY_USER.partition("{")[0]
_MOST_LATENCIES: Final = 4_096
_LONGEST_MS: Final = 2**53
"""Upper bound of the observed delay, which a wrong clock could make arbitrarily large."""


def wall_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class NotifierMetrics:
    """The counters of one notifier; labels are channels that calltag publishes on, codes of errors, and limits."""

    def __init__(self, metrics: Metrics) -> None:
        counter, gauge = metrics.counter, metrics.gauge
        self.events_received = counter("events_received", "Events received from workers.")
        self._deliveries = counter("deliveries", "Messages delivered to CometD sessions.", "channel")
        self._delivery_seconds = metrics.bulk_histogram(
            "delivery_seconds",
            "Time from the acceptance of an operation to the first write of its event to a session.",
            LATENCY_S,
        )
        self._sessions = gauge("cometd_sessions", "CometD sessions with their home at this node.", "transport")
        self._suspended = gauge("cometd_suspended_connects", "Suspended /meta/connect requests.")
        self._behind = gauge(
            "cometd_sessions_behind", "Sessions that lag behind their user's stream because their queue is full."
        )
        self._queued_events = gauge("cometd_queued_events", "Events in session queues.")
        self._queued_bytes = gauge("cometd_queued_bytes", "Bytes in session queues.")
        self.messages = counter("cometd_messages", "Bayeux messages received.")
        self._refused = counter("cometd_refused", "Bayeux messages refused, by code.", "code")
        self._limited = counter("cometd_limited", "Requests that met a limit of the notifier, by setting.", "limit")
        self.handshakes = counter("cometd_handshakes", "Handshakes that began a session.")
        self.sessions_resumed = counter("cometd_sessions_resumed", "Sessions taken over from another node.")
        self._redelivered = counter("cometd_redelivered", "Events sent again because the client may lack them.")
        self.repeated_after_crash = counter(
            "cometd_repeated_after_crash",
            "Events sent, possibly again, to sessions whose former home crashed before a save.",
        )
        self.fast_connects = counter("cometd_fast_connects", "Connects handled from memory by the session's home.")
        self.claims = counter("cometd_claims", "Connects that claimed the session from Redis.")
        self.flushes = counter("cometd_flushes", "Flushes asked of and answered by former homes.", "outcome")
        self.background_failures = counter("cometd_background_failures", "Failed saves and other background tasks.")
        self.sessions_swept = counter("cometd_sessions_swept", "Sessions swept because no connect came.")
        self._ended = counter("cometd_sessions_ended", "CometD sessions ended, by reason.", "reason")
        self.gaps_filled = counter("cometd_gaps_filled", "Gaps in received events, filled from the user's stream.")
        self._http_requests = http_requests(metrics)
        self._deliveries_of: dict[str, prometheus_client.Counter] = {}
        self._requests: dict[tuple[str, int], prometheus_client.Counter] = {}
        self._counts: dict[prometheus_client.Counter, int] = {}
        self._latencies: Counter[int] = Counter()

    def add(self, counter: prometheus_client.Counter) -> None:
        """Increment a counter at the next `flush`, because its lock is slow."""
        self._counts[counter] = self._counts.get(counter, 0) + 1

    def answered(self, path: str, status: int) -> None:
        """Count an answered HTTP request."""
        counter = self._requests.get((path, status))
        if counter is None:
            counter = self._requests[path, status] = self._http_requests.labels(path, str(status))
        self.add(counter)

    def flush(self) -> None:
        """Add the counts to the exported counters."""
        counts, self._counts = self._counts, {}
        for counter, times in counts.items():
            counter.inc(times)
        latencies, self._latencies = self._latencies, Counter()
        for latency_ms, times in latencies.items():
            self._delivery_seconds.observe_many(latency_ms / 1000, times)

    def refused(self, error: object) -> None:
        """Count a refused message by its error, `code:arguments:text`."""
        self._refused.labels(str(error).partition(":")[0]).inc()

    def limited(self, limit: BayeuxLimit) -> None:
        """Count a request that a limit refused or delayed."""
        self._limited.labels(limit.value).inc()

    def delivered(self, channel: str, sessions: int) -> None:
        """Count a message queued for sessions."""
        # A label for each user would be too many time series.
        kind = _OF_ANY_USER if channel.startswith(_OF_USERS) else channel
        deliveries = self._deliveries_of.get(kind)
        if deliveries is None:
            deliveries = self._deliveries_of[kind] = self._deliveries.labels(kind)
        deliveries.inc(sessions)

    def handed_over(self, accepted_at_ms: int, now_ms: int, times: int = 1) -> None:
        """Observe the delay from acceptance of an operation to the write of its event."""
        self._latencies[min(max(0, now_ms - accepted_at_ms), _LONGEST_MS)] += times
        if len(self._latencies) > _MOST_LATENCIES:
            self.flush()

    def taken(self, session: Session, taken: Iterable[Queued]) -> None:
        """Observe events taken from the queue of a session."""
        now_ms, repeated, highest = wall_ms(), 0, session.highest
        for position, _, accepted_at_ms in taken:
            if position <= highest:
                repeated += 1
            elif accepted_at_ms:
                self.handed_over(accepted_at_ms, now_ms)
        if repeated:
            self._redelivered.inc(repeated)

    def ended(self, handle: str, user: str, ending: Ending) -> None:
        """Log the end of a session: usually once in the installation, by the node that ended it."""
        self._ended.labels(str(ending)).inc()
        log.info("cometd_session_ended", reason=str(ending), user=user, session=handle)

    def observe(self, residents: Iterable[Resident]) -> None:
        """Set the gauges and flush the counters, for a scrape."""
        self.flush()
        by_transport: Counter[str] = Counter()
        suspended = behind = events = size = 0
        for resident in residents:
            session = resident.session
            by_transport[session.transport] += 1
            suspended += resident.suspended is not None
            behind += session.state is SessionPhase.BEHIND
            events += len(session.queue) + len(session.aside)
            size += session.queued_bytes
        for transport in (LONG_POLLING, CALLBACK_POLLING, WEBSOCKET):
            self._sessions.labels(transport).set(by_transport[transport])
        self._suspended.set(suspended)
        self._behind.set(behind)
        self._queued_events.set(events)
        self._queued_bytes.set(size)
