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
    operations_unreadable: Counter = field(init=False)
    operations_retried: Counter = field(init=False)
    operations_parked: Counter = field(init=False)
    operations_waiting: Gauge = field(init=False)
    marked: Gauge = field(init=False)
    batch_size: Histogram = field(init=False)
    commit_seconds: Histogram = field(init=False)
    store_window_bytes: Gauge = field(init=False)
    partitions_owned: Gauge = field(init=False)
    partitions_missing: Gauge = field(init=False)
    operations_in_hand: Gauge = field(init=False)
    oldest_operation_seconds: Gauge = field(init=False)
    takeovers: Counter = field(init=False)
    fenced: Counter = field(init=False)
    partitions_failed: Counter = field(init=False)
    store_lost_commits: Counter = field(init=False)
    operations_reapplied: Counter = field(init=False)
    commits_gone: Counter = field(init=False)
    node_messages_sent: Counter = field(init=False)
    http_requests: Counter = field(init=False)
    http_seconds: Histogram = field(init=False)
    http_refused: Counter = field(init=False)
    http_connections: Gauge = field(init=False)
    requests_refused: Counter = field(init=False)
    requests_limited: Counter = field(init=False)
    requests_in_hand: Gauge = field(init=False)
    requests_queued: Gauge = field(init=False)
    backlog_operations: Gauge = field(init=False)
    backlog_age: Gauge = field(init=False)
    calls_silent: Counter = field(init=False)
    logins_failed: Counter = field(init=False)
    logins_locked_out: Counter = field(init=False)
    http_sessions_displaced: Counter = field(init=False)
    events_received: Counter = field(init=False)
    deliveries: Counter = field(init=False)
    delivery_seconds: ManyTimes = field(init=False)
    cometd_sessions: Gauge = field(init=False)
    cometd_held_connects: Gauge = field(init=False)
    cometd_sessions_behind: Gauge = field(init=False)
    cometd_queued_events: Gauge = field(init=False)
    cometd_queued_bytes: Gauge = field(init=False)
    cometd_messages: Counter = field(init=False)
    cometd_refused: Counter = field(init=False)
    cometd_limited: Counter = field(init=False)
    cometd_handshakes: Counter = field(init=False)
    cometd_resumed: Counter = field(init=False)
    cometd_redelivered: Counter = field(init=False)
    cometd_repeated_after_crash: Counter = field(init=False)
    cometd_fast_connects: Counter = field(init=False)
    cometd_claims: Counter = field(init=False)
    cometd_flushes: Counter = field(init=False)
    cometd_failed_background_work: Counter = field(init=False)
    cometd_swept: Counter = field(init=False)
    cometd_sessions_ended: Counter = field(init=False)
    cometd_gaps: Counter = field(init=False)
    bus_connections: Gauge = field(init=False)
    bus_blocked: Gauge = field(init=False)
    bus_consumers: Gauge = field(init=False)
    bus_consumers_missing: Gauge = field(init=False)
    bus_repairs: Counter = field(init=False)
    check: Gauge = field(init=False)
    log_dropped: Counter = field(init=False)

    def __post_init__(self) -> None:
        self._worker()
        self._gateway()
        self._logins()
        self._notifier()
        self._bus()
        self.check = self._gauge("check", "1 while the readiness check of that name holds.", "check")
        self._output()

    def exposition(self) -> bytes:
        """All metrics in Prometheus's text form."""
        for observe in self.observers:
            observe()
        return generate_latest(self.registry)

    def _worker(self) -> None:
        self.operations_applied = self._counter(
            "operations_applied", "Operations judged by the worker, by statusCode.", "operation", "code"
        )
        self.operations_repeated = self._counter(
            "operations_repeated", "Operations recognised as done before.", "operation"
        )
        self.operations_unreadable = self._counter("operations_unreadable", "Messages that were no operations.")
        self.operations_retried = self._counter("operations_retried", "Times that a failed operation was tried again.")
        self.operations_parked = self._counter("operations_parked", "Operations parked, by reason.", "reason")
        self.operations_waiting = self._gauge(
            "operations_waiting", "Operations that wait since one of their call fails.", "partition"
        )
        self.marked = self._gauge("marked", "Calls and agents that are marked: an operation is parked.", "partition")
        self.batch_size = self._histogram("batch_size", "Operations in one commit.", _SIZES)
        self.commit_seconds = self._histogram("commit_seconds", "Time that a commit took.", _LATENCY_S)
        self.store_window_bytes = self._gauge(
            "store_window_bytes", "Bytes that may be on their way to Redis at a time; fewer where the link is slow."
        )
        self.partitions_owned = self._gauge("partitions_owned", "Partitions that this worker works on.")
        self.partitions_missing = self._gauge(
            "partitions_missing", "Partitions that fall to this worker and that it has no consumer of."
        )
        self.operations_in_hand = self._gauge(
            "operations_in_hand", "Operations that this worker has of the broker and has not acknowledged."
        )
        self.oldest_operation_seconds = self._gauge(
            "oldest_operation_seconds", "Age, since its acceptance, of the oldest operation in hand; 0 without any."
        )
        self.takeovers = self._counter("takeovers", "Partitions taken over.")
        self.fenced = self._counter("fenced", "Times that another worker had taken over in the middle of work.")
        self.partitions_failed = self._counter(
            "partitions_failed", "Times that work on a partition failed unexpectedly."
        )
        self.calls_silent = self._counter("calls_silent", "Calls ended since the switch told nothing of them any more.")
        self.store_lost_commits = self._counter("store_lost_commits", "Commits that the store had confirmed and lost.")
        self.operations_reapplied = self._counter(
            "operations_reapplied", "Operations applied again, since the store had lost them."
        )
        self.commits_gone = self._counter("commits_gone", "Lost commits of which the operations are not at hand.")
        self.node_messages_sent = self._counter("node_messages_sent", "Messages sent to notifiers and gateways.")

    def _gateway(self) -> None:
        self.operations_accepted = self._counter(
            "operations_accepted", "Operations confirmed by the broker.", "operation"
        )
        self.http_requests = self._counter("http_requests", "Requests answered.", "route", "status")
        self.http_seconds = self._histogram("http_request_seconds", "Time to answer a request.", _LATENCY_S, "route")
        self.http_refused = self._counter(
            "http_refused", "Connections and requests that the server itself refused or cut off, by the limit.", "limit"
        )
        self.http_connections = self._gauge("http_connections", "Open connections of clients.")
        self.requests_refused = self._counter("requests_refused", "Requests refused.", "route", "code")
        self.requests_limited = self._counter(
            "requests_limited", "Requests refused at a limit of the gateway, by the name of its setting.", "limit"
        )
        self.requests_in_hand = self._gauge("requests_in_hand", "Requests worked on.")
        self.requests_queued = self._gauge("requests_queued", "Requests that wait their turn.")
        self.backlog_operations = self._gauge(
            "backlog_operations", "Operations that wait for the worker of the fullest partition."
        )
        self.backlog_age = self._gauge("backlog_age_seconds", "Age of the oldest operation that a worker took up.")

    def _logins(self) -> None:
        self.logins_failed = self._counter("logins_failed", "Passwords that were wrong.")
        self.logins_locked_out = self._counter(
            "logins_locked_out",
            "Logins refused unseen after too many wrong passwords, of the user or from the address.",
            "by",
        )
        self.http_sessions_displaced = self._counter(
            "http_sessions_displaced", "HTTP sessions that ended because their user had too many."
        )

    def _notifier(self) -> None:
        self.events_received = self._counter("events_received", "Events received from workers.")
        self.deliveries = self._counter("deliveries", "Messages handed to CometD sessions.", "channel")
        self.delivery_seconds = ManyTimes(
            "calltag_delivery_seconds",
            "From the acceptance of an operation until an event of it first goes to the transport of a session.",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.cometd_sessions = self._gauge("cometd_sessions", "CometD sessions that this node holds.", "transport")
        self.cometd_held_connects = self._gauge("cometd_held_connects", "Connects that wait for their answer.")
        self.cometd_sessions_behind = self._gauge(
            "cometd_sessions_behind", "Sessions with more in their streams than their queues hold."
        )
        self.cometd_queued_events = self._gauge("cometd_queued_events", "Events that wait in sessions' queues.")
        self.cometd_queued_bytes = self._gauge("cometd_queued_bytes", "Bytes that wait in sessions' queues.")
        self.cometd_messages = self._counter("cometd_messages", "Bayeux messages received.")
        self.cometd_refused = self._counter("cometd_refused", "Bayeux messages refused, by code.", "code")
        self.cometd_limited = self._counter(
            "cometd_limited", "Times that a limit of the notifier was met, by the name of its setting.", "limit"
        )
        self.cometd_handshakes = self._counter("cometd_handshakes", "Handshakes that made a session.")
        self.cometd_resumed = self._counter("cometd_resumed", "Sessions that came here from another node.")
        self.cometd_redelivered = self._counter(
            "cometd_redelivered", "Events sent once more, since the client may lack them."
        )
        self.cometd_repeated_after_crash = self._counter(
            "cometd_repeated_after_crash",
            "Events sent, perhaps again, to sessions whose former home crashed before it saved them.",
        )
        self.cometd_fast_connects = self._counter(
            "cometd_fast_connects", "Connects answered or suspended from memory, by the session's home."
        )
        self.cometd_claims = self._counter(
            "cometd_claims", "Connects for which the session was claimed from the store."
        )
        self.cometd_flushes = self._counter(
            "cometd_flushes", "Claims that asked the former home for what it had not saved.", "outcome"
        )
        self.cometd_failed_background_work = self._counter(
            "cometd_failed_background_work", "Saves and other work in the background that failed."
        )
        self.cometd_swept = self._counter("cometd_swept", "Silent sessions forgotten.")
        self.cometd_sessions_ended = self._counter(
            "cometd_sessions_ended", "CometD sessions ended, by reason.", "reason"
        )
        self.cometd_gaps = self._counter("cometd_gaps", "Gaps before events that came, filled from the stream.")

    def _bus(self) -> None:
        self.bus_connections = self._gauge("bus_connections", "Connections to RabbitMQ that stand, of two.")
        self.bus_blocked = self._gauge(
            "bus_blocked", "1 while RabbitMQ takes no messages from this process, for want of memory or disk."
        )
        self.bus_consumers = self._gauge("bus_consumers", "Consumers of this process that are there.")
        self.bus_consumers_missing = self._gauge(
            "bus_consumers_missing", "Consumers of this process that should be there and are not."
        )
        self.bus_repairs = self._counter(
            "bus_repairs", "Connections and consumers built anew, by what it was and why.", "part", "reason"
        )

    def _output(self) -> None:
        self.log_dropped = self._counter("log_dropped", "Lines of output dropped since nobody read them fast enough.")
        counted = 0

        def observe() -> None:
            nonlocal counted
            dropped = dropped_lines()
            self.log_dropped.inc(dropped - counted)
            counted = dropped

        self.observers.append(observe)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"calltag_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"calltag_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"calltag_{name}", text, labels, buckets=buckets, registry=self.registry)
