"""Recognising events that came before."""

from collections import OrderedDict

from calltag.core.domain.ids import EventId


class SeenEvents:
    """The ids of the most recent events, `limit` of them."""

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._ids: OrderedDict[EventId, None] = OrderedDict()

    def first_time(self, event: EventId) -> bool:
        """Whether the event was not seen before; it is from here on."""
        if event in self._ids:
            return False
        self._ids[event] = None
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)
        return True
