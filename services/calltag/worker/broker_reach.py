"""Whether this worker reaches the broker, where others do: one that does not keeps partitions from them.

While nobody consumes anything, the broker is away, and all stay: it would help nobody if they left.
"""

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bus.ports import Bus, Partition
from calltag.core.store.ports import WorkerId, WorkerRegistry
from calltag.core.telemetry.conditions import Condition

_NOT_YET: Final = Condition("broker_not_reached_yet", level="info")


@dataclass(slots=True)
class BrokerReach:
    """Of one worker. `patience_s` is for how long it may consume nothing that falls to it; `clock_s` is monotonic."""

    worker: WorkerId
    bus: Bus
    registry: WorkerRegistry
    patience_s: float
    clock_s: Callable[[], float] = time.monotonic
    _nothing_since_s: float | None = None
    _given_up: deque[Partition] = field(default_factory=deque)

    @property
    def lost(self) -> bool:
        """Whether the worker stays away from the others, as it could not work."""
        return bool(self._given_up)

    async def is_lost(self, assigned: Collection[Partition], missing: Collection[Partition]) -> bool:
        """Whether to leave what is assigned to others, who do consume. `missing` is what is not consumed of it.

        To be asked with every heartbeat. Raises StoreUnavailable.
        """
        if not assigned or len(missing) < len(assigned):
            self._nothing_since_s = None
            return False
        now_s = self.clock_s()
        if self._nothing_since_s is None:
            self._nothing_since_s = now_s
        return now_s - self._nothing_since_s > self.patience_s and await self._others_consume()

    def give_up(self, partitions: Collection[Partition]) -> None:
        """The worker has left; these fell to it."""
        self._nothing_since_s = None
        self._given_up.extend(sorted(partitions))

    async def is_back(self) -> bool:
        """Whether to join the others again: one of what fell to it can be consumed, or nobody else works any more.

        Raises StoreUnavailable.
        """
        if await self._consumes(self._given_up[0]) or not await self._others_consume():
            self._given_up.clear()
            return True
        self._given_up.rotate(-1)
        return False

    async def _consumes(self, partition: Partition) -> bool:
        try:
            # It gets nothing, as others wait before it, and anything that it gets all the same it gives back.
            async with self.bus.partition(partition, 1):
                return True
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing could be consumed
            _NOT_YET.fails(error, partition=partition)
            return False

    async def _others_consume(self) -> bool:
        return any(each.held for each in await self.registry.living() if each.worker != self.worker)
