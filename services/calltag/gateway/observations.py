"""The gateway's metrics, on Prometheus."""

from dataclasses import dataclass

from calltag.core.domain.status import StatusCode
from calltag.core.telemetry.metrics import Metrics
from calltag.gateway.metrics import Limit


@dataclass(frozen=True, slots=True)
class GatewayObservations:
    """Implements GatewayMetrics."""

    metrics: Metrics

    def accepted(self, operation: str) -> None:
        self.metrics.operations_accepted.labels(operation).inc()

    def refused(self, route: str, code: StatusCode) -> None:
        self.metrics.requests_refused.labels(route, int(code)).inc()

    def limited(self, limit: Limit) -> None:
        self.metrics.requests_limited.labels(limit.value).inc()

    def backlog(self, operations: int, age_s: float) -> None:
        self.metrics.backlog_operations.set(operations)
        self.metrics.backlog_age.set(age_s)

    def answered(self, route: str, http_status: int, seconds: float) -> None:
        self.metrics.http_requests.labels(route, http_status).inc()
        self.metrics.http_seconds.labels(route).observe(seconds)
