"""Detection of a worker that cannot reach RabbitMQ while others can: it leaves its partitions to them.

While no worker consumes anything, RabbitMQ itself is unavailable, and all stay.
"""

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bus.ports import Bus, Partition
from calltag.core.store.ports import WorkerId, WorkerRegistry
from calltag.core.telemetry.conditions import Condition

_NOT_YET: Final = Condition("broker_not_connected", level="info")


@dataclass(slots=True)
class BrokerReach:
    """The broker connectivity of one worker; after `patience_s` without any consumer it leaves."""

    worker: WorkerId
    bus: Bus
    registry: WorkerRegistry
    patience_s: float
    clock_s: Callable[[], float] = time.monotonic
    _nothing_since_s: float | None = None
    _given_up: deque[Partition] = field(default_factory=deque)

    @property
    def lost(self) -> bool:
        """Whether the worker has left because it could not consume."""
        return bool(self._given_up)

    async def is_lost(self, assigned: Collection[Partition], missing: Collection[Partition]) -> bool:
        """Return whether to leave the assigned partitions to other workers, which consume; `missing` are those without
        a consumer here. Called with every heartbeat. Raises StoreUnavailable.
        """
        if not assigned or len(missing) < len(assigned):
            self._nothing_since_s = None
            return False
        now_s = self.clock_s()
        if self._nothing_since_s is None:
            self._nothing_since_s = now_s
        return now_s - self._nothing_since_s > self.patience_s and await self._others_consume()

    def give_up(self, partitions: Collection[Partition]) -> None:
        """Note that the worker has left its partitions."""
        self._nothing_since_s = None
        self._given_up.extend(sorted(partitions))

    async def is_back(self) -> bool:
        """Return whether to join again: one of the partitions can be consumed, or no other worker consumes.

        Raises StoreUnavailable.
        """
        if await self._consumes(self._given_up[0]) or not await self._others_consume():
            self._given_up.clear()
            return True
        self._given_up.rotate(-1)
        return False

    async def _consumes(self, partition: Partition) -> bool:
        try:
            # A consumer behind the active one gets no deliveries; any that it gets are requeued.
            async with self.bus.partition(partition, 1):
                return True
        except Exception as error:  # noqa: BLE001 - nothing could be consumed
            _NOT_YET.fails(error, partition=partition)
            return False

    async def _others_consume(self) -> bool:
        return any(each.held for each in await self.registry.living() if each.worker != self.worker)
