"""The worker's metrics, on Prometheus."""

from collections.abc import Sequence
from dataclasses import dataclass

from calltag.core.telemetry.metrics import Metrics
from calltag.worker.folding import Applied


@dataclass(frozen=True, slots=True)
class WorkerObservations:
    """Implements WorkerMetrics."""

    metrics: Metrics

    def owned(self, partitions: int) -> None:
        self.metrics.partitions_owned.set(partitions)

    def taken_over(self) -> None:
        self.metrics.takeovers.inc()

    def failed(self) -> None:
        self.metrics.partitions_failed.inc()

    def fenced(self) -> None:
        self.metrics.fenced.inc()

    def committed(self, operations: int, seconds: float) -> None:
        self.metrics.batch_size.observe(operations)
        self.metrics.commit_seconds.observe(seconds)

    def applied(self, applied: Sequence[Applied]) -> None:
        for each in applied:
            name = each.operation.action.name
            if each.repeated:
                self.metrics.operations_repeated.labels(name).inc()
            else:
                self.metrics.operations_applied.labels(name, int(each.done.code)).inc()

    def sent(self, messages: int) -> None:
        self.metrics.node_messages_sent.inc(messages)

    def unreadable(self) -> None:
        self.metrics.operations_unreadable.inc()

    def lost(self, commits: int, reapplied: int, gone: int) -> None:
        self.metrics.store_lost_commits.inc(commits)
        self.metrics.operations_reapplied.inc(reapplied)
        self.metrics.commits_gone.inc(gone)
