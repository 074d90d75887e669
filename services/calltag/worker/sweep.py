"""Calls that the switch has forgotten: the owner of their partition ends them, so that subscribers are told.

Of several consumers of a queue RabbitMQ makes one the active one, and tells none of them which it is; asked for the
queue, it counts the active one alone. Whoever has had a delivery knows. Whoever has had none may be active on a queue
where nothing comes, or may wait for a former owner that has not let go, and would fence off what that one has in hand.
So it looks whether anybody works: where nobody took the partition over or committed from one round to the next, it
falls to the worker that the registry gives it to, and is swept though nothing ever comes. A former owner that is at
work goes on; one that hangs is not waited for.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import structlog

from calltag.core.bus.ports import Partition
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import CallEnded, CallOperation
from calltag.core.store.ports import CommitPosition, Epoch, StateStore, StoreUnavailable
from calltag.core.telemetry.conditions import Condition
from calltag.core.wire.messages import OperationMessage

log = structlog.get_logger()
_NOT_SWEPT: Final = Condition("calls_not_swept", level="info")


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
    _seen: tuple[Epoch, CommitPosition] | None = None
    """How the partition stood when this worker, which did not own it, looked last."""

    def __post_init__(self) -> None:
        # Partitions that were taken over together are not to be swept together.
        self._due_at_s = self.clock_s() + self.every_s * random.uniform(0.5, 1.0)  # noqa: S311 - protects nothing

    def due_in_s(self) -> float:
        """In how many seconds to look; 0 if it is time."""
        return max(0.0, self._due_at_s - self.clock_s())

    async def operations(self, *, owned: bool = True) -> Sequence[OperationMessage]:
        """What ends the calls that are silent, if it is time to look and there are any.

        Where the partition is not `owned` yet, only if nobody has worked on it since the round before.
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

    async def _is_at_rest(self) -> bool:
        """Whether all is as in the round before. Raises StoreUnavailable."""
        before, self._seen = self._seen, await self.store.standing(self.partition)
        return self._seen == before

    def ended(self, count: int) -> None:
        """So many of the calls that were found last are ended; the others are left to the next round."""
        if self._found == self.most:
            self._passed += self._found - count
            self._due_at_s = self.clock_s()
        else:
            self._passed = 0
