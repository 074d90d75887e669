"""Periodic reports of a worker: the lag of its partitions, and the number of blocked calls."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

import structlog

from calltag.core.broker.ports import Partition
from calltag.core.store.backlog import Lags
from calltag.core.store.calls import RedisCallBlocks
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.conditions import Condition
from calltag.worker.metrics import WorkerMetrics

_NOT_REPORTED: Final = Condition("lag_not_reported", over="lag_reported", level="info")
_REPORT_EVERY_S: Final = 0.5
log = structlog.get_logger()
_COUNT_EVERY_S: Final = 5.0


@dataclass(slots=True)
class Lag:
    """The lag of one partition."""

    clock_ms: Callable[[], int]
    oldest_in_progress_ms: int | None = None
    """When the oldest operation of the current batch was accepted (Unix time); those in the queue are younger."""
    _worst_ms: int = 0

    def took(self, accepted_at_ms: int) -> None:
        """Note a batch whose oldest operation was accepted then (Unix time in milliseconds)."""
        self.oldest_in_progress_ms = accepted_at_ms

    def finished(self) -> None:
        """Note the end of the batch."""
        self._note()
        self.oldest_in_progress_ms = None

    def worst_ms(self) -> int:
        """Return the greatest age since the last call, in milliseconds; 0 without any operation."""
        self._note()
        worst, self._worst_ms = self._worst_ms, 0
        return worst

    def _note(self) -> None:
        if self.oldest_in_progress_ms is not None:
            self._worst_ms = max(self._worst_ms, self.clock_ms() - self.oldest_in_progress_ms)


@dataclass(slots=True)
class LagReports:
    """Reports the lag of this worker's partitions twice a second."""

    lags: Lags
    clock_ms: Callable[[], int]
    _of: dict[Partition, Lag] = field(default_factory=dict)

    def of(self, partition: Partition) -> Lag:
        """Return the lag of a partition."""
        return self._of.setdefault(partition, Lag(self.clock_ms))

    async def run(self, owned: Callable[[], Collection[Partition]]) -> None:
        """Report for as long as the task runs."""
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            await self.report(owned())

    async def report(self, owned: Collection[Partition]) -> None:
        """Report once."""
        try:
            await self.lags.report({partition: self.of(partition).worst_ms() for partition in owned})
        except StoreUnavailable as error:
            _NOT_REPORTED.fails(error)
        else:
            _NOT_REPORTED.holds()


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Updates the gauge where no commit does: after a restart, and after an operator's `drop`."""

    blocks: RedisCallBlocks
    metrics: WorkerMetrics

    async def run(self, owned: Callable[[], Collection[Partition]]) -> None:
        """Look every five seconds for as long as the task runs."""
        while True:
            await self.look(owned)
            await asyncio.sleep(_COUNT_EVERY_S)

    async def look(self, owned: Callable[[], Collection[Partition]]) -> None:
        """Look once."""
        try:
            counts = await self.blocks.counts(sorted(owned()))
        except StoreUnavailable as error:
            log.info("block_count_failed", reason=str(error))
            return
        for partition in counts.keys() & set(owned()):
            self.metrics.calls_blocked.labels(partition).set(counts[partition])
