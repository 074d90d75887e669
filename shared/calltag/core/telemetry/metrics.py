"""All metrics of calltag, in one place.

Labels have few values, and none that users choose: names of operations, statusCodes, patterns of routes, channels that
calltag publishes on, partitions, names of checks, names of limits, transports, reasons of calltag's own.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from calltag.core.telemetry.output import dropped_lines

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_LATENCY_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


class ManyTimes(Histogram):
    """A histogram that is told at once of what took place many times. It has no labels."""

    def observe_many(self, amount: float, times: int) -> None:
        """The same amount was observed so many times."""
        self._sum.inc(amount * times)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(times)


@dataclass(slots=True)
class Metrics:
    """The metrics of one process, on a registry of its own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    observers: list[Callable[[], None]] = field(default_factory=list)
    """What sets gauges when somebody asks for them."""
    operations_accepted: Counter = field(init=False)
    operations_applied: Counter = field(init=False)
    operations_repeated: Counter = field(init=False)
    operations_malformed: Counter = field(init=False)
    operations_retried: Counter = field(init=False)
    operations_parked: Counter = field(init=False)
    operations_blocked: Gauge = field(init=False)
    calls_blocked: Gauge = field(init=False)
    commit_operations: Histogram = field(init=False)
    commit_seconds: Histogram = field(init=False)
    store_window_bytes: Gauge = field(init=False)
    partitions_owned: Gauge = field(init=False)
    partitions_not_consumed: Gauge = field(init=False)
    operations_unacknowledged: Gauge = field(init=False)
    oldest_operation_seconds: Gauge = field(init=False)
    partition_takeovers: Counter = field(init=False)
    partitions_fenced: Counter = field(init=False)
    partitions_failed: Counter = field(init=False)
    commits_lost: Counter = field(init=False)
    operations_reapplied: Counter = field(init=False)
    commits_unrecoverable: Counter = field(init=False)
    node_messages_sent: Counter = field(init=False)
    http_requests: Counter = field(init=False)
    http_seconds: Histogram = field(init=False)
    http_refused: Counter = field(init=False)
    http_connections: Gauge = field(init=False)
    requests_refused: Counter = field(init=False)
    requests_limited: Counter = field(init=False)
    requests_in_flight: Gauge = field(init=False)
    requests_queued: Gauge = field(init=False)
    backlog_operations: Gauge = field(init=False)
    backlog_age: Gauge = field(init=False)
    silent_calls_ended: Counter = field(init=False)
    logins_failed: Counter = field(init=False)
    logins_locked_out: Counter = field(init=False)
    http_sessions_evicted: Counter = field(init=False)
    events_received: Counter = field(init=False)
    deliveries: Counter = field(init=False)
    delivery_seconds: ManyTimes = field(init=False)
    cometd_sessions: Gauge = field(init=False)
    cometd_suspended_connects: Gauge = field(init=False)
    cometd_sessions_behind: Gauge = field(init=False)
    cometd_queued_events: Gauge = field(init=False)
    cometd_queued_bytes: Gauge = field(init=False)
    cometd_messages: Counter = field(init=False)
    cometd_refused: Counter = field(init=False)
    cometd_limited: Counter = field(init=False)
    cometd_handshakes: Counter = field(init=False)
    cometd_sessions_resumed: Counter = field(init=False)
    cometd_redelivered: Counter = field(init=False)
    cometd_repeated_after_crash: Counter = field(init=False)
    cometd_fast_connects: Counter = field(init=False)
    cometd_claims: Counter = field(init=False)
    cometd_flushes: Counter = field(init=False)
    cometd_background_failures: Counter = field(init=False)
    cometd_sessions_swept: Counter = field(init=False)
    cometd_sessions_ended: Counter = field(init=False)
    cometd_gaps_filled: Counter = field(init=False)
    broker_connections: Gauge = field(init=False)
    broker_blocked: Gauge = field(init=False)
    broker_consumers: Gauge = field(init=False)
    broker_consumers_missing: Gauge = field(init=False)
    broker_recoveries: Counter = field(init=False)
    readiness_check: Gauge = field(init=False)
    log_lines_dropped: Counter = field(init=False)

    def __post_init__(self) -> None:
        self._worker()
        self._gateway()
        self._logins()
        self._notifier()
        self._bus()
        self.readiness_check = self._gauge(
            "readiness_check", "1 while the readiness check of that name passes.", "check"
        )
        self._output()

    def exposition(self) -> bytes:
        """All metrics in Prometheus's text form."""
        for observe in self.observers:
            observe()
        return generate_latest(self.registry)

    def _worker(self) -> None:
        self.operations_applied = self._counter(
            "operations_applied", "Operations applied or refused by the worker, by statusCode.", "operation", "code"
        )
        self.operations_repeated = self._counter(
            "operations_repeated", "Redelivered operations that had taken effect before.", "operation"
        )
        self.operations_malformed = self._counter("operations_malformed", "Messages that are not valid operations.")
        self.operations_retried = self._counter("operations_retried", "Retries of failed operations.")
        self.operations_parked = self._counter("operations_parked", "Parked operations, by reason.", "reason")
        self.operations_blocked = self._gauge(
            "operations_blocked", "Operations blocked behind a failing one of the same call.", "partition"
        )
        self.calls_blocked = self._gauge(
            "calls_blocked", "Calls and agents blocked by a parked operation.", "partition"
        )
        self.commit_operations = self._histogram("commit_operations", "Operations per commit.", _SIZES)
        self.commit_seconds = self._histogram("commit_seconds", "Duration of a commit.", _LATENCY_S)
        self.store_window_bytes = self._gauge(
            "store_window_bytes", "Byte window of requests to Redis in flight; it shrinks on a slow link."
        )
        self.partitions_owned = self._gauge("partitions_owned", "Partitions assigned to this worker.")
        self.partitions_not_consumed = self._gauge(
            "partitions_not_consumed", "Partitions assigned to this worker without a consumer."
        )
        self.operations_unacknowledged = self._gauge(
            "operations_unacknowledged", "Operations delivered to this worker and not acknowledged."
        )
        self.oldest_operation_seconds = self._gauge(
            "oldest_operation_seconds",
            "Age of the oldest unacknowledged operation since its acceptance; 0 if there is none.",
        )
        self.partition_takeovers = self._counter("partition_takeovers", "Take-overs of partitions.")
        self.partitions_fenced = self._counter(
            "partitions_fenced", "Commits refused because another worker has taken the partition over."
        )
        self.partitions_failed = self._counter("partitions_failed", "Unexpected failures of a partition.")
        self.silent_calls_ended = self._counter(
            "silent_calls_ended", "Calls ended because the switch sent no events for them."
        )
        self.commits_lost = self._counter("commits_lost", "Confirmed commits that Redis has lost in a failover.")
        self.operations_reapplied = self._counter(
            "operations_reapplied", "Operations applied again after Redis had lost their commit."
        )
        self.commits_unrecoverable = self._counter(
            "commits_unrecoverable", "Lost commits whose operations are not in memory."
        )
        self.node_messages_sent = self._counter("node_messages_sent", "Messages published to notifiers and gateways.")

    def _gateway(self) -> None:
        self.operations_accepted = self._counter(
            "operations_accepted", "Operations accepted: published with a publisher confirm.", "operation"
        )
        self.http_requests = self._counter("http_requests", "HTTP requests, by status.", "route", "status")
        self.http_seconds = self._histogram("http_request_seconds", "Duration of an HTTP request.", _LATENCY_S, "route")
        self.http_refused = self._counter(
            "http_refused", "Connections and requests refused or closed by the HTTP server, by limit.", "limit"
        )
        self.http_connections = self._gauge("http_connections", "Open client connections.")
        self.requests_refused = self._counter("requests_refused", "Requests refused.", "route", "code")
        self.requests_limited = self._counter(
            "requests_limited", "Requests refused at a limit of the gateway, by setting.", "limit"
        )
        self.requests_in_flight = self._gauge("requests_in_flight", "Requests in flight.")
        self.requests_queued = self._gauge("requests_queued", "Requests in the admission queue.")
        self.backlog_operations = self._gauge("backlog_operations", "Queued operations of the fullest partition.")
        self.backlog_age = self._gauge(
            "backlog_age_seconds", "Age of the oldest operation that a worker received lately."
        )

    def _logins(self) -> None:
        self.logins_failed = self._counter("logins_failed", "Failed logins.")
        self.logins_locked_out = self._counter(
            "logins_locked_out",
            "Logins refused during a lock-out, by user or address.",
            "by",
        )
        self.http_sessions_evicted = self._counter(
            "http_sessions_evicted", "HTTP sessions evicted because their user had too many."
        )

    def _notifier(self) -> None:
        self.events_received = self._counter("events_received", "Events received from workers.")
        self.deliveries = self._counter("deliveries", "Messages delivered to CometD sessions.", "channel")
        self.delivery_seconds = ManyTimes(
            "calltag_delivery_seconds",
            "Time from the acceptance of an operation to the first write of its event to a session.",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.cometd_sessions = self._gauge(
            "cometd_sessions", "CometD sessions with their home at this node.", "transport"
        )
        self.cometd_suspended_connects = self._gauge("cometd_suspended_connects", "Suspended /meta/connect requests.")
        self.cometd_sessions_behind = self._gauge(
            "cometd_sessions_behind", "Sessions that lag behind their user's stream because their queue is full."
        )
        self.cometd_queued_events = self._gauge("cometd_queued_events", "Events in session queues.")
        self.cometd_queued_bytes = self._gauge("cometd_queued_bytes", "Bytes in session queues.")
        self.cometd_messages = self._counter("cometd_messages", "Bayeux messages received.")
        self.cometd_refused = self._counter("cometd_refused", "Bayeux messages refused, by code.", "code")
        self.cometd_limited = self._counter(
            "cometd_limited", "Requests that met a limit of the notifier, by setting.", "limit"
        )
        self.cometd_handshakes = self._counter("cometd_handshakes", "Handshakes that began a session.")
        self.cometd_sessions_resumed = self._counter(
            "cometd_sessions_resumed", "Sessions taken over from another node."
        )
        self.cometd_redelivered = self._counter(
            "cometd_redelivered", "Events sent again because the client may lack them."
        )
        self.cometd_repeated_after_crash = self._counter(
            "cometd_repeated_after_crash",
            "Events sent, possibly again, to sessions whose former home crashed before a save.",
        )
        self.cometd_fast_connects = self._counter(
            "cometd_fast_connects", "Connects handled from memory by the session's home."
        )
        self.cometd_claims = self._counter("cometd_claims", "Connects that claimed the session from Redis.")
        self.cometd_flushes = self._counter(
            "cometd_flushes", "Flushes asked of and answered by former homes.", "outcome"
        )
        self.cometd_background_failures = self._counter(
            "cometd_background_failures", "Failed saves and other background tasks."
        )
        self.cometd_sessions_swept = self._counter("cometd_sessions_swept", "Sessions swept because no connect came.")
        self.cometd_sessions_ended = self._counter(
            "cometd_sessions_ended", "CometD sessions ended, by reason.", "reason"
        )
        self.cometd_gaps_filled = self._counter(
            "cometd_gaps_filled", "Gaps in received events, filled from the user's stream."
        )

    def _bus(self) -> None:
        self.broker_connections = self._gauge("broker_connections", "Open connections to RabbitMQ, of two.")
        self.broker_blocked = self._gauge(
            "broker_blocked", "1 while RabbitMQ blocks this connection because of a memory or disk alarm."
        )
        self.broker_consumers = self._gauge("broker_consumers", "Active consumers of this process.")
        self.broker_consumers_missing = self._gauge("broker_consumers_missing", "Missing consumers of this process.")
        self.broker_recoveries = self._counter(
            "broker_recoveries", "Connections and consumers re-established, by part and reason.", "part", "reason"
        )

    def _output(self) -> None:
        self.log_lines_dropped = self._counter(
            "log_lines_dropped", "Log lines dropped because the output was read too slowly."
        )
        counted = 0

        def observe() -> None:
            nonlocal counted
            dropped = dropped_lines()
            self.log_lines_dropped.inc(dropped - counted)
            counted = dropped

        self.observers.append(observe)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"calltag_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"calltag_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"calltag_{name}", text, labels, buckets=buckets, registry=self.registry)
