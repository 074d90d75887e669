"""The gateway's metrics in Prometheus."""

from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

from calltag.core.domain.status import StatusCode
from calltag.core.telemetry.metrics import Metrics
from calltag.gateway.metrics import GatewayLimit


@dataclass(frozen=True, slots=True)
class GatewayObservations:
    """Implements GatewayMetrics."""

    metrics: Metrics
    _accepted: dict[str, Counter] = field(default_factory=dict, init=False)
    _answered: dict[tuple[str, int], tuple[Counter, Histogram]] = field(default_factory=dict, init=False)
    """Cache of labelled metrics; there are few combinations."""

    def accepted(self, operation: str) -> None:
        counter = self._accepted.get(operation)
        if counter is None:
            counter = self._accepted[operation] = self.metrics.operations_accepted.labels(operation)
        counter.inc()

    def refused(self, route: str, code: StatusCode) -> None:
        self.metrics.requests_refused.labels(route, int(code)).inc()

    def limited(self, limit: GatewayLimit) -> None:
        self.metrics.requests_limited.labels(limit.value).inc()

    def backlog(self, operations: int, age_s: float) -> None:
        self.metrics.backlog_operations.set(operations)
        self.metrics.backlog_age.set(age_s)

    def answered(self, route: str, http_status: int, seconds: float) -> None:
        found = self._answered.get((route, http_status))
        if found is None:
            metrics = self.metrics
            found = metrics.http_requests.labels(route, http_status), metrics.http_seconds.labels(route)
            self._answered[route, http_status] = found
        requests, duration = found
        requests.inc()
        duration.observe(seconds)
