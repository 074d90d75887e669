"""Calls that the switch has forgotten: the owner of their partition ends them, so that subscribers are told."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import structlog

from calltag.core.bus.ports import Partition
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import CallEnded, CallOperation
from calltag.core.store.ports import StateStore, StoreUnavailable
from calltag.core.wire.messages import OperationMessage

log = structlog.get_logger()


@dataclass(slots=True)
class Sweep:
    """Looks every `every_s` for calls of one partition without any change for `silent_ms`.

    Where there are more than `most`, it looks on at once, past those that could not be ended. `clock_s` is monotonic,
    `now_ms` Unix time in milliseconds.
    """

    partition: Partition
    store: StateStore
    silent_ms: int
    every_s: float
    clock_s: Callable[[], float]
    now_ms: Callable[[], int]
    most: int = 100
    _due_at_s: float = field(init=False)
    _found: int = 0
    _passed: int = 0

    def __post_init__(self) -> None:
        # Partitions that were taken over together are not to be swept together.
        self._due_at_s = self.clock_s() + self.every_s * random.uniform(0.5, 1.0)  # noqa: S311 - protects nothing

    def due_in_s(self) -> float:
        """In how many seconds to look; 0 if it is time."""
        return max(0.0, self._due_at_s - self.clock_s())

    async def operations(self) -> Sequence[OperationMessage]:
        """What ends the calls that are silent, if it is time to look and there are any."""
        if self.due_in_s():
            return ()
        self._due_at_s = self.clock_s() + self.every_s
        self._found = 0
        try:
            silent = await self.store.silent(self.partition, self.silent_ms, self.most, self._passed)
        except StoreUnavailable as error:
            log.info("calls_not_swept", reason=str(error))
            return ()
        if silent:
            log.warning("calls_silent", count=len(silent), silent_s=self.silent_ms // 1000)
        self._found = len(silent)
        if not silent:
            self._passed = 0
        return [
            OperationMessage(
                operation=CallOperation(
                    OperationId(f"silent-{uuid4().hex}"), call_id, CallEnded("silent"), self.now_ms()
                )
            )
            for call_id in silent
        ]

    def ended(self, count: int) -> None:
        """So many of the calls that were found last are ended; the others are left to the next round."""
        if self._found == self.most:
            self._passed += self._found - count
            self._due_at_s = self.clock_s()
        else:
            self._passed = 0
