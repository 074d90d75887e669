"""Operations that workers may have died of: each try is counted in the store until it came to an end.

What is still counted when this worker lets the partition go, alive, did not kill it: that count is taken back.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from calltag.core.bus.ports import Partition
from calltag.core.runtime.backoff import backoff_s
from calltag.core.store.ports import Epoch, StateStore, StoreUnavailable

log = structlog.get_logger()
_WAITED_FOR_S: Final = 1.0
"""Whoever waits for the partition does not wait longer for this."""
_TRIED_FOR_S: Final = 30.0


@dataclass(slots=True)
class Attempts:
    """At operations of one partition by this worker."""

    partition: Partition
    store: StateStore
    _begun: set[str] = field(default_factory=set)

    async def begin(self, epoch: Epoch, name: str) -> int:
        """Count a try at the operation; returns how many there were without an end. Raises StoreUnavailable, Fenced."""
        # An answer that is lost may have been counted.
        self._begun.add(name)
        return await self.store.attempt(self.partition, epoch, name)

    async def end(self, name: str) -> None:
        """The tries at the operation came to an end, by whomever they were begun. Raises StoreUnavailable."""
        await self.store.survived(self.partition, name)
        self._begun.discard(name)

    async def abandon(self) -> None:
        """End all that this worker began, as it lives; a cancellation does not keep it from that, nor does an error."""
        if not self._begun:
            return
        ending = asyncio.create_task(self._end_all(), name=f"partition-{self.partition}-attempts")
        await asyncio.wait({ending}, timeout=_WAITED_FOR_S)

    async def _end_all(self) -> None:
        delays = backoff_s(0.05, 2.0)
        try:
            async with asyncio.timeout(_TRIED_FOR_S):
                for name in sorted(self._begun):
                    while name in self._begun:
                        try:
                            await self.end(name)
                        except StoreUnavailable:
                            await asyncio.sleep(next(delays))
        except Exception as error:  # noqa: BLE001 - then they count as if somebody had died
            log.warning("attempts_not_ended", operations=sorted(self._begun), exception=type(error).__name__)
