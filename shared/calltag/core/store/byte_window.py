"""Limit of the bytes in flight to Redis, adapted to what it answers within the deadline."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from calltag.core.process.limits import MAX_BATCH_BYTES
from calltag.core.store.ports import StoreUnavailable

_BATCHES_UNDER_WAY: Final = 8
_LEAST_BYTES: Final = 1_024
_LATE: Final = 0.5
_QUICK: Final = 0.25
"""Fraction of the deadline, as is `_LATE`."""


@dataclass(slots=True)
class ByteWindow:
    """Limit of the bytes in flight: initially, and at most, those of eight batches.

    An exchange larger than the window starts when nothing else is in flight. The order is first in, first out.
    """

    max_batch_bytes: int = MAX_BATCH_BYTES
    deadline_s: float = 1.0
    clock_s: Callable[[], float] = time.monotonic
    size_bytes: int = field(init=False)
    _under_way_bytes: int = 0
    _waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.size_bytes = _BATCHES_UNDER_WAY * self.max_batch_bytes

    @property
    def batch_bytes(self) -> int:
        """Return the current maximum size of a batch."""
        return min(self.max_batch_bytes, self.size_bytes)

    @asynccontextmanager
    async def exchange(self, size_bytes: int) -> AsyncIterator[None]:
        """Run one exchange that sends `size_bytes`, once the window has room for them."""
        await self._enter(size_bytes)
        began_s = self.clock_s()
        try:
            yield
        except StoreUnavailable:
            self._shrink()
            raise
        else:
            self._note(size_bytes, self.clock_s() - began_s)
        finally:
            self._under_way_bytes -= size_bytes
            self._admit()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[int]:
        """Run one read with a reply of at most the yielded bytes; a failure shrinks the window, a quick read proves
        nothing about larger ones."""
        max_bytes = self.batch_bytes
        try:
            yield max_bytes
        except StoreUnavailable:
            self.size_bytes = max(_LEAST_BYTES, min(self.size_bytes, max_bytes) // 2)
            raise

    async def _enter(self, size_bytes: int) -> None:
        if not self._waiting and self._has_room(size_bytes):
            self._under_way_bytes += size_bytes
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._under_way_bytes -= size_bytes
            self._admit()
            raise

    def _has_room(self, size_bytes: int) -> bool:
        return not self._under_way_bytes or self._under_way_bytes + size_bytes <= self.size_bytes

    def _admit(self) -> None:
        while self._waiting:
            size_bytes, admitted = self._waiting[0]
            if admitted.done():
                self._waiting.popleft()
            elif self._has_room(size_bytes):
                self._waiting.popleft()
                self._under_way_bytes += size_bytes
                admitted.set_result(None)
            else:
                return

    def _note(self, size_bytes: int, took_s: float) -> None:
        if took_s > _LATE * self.deadline_s:
            self._shrink()
        elif took_s < _QUICK * self.deadline_s and 2 * self._under_way_bytes >= self.size_bytes:
            # An exchange that left most of the window unused says nothing about a larger one.
            self.size_bytes = min(_BATCHES_UNDER_WAY * self.max_batch_bytes, self.size_bytes + size_bytes)

    def _shrink(self) -> None:
        """Shrink the window to half its size, or half the bytes in flight if those are fewer."""
        self.size_bytes = max(_LEAST_BYTES, min(self.size_bytes, self._under_way_bytes) // 2)
