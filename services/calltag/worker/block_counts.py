"""The number of blocked calls and agents of this worker's partitions."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import structlog

from calltag.core.broker.ports import Partition
from calltag.core.store.calls import RedisCallBlocks
from calltag.core.store.ports import StoreUnavailable
from calltag.worker.metrics import WorkerMetrics

log = structlog.get_logger()
_LOOK_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Updates the gauge where no commit does: after a restart, and after an operator's `drop`."""

    blocks: RedisCallBlocks
    metrics: WorkerMetrics

    async def run(self, owned: Callable[[], Collection[Partition]]) -> None:
        """Look every five seconds for as long as the task runs."""
        while True:
            await self.look(owned)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self, owned: Callable[[], Collection[Partition]]) -> None:
        """Look once."""
        try:
            counts = await self.blocks.counts(sorted(owned()))
        except StoreUnavailable as error:
            log.info("block_count_failed", reason=str(error))
            return
        for partition in counts.keys() & set(owned()):
            self.metrics.calls_blocked.labels(partition).set(counts[partition])
