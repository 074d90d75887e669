"""Write-through cache of the calls of an owned partition.

Only the owner writes the calls of a partition, and the commit script checks epoch, version and operation ids: a stale
entry makes the commit fail. Then the partition is taken over anew, which clears the cache."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.domain.call import Call, Leg
from calltag.core.domain.events import CallChanged
from calltag.core.domain.ids import CallId, OperationId, call_key, is_derived
from calltag.core.store.ports import Loaded
from calltag.worker.batch import Folded

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


class CallCache:
    """The recently used calls of one partition, with an encoded size of `most_bytes` at most."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._calls: OrderedDict[str, tuple[Call, int]] = OrderedDict()
        self._bytes = 0
        self._blocks: int | None = None

    def loaded(self, wanted: Mapping[str, Sequence[OperationId]]) -> dict[str, Loaded]:
        """Return the cached calls for which these operations need no read."""
        if self._blocks != 0:
            # Operators remove blocks at any time.
            return {}
        found = {}
        for key, operations in wanted.items():
            known = self._calls.get(key)
            if known is not None and not any(map(is_derived, operations)):
                self._calls.move_to_end(key)
                found[key] = Loaded(known[0])
        return found

    def blocked(self, blocks: int) -> None:
        """Note the number of blocked calls of the partition, from the reply of a commit."""
        self._blocks = blocks

    def note(self, loaded: Mapping[str, Loaded], folded: Folded) -> None:
        """Update the cache after a commit."""
        sizes: dict[str, int] = {
            call_key(event.call.id): len(raw)
            for event, raw in zip(folded.events, folded.encoded, strict=True)
            if isinstance(event, CallChanged)
        }
        after = {change.key: change.after for change in folded.changes}
        for key, found in loaded.items():
            state, (_, size) = after.get(key, found.state), self._drop(key)
            # A released call takes no operations.
            if isinstance(state, Call) and not state.released and found.unreadable is None:
                self._keep(key, state, sizes.get(key, size))

    def forget(self) -> None:
        """Clear the cache."""
        self._calls.clear()
        self._bytes = 0
        self._blocks = None

    def _drop(self, key: str) -> tuple[Call | None, int]:
        dropped = self._calls.pop(key, (None, 0))
        self._bytes -= dropped[1]
        return dropped

    def _keep(self, key: str, call: Call, size: int) -> None:
        # The size is known from events only.
        if not size or size > self._most_bytes:
            return
        self._calls[key] = call, size
        self._bytes += size
        while self._bytes > self._most_bytes:
            _, (_, oldest) = self._calls.popitem(last=False)
            self._bytes -= oldest
