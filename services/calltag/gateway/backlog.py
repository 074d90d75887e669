"""Backpressure: operations are refused while too many wait for the workers.

An accepted operation waits in its partition's queue until the worker takes it up. While the workers cannot keep up, it
is better to refuse at once than to accept operations that take effect much later than their senders expect."""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.broker.ports import Broker, BrokerUnavailable, Partition, PublishedCounts
from calltag.core.http.admission_queue import retry_after_s
from calltag.core.store.backlog import Lags, PublishedTotals
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.conditions import Condition
from calltag.gateway.errors import BackendUnavailable
from calltag.gateway.metrics import GatewayLimit, GatewayMetrics

_REMEMBERED: Final = 1_000
_TIGHT: Final = 2
_LAGS_UNKNOWN: Final = Condition("lags_not_known", level="info")
_BACKLOG_UNKNOWN: Final = Condition("backlog_not_known", level="info")
_LOOK_EVERY_S: Final = 0.5


def _window_start() -> deque[PublishedCounts]:
    return deque([PublishedCounts()], maxlen=_REMEMBERED)


@dataclass(slots=True)
class Density:
    """Samples of the totals that all gateways published to one partition.

    The waiting messages are those that were published last, by any gateway.
    """

    _totals: deque[PublishedCounts] = field(default_factory=_window_start)

    def note(self, total: PublishedCounts) -> None:
        """Add a sample of the totals."""
        if total.messages < self._totals[-1].messages:
            # Redis has lost the counts.
            self._totals = _window_start()
        if total.messages > self._totals[-1].messages:
            self._totals.append(total)

    def operations_in(self, messages: int) -> int:
        """Estimate the operations in that many of the latest messages.

        If the samples are too far apart, assume them to be at least as full as those since the previous sample.
        """
        latest = self._totals[-1]
        reaching = (each for each in reversed(self._totals) if latest.messages - each.messages >= messages)
        span = latest.since(next(reaching, self._totals[0]))
        if not span.messages:
            return messages
        mean = span.operations / span.messages
        if span.messages > _TIGHT * messages:
            newest = latest.since(self._totals[-2])
            mean = max(mean, newest.operations / newest.messages)
        return round(messages * mean)


@dataclass(slots=True)
class Backlog:
    """Tracks the operations that wait in each partition.

    Polls every half second the partitions that this gateway published to since, and those that were not empty. In
    between, its own operations count as waiting. An idle gateway sends RabbitMQ no requests.
    """

    broker: Broker
    lags: Lags
    totals: PublishedTotals
    metrics: GatewayMetrics
    most: int = 5_000
    most_age_ms: int = 10_000
    _waiting: Counter[Partition] = field(default_factory=Counter)
    _ages_ms: dict[Partition, int] = field(default_factory=dict)
    """Age of the oldest operation that a worker took up last, of partitions where operations wait."""
    _told: dict[Partition, PublishedCounts] = field(default_factory=dict)
    """Counts of this gateway that the totals in Redis contain already."""
    _densities: dict[Partition, Density] = field(default_factory=dict)

    def admit(self, partitions: Sequence[Partition]) -> None:
        """Admit one operation to each of these partitions, and count it as waiting. Raises BackendUnavailable."""
        for partition in partitions:
            if self._waiting[partition] >= self.most:
                self._refuse(
                    GatewayLimit.BACKLOG, f"{self._waiting[partition]} operations wait for their worker already"
                )
            age_ms = self._ages_ms.get(partition, 0)
            # The age is outdated if no operation waits.
            if age_ms > self.most_age_ms and self._waiting[partition]:
                self._refuse(GatewayLimit.BACKLOG_AGE, f"operations wait {age_ms / 1000:.1f} s for their worker")
        for partition in partitions:
            self._waiting[partition] += 1

    def _refuse(self, limit: GatewayLimit, text: str) -> None:
        self.metrics.limited(limit)
        raise BackendUnavailable(f"{text}; try again in a moment", retry_after_s())

    async def run(self) -> None:
        """Poll until the task is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Update the counts from RabbitMQ and the ages from Redis."""
        try:
            if self._waiting:
                self._ages_ms = dict(await self.lags.read())
                await self._count()
        except StoreUnavailable as error:
            _LAGS_UNKNOWN.fails(error)
        for partition in list(self._waiting):
            before = self._waiting[partition]
            try:
                found = self._operations_in(partition, await self.broker.depth(partition))
            except BrokerUnavailable as error:
                _BACKLOG_UNKNOWN.fails(error)
                break
            # The reply may or may not contain operations that were published meanwhile: count them.
            now = found + self._waiting[partition] - before
            if now:
                self._waiting[partition] = now
            else:
                del self._waiting[partition]
        self._ages_ms = {partition: age_ms for partition, age_ms in self._ages_ms.items() if self._waiting[partition]}
        self.metrics.backlog_operations.set(max(self._waiting.values(), default=0))
        self.metrics.backlog_age.set(max(self._ages_ms.values(), default=0) / 1000)

    async def _count(self) -> None:
        """Add the counts of this gateway to the totals in Redis, and note the totals of all gateways."""
        published = {partition: self.broker.published(partition) for partition in self._waiting}
        since = {
            partition: now.since(self._told.get(partition, PublishedCounts())) for partition, now in published.items()
        }
        for partition, total in (await self.totals.add(since)).items():
            self._densities.setdefault(partition, Density()).note(total)
        self._told |= published

    def _operations_in(self, partition: Partition, messages: int) -> int:
        density = self._densities.get(partition)
        return messages if density is None else density.operations_in(messages)
