"""What waits for the workers already: where that is too much, nothing is added to it.

An operation that is accepted waits in its partition's queue until the worker takes it up. While the workers cannot keep
up, it is better to refuse at once than to accept what takes effect much later than its sender thinks.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bus.ports import Bus, BusUnavailable, Partition, PublishedCounts
from calltag.core.http.admission_queue import retry_after_s
from calltag.core.store.lags import Lags
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.published import PublishedTotals
from calltag.core.telemetry.conditions import Condition
from calltag.gateway.density import Density
from calltag.gateway.errors import BackendUnavailable
from calltag.gateway.metrics import GatewayLimit, GatewayMetrics

_LAGS_UNKNOWN: Final = Condition("lags_not_known", level="info")
_BACKLOG_UNKNOWN: Final = Condition("backlog_not_known", level="info")
_LOOK_EVERY_S: Final = 0.5


@dataclass(slots=True)
class Backlog:
    """Looks every half second at the partitions that this gateway published to since, and at those that were not empty.

    In between, what it publishes itself counts as waiting. An idle gateway asks the broker nothing.
    """

    bus: Bus
    lags: Lags
    totals: PublishedTotals
    metrics: GatewayMetrics
    most: int = 5_000
    most_age_ms: int = 2_000
    _waiting: Counter[Partition] = field(default_factory=Counter)
    _ages_ms: dict[Partition, int] = field(default_factory=dict)
    """Of partitions where something waits."""
    _told: dict[Partition, PublishedCounts] = field(default_factory=dict)
    """Counts of this gateway that the totals contain."""
    _densities: dict[Partition, Density] = field(default_factory=dict)

    def admit(self, partitions: Sequence[Partition]) -> None:
        """An operation is about to be published to each of these partitions. Raises BackendUnavailable."""
        for partition in partitions:
            if self._waiting[partition] >= self.most:
                self._refuse(
                    GatewayLimit.BACKLOG, f"{self._waiting[partition]} operations wait for their worker already"
                )
            age_ms = self._ages_ms.get(partition, 0)
            # Where nothing waits, what was old is done.
            if age_ms > self.most_age_ms and self._waiting[partition]:
                self._refuse(GatewayLimit.BACKLOG_AGE, f"operations wait {age_ms / 1000:.1f} s for their worker")
        for partition in partitions:
            self._waiting[partition] += 1

    def _refuse(self, limit: GatewayLimit, text: str) -> None:
        self.metrics.limited(limit)
        raise BackendUnavailable(f"{text}; try again in a moment", retry_after_s())

    async def run(self) -> None:
        """Look for as long as the task runs."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Bring what is known up to date."""
        try:
            if self._waiting:
                self._ages_ms = dict(await self.lags.read())
                await self._count()
        except StoreUnavailable as error:
            _LAGS_UNKNOWN.fails(error)
        for partition in list(self._waiting):
            before = self._waiting[partition]
            try:
                found = self._operations_in(partition, await self.bus.depth(partition))
            except BusUnavailable as error:
                _BACKLOG_UNKNOWN.fails(error)
                break
            # What was published while the broker was asked may or may not be in its answer.
            now = found + self._waiting[partition] - before
            if now:
                self._waiting[partition] = now
            else:
                del self._waiting[partition]
        self._ages_ms = {partition: age_ms for partition, age_ms in self._ages_ms.items() if self._waiting[partition]}
        self.metrics.backlog(max(self._waiting.values(), default=0), max(self._ages_ms.values(), default=0) / 1000)

    async def _count(self) -> None:
        """Tell what was published from here, and learn what all gateways published."""
        published = {partition: self.bus.published(partition) for partition in self._waiting}
        since = {
            partition: now.since(self._told.get(partition, PublishedCounts())) for partition, now in published.items()
        }
        for partition, total in (await self.totals.add(since)).items():
            self._densities.setdefault(partition, Density()).note(total)
        self._told |= published

    def _operations_in(self, partition: Partition, messages: int) -> int:
        density = self._densities.get(partition)
        return messages if density is None else density.operations_in(messages)
