"""The connections that are served: as many as there are places, first come, first served."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

PLACE: Final = "calltag.place"
"""Under this name an application finds, in the scope's state, what stands for the connection of a request."""


@dataclass(slots=True)
class Places:
    """A connection takes a place when it is made, or later, when another has given one back, and keeps it to its end.

    So those that come when all are taken, and those among them that never ask for anything, take none from the others.
    """

    most: int
    _taken: set[Hashable] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, connection: Hashable) -> bool:
        """Whether the connection has a place (now)."""
        if connection in self._taken:
            return True
        if len(self._taken) >= self.most:
            return False
        self._taken.add(connection)
        return True

    def release(self, connection: Hashable) -> None:
        """The connection has ended."""
        self._taken.discard(connection)
