"""Places in a queue that clients share: one address never takes all of them.

Source: A. K. Choudhury and E. L. Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class QueueFull(Exception):
    """No place is free, or none for that address."""


@dataclass(slots=True)
class SharedQueue:
    """Counts the places of a queue for `most`. An address takes no more places than it leaves free.

    So one alone takes half of them, and each further one half of what is left.
    """

    most: int
    taken: int = 0
    _of: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """Inside, one place is taken; an address that is not known ("") may take any. Raises QueueFull."""
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
