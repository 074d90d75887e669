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
    _drained: bool = False
    _turns: set[asyncio.Future[None]] = field(default_factory=set)
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
        self._drained = True
        for turn in self._turns:
            after_s = random.uniform(0, self.spread_s)  # noqa: S311 - spreads load, protects nothing
            asyncio.get_running_loop().call_later(after_s, _come, turn)

    def turn(self) -> asyncio.Future[None]:
        """Done when one of them is to close; who comes when the node is going already need not wait.

        A future and no task: each socket waits for it as long as it is open.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._drained:
            turn.set_result(None)
        else:
            self._turns.add(turn)
            turn.add_done_callback(self._turns.discard)
        return turn

    async def closed(self) -> None:
        """Wait until all are closed, for `patience_s` seconds at most."""
        if self.open:
            await set_within(self._all_closed, self.patience_s)


def _come(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
