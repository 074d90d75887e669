"""Metrics of HTTP requests and connections, the same for all services that have clients."""

from collections.abc import Callable

from prometheus_client import Counter, Histogram

from calltag.core.telemetry.metrics import LATENCY_S, Metrics


def http_requests(metrics: Metrics) -> Counter:
    """Return the counter of HTTP requests; a route is a pattern, since addresses have too many values for a label."""
    return metrics.counter("http_requests", "HTTP requests, by status.", "route", "status")


class HttpMetrics:
    """`answered` counts a response, and observes its duration."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = http_requests(metrics)
        self._seconds = metrics.histogram("http_request_seconds", "Duration of an HTTP request.", LATENCY_S, "route")
        self._answered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        """Cache of labelled metrics; there are few combinations."""

    def answered(self, route: str, status: int, seconds: float) -> None:
        found = self._answered.get((route, status))
        if found is None:
            found = self._answered[route, status] = self._requests.labels(route, status), self._seconds.labels(route)
        requests, duration = found
        requests.inc()
        duration.observe(seconds)


class ServerMetrics:
    """Counts what the HTTP server refuses, and shows its open connections."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._refused = metrics.counter(
            "http_refused", "Connections and requests refused or closed by the HTTP server, by limit.", "limit"
        )
        self._connections = metrics.gauge("http_connections", "Open client connections.")

    def refused(self, limit: str) -> None:
        """Count a refusal at a limit."""
        self._refused.labels(limit).inc()

    def show(self, connections: Callable[[], int]) -> None:
        """Set the gauge at each scrape."""
        self._metrics.before_scrape(lambda: self._connections.set(connections()))
