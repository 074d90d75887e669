"""The WebSockets that are open here, and their end when the node goes."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from calltag.core.runtime.waiting import set_within


@dataclass(slots=True)
class Sockets:
    """When the node goes, each is closed at a time of its own within `spread_s` seconds, so that their clients do not
    come to the next node all at once."""

    spread_s: float = 0.0
    patience_s: float = 10.0
    open: int = 0
    _drained: asyncio.Event = field(default_factory=asyncio.Event)
    _all_closed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Inside, one more is open."""
        self.open += 1
        self._all_closed.clear()
        try:
            yield
        finally:
            self.open -= 1
            if not self.open:
                self._all_closed.set()

    def drain(self) -> None:
        """Let them close."""
        self._drained.set()

    async def turn(self) -> None:
        """Wait until one of them is to close; who comes when the node is going already need not wait."""
        if not self._drained.is_set():
            await self._drained.wait()
            await asyncio.sleep(random.uniform(0, self.spread_s))  # noqa: S311 - spreads load, protects nothing

    async def closed(self) -> None:
        """Wait until all are closed, for `patience_s` seconds at most."""
        if self.open:
            await set_within(self._all_closed, self.patience_s)
