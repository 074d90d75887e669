"""Byte budget of one response."""

from collections.abc import Callable, Sequence
from typing import Final

_REPLY_BYTES: Final = 1_024
"""Bytes reserved for a reply, beside the parts of the request that it repeats."""
_REPEATED: Final = 2
"""Maximum number of times that a reply repeats a part of its request: in a field, and in its error."""


class AnswerBudget:
    """Bytes left for events in one response. The first event always fits, so that clients make progress.

    `written_bytes` returns the size of an event as the transport encodes it.
    """

    def __init__(self, most_bytes: int, written_bytes: Callable[[bytes], int] = len) -> None:
        self._left = most_bytes
        self._written_bytes = written_bytes
        self._is_empty = True

    def reserve(self, request_bytes: int, messages: int) -> "AnswerBudget":
        """Reserve bytes for the replies to a request; return the budget."""
        self._left -= _REPEATED * request_bytes + _REPLY_BYTES * messages
        return self

    def admit_all(self, events: Sequence[bytes]) -> bool:
        """Return whether all of these independent events fit; if so, they are counted."""
        size = sum(map(self._written_bytes, events)) + len(events)
        if size > self._left:
            return False
        self._left -= size
        self._is_empty = False
        return True

    def admit(self, events: Sequence[bytes]) -> bool:
        """Return whether the events fit as an indivisible group; if so, they are counted."""
        size = sum(self._written_bytes(event) + 1 for event in events)
        if size > self._left and not self._is_empty:
            return False
        self._left -= size
        self._is_empty = False
        return True
