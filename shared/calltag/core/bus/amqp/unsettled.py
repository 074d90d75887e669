"""Bookkeeping of acknowledgements: a message can be acknowledged once all its operations are settled."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Settled:
    """Delivery tags to acknowledge: all up to `through`, and each of `beyond`."""

    through: int | None
    beyond: list[int]


@dataclass(slots=True)
class _Message:
    tag: int
    left: int
    """Number of unsettled parts."""


@dataclass(slots=True)
class Messages:
    """The unacknowledged messages, in order of delivery.

    Parts have tags of their own, which rise with the order of delivery.
    """

    _messages: deque[_Message] = field(default_factory=deque)
    _last: int = 0
    _open: dict[int, _Message] = field(default_factory=dict)

    @property
    def unsettled(self) -> int:
        """Number of unsettled parts."""
        return len(self._open)

    def took(self, tag: int, parts: int) -> range:
        """Add a message with so many parts; return their tags."""
        first, self._last = self._last + 1, self._last + parts
        message = _Message(tag, parts)
        self._messages.append(message)
        tags = range(first, self._last + 1)
        self._open.update(dict.fromkeys(tags, message))
        return tags

    def settle_through(self, tag: int) -> Settled:
        """Settle all parts up to this one."""
        return self.settle([each for each in self._open if each <= tag])

    def settle(self, tags: Collection[int]) -> Settled:
        """Settle these parts; unknown and settled tags are ignored."""
        for tag in tags:
            message = self._open.pop(tag, None)
            if message is not None:
                message.left -= 1
        through = None
        while self._messages and not self._messages[0].left:
            through = self._messages.popleft().tag
        beyond = [each.tag for each in self._messages if not each.left]
        if beyond:
            self._messages = deque(each for each in self._messages if each.left)
        return Settled(through, beyond)
