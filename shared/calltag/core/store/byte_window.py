"""Flow control towards Redis: how many bytes one process sends at a time, by how long they take.

A batch that does not arrive within the deadline of an exchange would be sent again and again. So no more is under way
than the link carries in good time: an exchange that is late makes the window smaller, one that is quick larger.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from calltag.core.runtime.byte_limits import MAX_BATCH_BYTES
from calltag.core.store.ports import StoreUnavailable

_BATCHES_UNDER_WAY: Final = 8
_LEAST_BYTES: Final = 1_024
_LATE: Final = 0.5
_QUICK: Final = 0.25
"""Parts of the deadline."""


@dataclass(slots=True)
class ByteWindow:
    """Bytes that may be under way at a time: at first, and at most, those of eight batches.

    What is larger than the window goes when nothing else is under way. Whoever came first goes first.
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
        """How large a batch should be now."""
        return min(self.max_batch_bytes, self.size_bytes)

    @asynccontextmanager
    async def exchange(self, size_bytes: int) -> AsyncIterator[None]:
        """One exchange of so many bytes, begun when the window has room for them."""
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
        """One exchange that brings an answer of so many bytes at most; a quick one proves nothing about larger ones."""
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
            # Where the window was not used, nothing is known about more.
            self.size_bytes = min(_BATCHES_UNDER_WAY * self.max_batch_bytes, self.size_bytes + size_bytes)

    def _shrink(self) -> None:
        """What is under way now was too much."""
        self.size_bytes = max(_LEAST_BYTES, min(self.size_bytes, self._under_way_bytes) // 2)
