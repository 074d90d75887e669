"""How many bytes of events one answer may carry."""

from collections.abc import Callable, Sequence
from typing import Final

_REPLY_BYTES: Final = 1_024
"""Bytes of a reply, beside the parts of the request that it repeats."""
_REPEATED: Final = 2
"""How often a reply repeats a part of its request at most: in a field, and in its error."""


class AnswerBudget:
    """Bytes of one answer, counted as they are written. The first event always fits, so that clients make progress.

    `written_bytes` returns the size of an event as the transport writes it.
    """

    def __init__(self, most_bytes: int, written_bytes: Callable[[bytes], int] = len) -> None:
        self._left = most_bytes
        self._written_bytes = written_bytes
        self._is_empty = True

    def reserve(self, request_bytes: int, messages: int) -> "AnswerBudget":
        """Keep room for the replies to a request."""
        self._left -= _REPEATED * request_bytes + _REPLY_BYTES * messages
        return self

    def admit_all(self, events: Sequence[bytes]) -> bool:
        """Whether the events fit, as so many that may be taken apart; if so, they are counted."""
        size = sum(map(self._written_bytes, events)) + len(events)
        if size > self._left:
            return False
        self._left -= size
        self._is_empty = False
        return True

    def admit(self, events: Sequence[bytes]) -> bool:
        """Whether the events fit into the answer together; if so, they are counted."""
        size = sum(self._written_bytes(event) + 1 for event in events)
        if size > self._left and not self._is_empty:
            return False
        self._left -= size
        self._is_empty = False
        return True
