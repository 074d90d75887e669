"""Freshness cache of the call index: a call is indexed again only if its legs changed or its entry is old."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.domain.call import Call, Leg
from calltag.core.domain.ids import CallId

_MOST: Final = 5_000


@dataclass(slots=True)
class CallIndexCache:
    """The calls that one ownership of a partition has indexed; times are seconds of a monotonic clock.

    The index expires some time after it was written, so it is written again after `refreshed_after_s`.
    """

    refreshed_after_s: float = 1.0
    _legs: OrderedDict[CallId, tuple[tuple[Leg, ...], float]] = field(default_factory=OrderedDict)

    def changed(self, calls: Sequence[Call], now_s: float) -> Sequence[Call]:
        """The calls to index again."""
        return [call for call in calls if not self._is_listed(call, now_s)]

    def note(self, calls: Sequence[Call], now_s: float) -> None:
        """Note that these calls are indexed."""
        for call in calls:
            self._legs[call.id] = (call.legs, now_s)
            self._legs.move_to_end(call.id)
        while len(self._legs) > _MOST:
            self._legs.popitem(last=False)

    def _is_listed(self, call: Call, now_s: float) -> bool:
        legs, at_s = self._legs.get(call.id, (None, 0.0))
        return legs == call.legs and now_s - at_s < self.refreshed_after_s
