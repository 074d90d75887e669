"""The worker's metrics in Prometheus."""

from collections.abc import Sequence
from dataclasses import dataclass

from calltag.core.broker.ports import Partition
from calltag.core.store.ports import HeldPartition
from calltag.core.telemetry.metrics import Metrics
from calltag.worker.batch import Applied, ParkingReason


@dataclass(frozen=True, slots=True)
class WorkerObservations:
    """Implements WorkerMetrics."""

    metrics: Metrics

    def owned(self, partitions: int) -> None:
        self.metrics.partitions_owned.set(partitions)

    def held(self, held: Sequence[HeldPartition], missing: int, now_ms: int) -> None:
        """Set the gauges of the partitions in work, when the metrics are scraped."""
        oldest_at_ms = min((each.oldest_at_ms for each in held if each.oldest_at_ms is not None), default=now_ms)
        self.metrics.partitions_not_consumed.set(missing)
        self.metrics.operations_unacknowledged.set(sum(each.unacknowledged for each in held))
        self.metrics.oldest_operation_seconds.set(max(0, now_ms - oldest_at_ms) / 1_000)

    def taken_over(self) -> None:
        self.metrics.partition_takeovers.inc()

    def failed(self) -> None:
        self.metrics.partitions_failed.inc()

    def fenced(self) -> None:
        self.metrics.partitions_fenced.inc()

    def committed(self, operations: int, seconds: float) -> None:
        self.metrics.commit_operations.observe(operations)
        self.metrics.commit_seconds.observe(seconds)

    def applied(self, applied: Sequence[Applied]) -> None:
        for each in applied:
            name = each.operation.action.name
            if each.repeated:
                self.metrics.operations_repeated.labels(name).inc()
            else:
                self.metrics.operations_applied.labels(name, int(each.done.code)).inc()

    def silent(self, calls: int) -> None:
        self.metrics.silent_calls_ended.inc(calls)

    def retried(self) -> None:
        self.metrics.operations_retried.inc()

    def parked(self, reason: ParkingReason) -> None:
        self.metrics.operations_parked.labels(reason.value).inc()

    def waiting(self, partition: Partition, operations: int) -> None:
        self.metrics.operations_blocked.labels(partition).set(operations)

    def blocked(self, partition: Partition, blocks: int) -> None:
        self.metrics.calls_blocked.labels(partition).set(blocks)

    def left(self, partition: Partition) -> None:
        self.waiting(partition, 0)
        self.blocked(partition, 0)

    def unreadable(self) -> None:
        self.metrics.operations_malformed.inc()

    def lost(self, commits: int, reapplied: int, lost_for_good: int) -> None:
        self.metrics.commits_lost.inc(commits)
        self.metrics.operations_reapplied.inc(reapplied)
        self.metrics.commits_unrecoverable.inc(lost_for_good)
