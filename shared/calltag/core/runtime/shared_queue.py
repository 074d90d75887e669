"""Fair limit on a shared queue: one address never takes all places.

Source: A. K. Choudhury and E. L. Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class QueueFull(Exception):
    """No place is free, or none for the address."""


@dataclass(slots=True)
class SharedQueue:
    """Counts the places of a queue for `most`. An address takes at most as many places as are free.

    So a single address takes half of them, and each further one half of the rest.
    """

    most: int
    taken: int = 0
    _of: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """Take a place for the context; the unknown address ("") may take any. Raises QueueFull."""
        free = self.most - self.taken
        if free <= 0 or (address and self._of[address] >= free):
            raise QueueFull
        self.taken += 1
        self._of[address] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]
