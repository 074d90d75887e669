"""Priority queue of deadlines."""

import heapq
import math
from collections.abc import Iterator
from typing import Generic, TypeVar

Name = TypeVar("Name", int, str)


class Deadlines(Generic[Name]):
    """Heap of named deadlines; a name may have several."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, Name]] = []

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_ms(self) -> float:
        """Return the earliest deadline; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, deadline_ms: int, name: Name) -> None:
        heapq.heappush(self._heap, (deadline_ms, name))

    def due(self, now_ms: int) -> Iterator[tuple[Name, int]]:
        """Remove and yield all passed deadlines, earliest first, including those added during the iteration."""
        while self._heap and self._heap[0][0] <= now_ms:
            deadline_ms, name = heapq.heappop(self._heap)
            yield name, deadline_ms
