"""The worker's metrics; labels are names of operations, codes, partitions and reasons, never contents."""

from collections.abc import Sequence

from calltag.core.broker.ports import Partition
from calltag.core.store.ports import HeldPartition
from calltag.core.telemetry.metrics import LATENCY_S, SIZES, Metrics
from calltag.worker.batch import Applied


class WorkerMetrics:
    """Operations, commits, and the partitions in work."""

    def __init__(self, metrics: Metrics) -> None:
        counter, gauge = metrics.counter, metrics.gauge
        self._applied = counter(
            "operations_applied", "Operations applied or refused by the worker, by statusCode.", "operation", "code"
        )
        self._repeated = counter(
            "operations_repeated", "Redelivered operations that had taken effect before.", "operation"
        )
        self.operations_malformed = counter("operations_malformed", "Messages that are not valid operations.")
        self.operations_retried = counter("operations_retried", "Retries of failed operations.")
        self.operations_parked = counter("operations_parked", "Parked operations, by reason.", "reason")
        self.operations_blocked = gauge(
            "operations_blocked", "Operations blocked behind a failing one of the same call.", "partition"
        )
        self.calls_blocked = gauge("calls_blocked", "Calls and agents blocked by a parked operation.", "partition")
        self._commit_operations = metrics.histogram("commit_operations", "Operations per commit.", SIZES)
        self._commit_seconds = metrics.histogram("commit_seconds", "Duration of a commit.", LATENCY_S)
        self.store_window_bytes = gauge(
            "store_window_bytes", "Byte window of requests to Redis in flight; it shrinks on a slow link."
        )
        self.partitions_owned = gauge("partitions_owned", "Partitions assigned to this worker.")
        self._not_consumed = gauge("partitions_not_consumed", "Partitions assigned to this worker without a consumer.")
        self._unacknowledged = gauge(
            "operations_unacknowledged", "Operations delivered to this worker and not acknowledged."
        )
        self._oldest = gauge(
            "oldest_operation_seconds",
            "Age of the oldest unacknowledged operation since its acceptance; 0 if there is none.",
        )
        self.partition_takeovers = counter("partition_takeovers", "Take-overs of partitions.")
        self.partitions_fenced = counter(
            "partitions_fenced", "Commits refused because another worker has taken the partition over."
        )
        self.partitions_failed = counter("partitions_failed", "Unexpected failures of a partition.")
        self.silent_calls_ended = counter(
            "silent_calls_ended", "Calls ended because the switch sent no events for them."
        )
        self.commits_lost = counter("commits_lost", "Confirmed commits that Redis has lost in a failover.")
        self.operations_reapplied = counter(
            "operations_reapplied", "Operations applied again after Redis had lost their commit."
        )
        self.commits_unrecoverable = counter(
            "commits_unrecoverable", "Lost commits whose operations are not in memory."
        )
        self.node_messages_sent = counter("node_messages_sent", "Messages published to notifiers and gateways.")

    def held(self, held: Sequence[HeldPartition], missing: int, now_ms: int) -> None:
        """Set the gauges of the partitions in work; `missing` have no consumer."""
        oldest_at_ms = min((each.oldest_at_ms for each in held if each.oldest_at_ms is not None), default=now_ms)
        self._not_consumed.set(missing)
        self._unacknowledged.set(sum(each.unacknowledged for each in held))
        self._oldest.set(max(0, now_ms - oldest_at_ms) / 1_000)

    def committed(self, operations: int, seconds: float) -> None:
        """Observe a commit."""
        self._commit_operations.observe(operations)
        self._commit_seconds.observe(seconds)

    def applied(self, applied: Sequence[Applied]) -> None:
        """Count operations that took effect, were refused, or were recognised as repeated."""
        for each in applied:
            name = each.operation.action.name
            if each.repeated:
                self._repeated.labels(name).inc()
            else:
                self._applied.labels(name, int(each.done.code)).inc()

    def released(self, partition: Partition) -> None:
        """Reset the gauges of a partition that this worker has released."""
        self.operations_blocked.labels(partition).set(0)
        self.calls_blocked.labels(partition).set(0)
