"""Operations that workers may have died of: each try is counted in the store until it came to an end.

What this worker counted and is still counted when it lets the partition go, alive, did not kill it: that is taken back.
What others counted before stays: they may have died of it.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from calltag.core.bus.ports import Partition
from calltag.core.runtime.backoff import backoff_s
from calltag.core.store.ports import Epoch, Fenced, StateStore, StoreUnavailable

log = structlog.get_logger()
_WAITED_FOR_S: Final = 1.0
"""Whoever waits for the partition does not wait longer for this."""
_TRIED_FOR_S: Final = 30.0


@dataclass(slots=True)
class Attempts:
    """At operations of one partition by this worker."""

    partition: Partition
    store: StateStore
    _begun: dict[str, int] = field(default_factory=dict)
    """How often this worker had a try counted, those with an answer that was lost included."""

    async def begin(self, epoch: Epoch, name: str) -> int:
        """Count a try at the operation; returns how many there were without an end. Raises StoreUnavailable, Fenced.

        Whoever gets no answer asks again: that is one try. It may be counted or not; better one death too many than an
        operation refused of which nobody died.
        """
        self._begun[name] = self._begun.get(name, 0) + 1
        try:
            tries = await self.store.attempt(self.partition, epoch, name)
        except Fenced:
            # This one was not counted.
            self._forget_one(name)
            raise
        return tries - (self._begun[name] - 1)

    async def end(self, name: str) -> None:
        """The tries at the operation came to an end, by whomever they were begun. Raises StoreUnavailable."""
        await self.store.survived(self.partition, name)
        self._begun.pop(name, None)

    async def abandon(self) -> None:
        """Take back all that this worker began, as it lives; a cancellation does not keep it from that, nor does an
        error."""
        if not self._begun:
            return
        ending = asyncio.create_task(self._take_back(), name=f"partition-{self.partition}-attempts")
        await asyncio.wait({ending}, timeout=_WAITED_FOR_S)

    async def _take_back(self) -> None:
        delays = backoff_s(0.05, 2.0)
        try:
            async with asyncio.timeout(_TRIED_FOR_S):
                while self._begun:
                    name, tries = next(iter(self._begun.items()))
                    try:
                        await self.store.broken_off(self.partition, name, tries)
                    except StoreUnavailable:
                        await asyncio.sleep(next(delays))
                    else:
                        del self._begun[name]
        except Exception as error:  # noqa: BLE001 - then they count as if somebody had died
            log.warning("attempts_not_ended", operations=sorted(self._begun), exception=type(error).__name__)

    def _forget_one(self, name: str) -> None:
        self._begun[name] -= 1
        if not self._begun[name]:
            del self._begun[name]
