"""The notifier's metrics, on Prometheus."""

from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter

from calltag.core.bayeux.endings import Ending
from calltag.core.domain.ids import UserId
from calltag.core.telemetry.metrics import Metrics
from calltag.notifier.cometd.authorizing import calls_channel_of
from calltag.notifier.cometd.metrics import Limit

_OF_ANY_USER: Final = calls_channel_of(UserId("{id}"))
_OF_USERS: Final = _OF_ANY_USER.partition("{")[0]


@dataclass(frozen=True, slots=True)
class NotifierObservations:
    """Implements HubMetrics."""

    metrics: Metrics
    _of_channels: dict[str, Counter] = field(default_factory=dict)

    def received(self, messages: int) -> None:
        self.metrics.cometd_messages.inc(messages)

    def refused(self, error: str) -> None:
        self.metrics.cometd_refused.labels(error.partition(":")[0]).inc()

    def limited(self, limit: Limit) -> None:
        self.metrics.cometd_limited.labels(limit.value).inc()

    def begun(self) -> None:
        self.metrics.cometd_handshakes.inc()

    def resumed(self) -> None:
        self.metrics.cometd_resumed.inc()

    def swept(self) -> None:
        self.metrics.cometd_swept.inc()

    def gap(self) -> None:
        self.metrics.cometd_gaps.inc()

    def delivered(self, channel: str, sessions: int) -> None:
        # A label for each user would be too many.
        kind = _OF_ANY_USER if channel.startswith(_OF_USERS) else channel
        deliveries = self._of_channels.get(kind)
        if deliveries is None:
            deliveries = self._of_channels[kind] = self.metrics.deliveries.labels(kind)
        deliveries.inc(sessions)

    def handed_over(self, latency_s: float, times: int = 1) -> None:
        self.metrics.delivery_seconds.observe_many(latency_s, times)

    def redelivered(self, events: int) -> None:
        self.metrics.cometd_redelivered.inc(events)


@dataclass(frozen=True, slots=True)
class EndingCounts:
    """Implements SessionListener."""

    metrics: Metrics

    def ended(self, session: str, user: str, ending: Ending) -> None:  # noqa: ARG002 - labels name nobody
        self.metrics.cometd_sessions_ended.labels(str(ending)).inc()
