"""Operations that workers may have crashed on: each attempt is recorded in the store until it came to an end.

An attempt of this worker that is still recorded when it lets the partition go did not crash it, and is withdrawn.
Attempts of other workers stay: those workers may have crashed.
"""

import asyncio
import secrets
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
_ID_BYTES: Final = 8


@dataclass(slots=True)
class Attempts:
    """At operations of one partition by this worker."""

    partition: Partition
    store: StateStore
    _begun: dict[str, str] = field(default_factory=dict)
    """The ids of this worker's attempts by operation, those with a lost answer included."""

    async def begin(self, epoch: Epoch, name: str) -> int:
        """Record an attempt at the operation; returns how many there were without an end.

        The attempts of one worker count once, so that a caller may repeat this after a lost answer.
        Raises StoreUnavailable, Fenced.
        """
        attempt = self._begun.setdefault(name, secrets.token_hex(_ID_BYTES))
        return await self.store.attempt(self.partition, epoch, name, attempt)

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
                    name, attempt = next(iter(self._begun.items()))
                    try:
                        await self.store.broken_off(self.partition, name, attempt)
                    except StoreUnavailable:
                        await asyncio.sleep(next(delays))
                    else:
                        del self._begun[name]
        except Exception as error:  # noqa: BLE001 - then they count as if somebody had died
            log.warning("attempts_not_ended", operations=sorted(self._begun), exception=type(error).__name__)
