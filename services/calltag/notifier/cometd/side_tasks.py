"""Work that nobody waits for."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Final

from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.conditions import Condition

_LEFT_OUT: Final = Condition("left_out", level="info")


@dataclass(slots=True)
class SideTasks:
    """What is begun here is finished, or left out while the store is away: it shows later all the same."""

    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Do something aside."""
        task = asyncio.create_task(_unless_away(work), name="hub-side-task")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self) -> None:
        """Wait until nothing is under way any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)


async def _unless_away(work: Coroutine[object, object, None]) -> None:
    try:
        await work
    except StoreUnavailable as error:
        _LEFT_OUT.fails(error)
