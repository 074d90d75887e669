"""The gateway's metrics; labels are names of operations, routes, codes and limits, never contents."""

from enum import StrEnum

from prometheus_client import Counter

from calltag.core.domain.status import StatusCode
from calltag.core.http.metrics import HttpMetrics
from calltag.core.telemetry.metrics import Metrics


class GatewayLimit(StrEnum):
    """A limit that may refuse requests, by the name of its setting."""

    QUEUED_REQUESTS = "max_queued_requests"
    QUEUE_DEADLINE = "queue_deadline_s"
    LIVE_CALLS = "max_live_calls"
    CALLS_BYTES = "max_calls_bytes"
    IN_FLIGHT = "max_in_flight"
    WAITING = "max_waiting"
    BACKLOG = "max_backlog"
    BACKLOG_AGE = "max_backlog_age_s"
    USER_RATE = "user_operations_per_s"
    ADDRESS_RATE = "address_operations_per_s"


class GatewayMetrics:
    """Operations, refusals and the backlog."""

    def __init__(self, metrics: Metrics) -> None:
        self.http = HttpMetrics(metrics)
        self._accepted = metrics.counter(
            "operations_accepted", "Operations accepted: published with a publisher confirm.", "operation"
        )
        self._refused = metrics.counter("requests_refused", "Requests refused.", "route", "code")
        self._limited = metrics.counter(
            "requests_limited", "Requests refused at a limit of the gateway, by setting.", "limit"
        )
        self.requests_in_flight = metrics.gauge("requests_in_flight", "Requests in flight.")
        self.requests_queued = metrics.gauge("requests_queued", "Requests in the admission queue.")
        self.backlog_operations = metrics.gauge("backlog_operations", "Queued operations of the fullest partition.")
        self.backlog_age = metrics.gauge(
            "backlog_age_seconds", "Age of the oldest operation that a worker received lately."
        )
        self._accepted_by_name: dict[str, Counter] = {}
        """Cache of labelled counters, which are slow to look up."""

    def accepted(self, operation: str) -> None:
        """Count an operation that RabbitMQ confirmed."""
        counter = self._accepted_by_name.get(operation)
        if counter is None:
            counter = self._accepted_by_name[operation] = self._accepted.labels(operation)
        counter.inc()

    def refused(self, route: str, code: StatusCode) -> None:
        """Count a refused request."""
        self._refused.labels(route, int(code)).inc()

    def limited(self, limit: GatewayLimit) -> None:
        """Count a request that a limit refused."""
        self._limited.labels(limit.value).inc()
