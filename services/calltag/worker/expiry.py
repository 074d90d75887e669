"""Sweep of silent calls: the owner of a partition ends calls for which the switch sends no more events.

A worker without any delivery does not know whether its consumer is the active one: RabbitMQ does not say, and a
take-over would fence off a former owner that is still at work. So it compares epoch and position with those of the
last round: where neither has changed, no owner is at work, and it sweeps the partition."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import structlog

from calltag.core.broker.ports import Partition
from calltag.core.contracts.operations import OperationMessage
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import CallEnded, CallOperation
from calltag.core.store.ports import CallStore, CommitPosition, Epoch, StoreUnavailable
from calltag.core.telemetry.conditions import Condition

log = structlog.get_logger()
_NOT_SWEPT: Final = Condition("calls_not_swept", level="info")


@dataclass(slots=True)
class Sweep:
    """Looks every `every_s` for calls of one partition without a change for `silent_ms`.

    Where there are more than `most`, it continues at once, past those that could not be ended. `clock_s` is monotonic,
    `now_ms` Unix time in milliseconds.
    """

    partition: Partition
    store: CallStore
    silent_ms: int
    every_s: float
    clock_s: Callable[[], float]
    now_ms: Callable[[], int]
    most: int = 100
    _due_at_s: float = field(init=False)
    _found: int = 0
    _passed: int = 0
    _seen: tuple[Epoch, CommitPosition] | None = None
    """Epoch and position of the last round in which this worker was not the owner."""

    def __post_init__(self) -> None:
        # Partitions taken over together are swept at different times.
        self._due_at_s = self.clock_s() + self.every_s * random.uniform(0.5, 1.0)  # noqa: S311 - protects nothing

    def due_in_s(self) -> float:
        """Return the seconds until the next round; 0 if it is due."""
        return max(0.0, self._due_at_s - self.clock_s())

    async def operations(self, *, owned: bool = True) -> Sequence[OperationMessage]:
        """Return the operations that end silent calls, if a round is due.

        Where the partition is not `owned` yet, only if no worker has committed to it since the last round.
        """
        if self.due_in_s():
            return ()
        self._due_at_s = self.clock_s() + self.every_s
        self._found = 0
        try:
            if not owned and not await self._is_at_rest():
                return ()
            silent = await self.store.silent(self.partition, self.silent_ms, self.most, self._passed)
        except StoreUnavailable as error:
            _NOT_SWEPT.fails(error)
            return ()
        if silent:
            log.warning("silent_calls_found", count=len(silent), silent_s=self.silent_ms // 1000)
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

    async def _is_at_rest(self) -> bool:
        """Return whether epoch and position are those of the last round. Raises StoreUnavailable."""
        before, self._seen = self._seen, await self.store.read_position(self.partition)
        return self._seen == before

    def ended(self, count: int) -> None:
        """Note how many of the found calls were ended; the others are left to the next round."""
        if self._found == self.most:
            self._passed += self._found - count
            self._due_at_s = self.clock_s()
        else:
            self._passed = 0
