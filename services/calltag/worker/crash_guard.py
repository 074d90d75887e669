"""Poison-message detection: counts the attempts at an operation during which workers crashed.

An attempt is recorded in Redis before it begins, and removed when it ends. This worker withdraws its own open attempts
when it releases the partition, since it did not crash.
"""

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Final

import structlog

from calltag.core.broker.ports import Partition
from calltag.core.process.waiting import backoff_s
from calltag.core.store.ports import CallStore, Epoch, StoreUnavailable

log = structlog.get_logger()
_WAITED_FOR_S: Final = 1.0
"""Maximum delay of a release."""
_TRIED_FOR_S: Final = 30.0
_ID_BYTES: Final = 8


@dataclass(slots=True)
class CrashGuard:
    """The attempts of this worker at possible poison messages of one partition."""

    partition: Partition
    store: CallStore
    _started: dict[str, str] = field(default_factory=dict)
    """The ids of open attempts by operation, including those whose reply was lost."""

    async def begin(self, epoch: Epoch, name: str) -> int:
        """Record an attempt at the operation; return the number of open attempts.

        The attempts of one worker count once, so this may be retried after a lost reply.
        Raises StoreUnavailable, Fenced.
        """
        attempt = self._started.setdefault(name, secrets.token_hex(_ID_BYTES))
        return await self.store.attempt(self.partition, epoch, name, attempt)

    async def end(self, name: str) -> None:
        """Remove all attempts at the operation, also those of other workers. Raises StoreUnavailable."""
        await self.store.clear_attempts(self.partition, name)
        self._started.pop(name, None)

    async def abandon(self) -> None:
        """Withdraw the open attempts of this worker, also after a cancellation or an error."""
        if not self._started:
            return
        ending = asyncio.create_task(self._take_back(), name=f"partition-{self.partition}-attempts")
        await asyncio.wait({ending}, timeout=_WAITED_FOR_S)

    async def _take_back(self) -> None:
        delays = backoff_s(0.05, 2.0)
        try:
            async with asyncio.timeout(_TRIED_FOR_S):
                while self._started:
                    name, attempt = next(iter(self._started.items()))
                    try:
                        await self.store.withdraw_attempt(self.partition, name, attempt)
                    except StoreUnavailable:
                        await asyncio.sleep(next(delays))
                    else:
                        del self._started[name]
        except Exception as error:  # noqa: BLE001 - then they count as crashes
            log.warning("crash_count_not_cleared", operations=sorted(self._started), exception=type(error).__name__)
