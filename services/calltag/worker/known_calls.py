"""Calls as their owner committed them last: they need not be read again for the next operation.

While an owner's epoch is the partition's, nobody else writes its calls. The commit makes sure of it all: it takes place
in that epoch, on the version that is known, with operations that are not done yet, or not at all. Where it does not,
the partition is taken over anew, and nothing counts as known.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged
from calltag.core.domain.ids import OperationId
from calltag.core.store.ports import Loaded
from calltag.worker.folding import Folded

_DERIVED: Final = ("ik", "sw")
"""How the ids of operations begin that may well come again: those from a client's key or an event of the switch."""


class KnownCalls:
    """Of one partition, no more than `most_bytes` in the form in which events tell of them; those used last."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._calls: OrderedDict[str, tuple[Call, int]] = OrderedDict()
        self._bytes = 0
        self._marks: int | None = None

    def loaded(self, wanted: Mapping[str, Sequence[OperationId]]) -> dict[str, Loaded]:
        """Those of the keys that need not be read for these operations, as they would be found."""
        if self._marks != 0:
            # Operators take marks away, whenever they like.
            return {}
        found = {}
        for key, operations in wanted.items():
            known = self._calls.get(key)
            if known is not None and not any(each.startswith(_DERIVED) for each in operations):
                self._calls.move_to_end(key)
                found[key] = Loaded(known[0])
        return found

    def marked(self, marks: int) -> None:
        """So many marks the partition has, as a commit told; none is set but by its owner."""
        self._marks = marks

    def note(self, loaded: Mapping[str, Loaded], folded: Folded) -> None:
        """What was loaded was folded and committed."""
        sizes = {
            f"call:{event.call.id}": len(raw)
            for event, raw in zip(folded.events, folded.encoded, strict=True)
            if isinstance(event, CallChanged)
        }
        after = {change.key: change.after for change in folded.changes}
        for key, found in loaded.items():
            state, (_, size) = after.get(key, found.state), self._drop(key)
            # A released call is kept for a while only, and nothing is done on it.
            if isinstance(state, Call) and not state.released and found.unreadable is None:
                self._keep(key, state, sizes.get(key, size))

    def forget(self) -> None:
        """Others may have been at work."""
        self._calls.clear()
        self._bytes = 0
        self._marks = None

    def _drop(self, key: str) -> tuple[Call | None, int]:
        dropped = self._calls.pop(key, (None, 0))
        self._bytes -= dropped[1]
        return dropped

    def _keep(self, key: str, call: Call, size: int) -> None:
        # Of one that no event told of yet it is not known how large it is.
        if not size or size > self._most_bytes:
            return
        self._calls[key] = call, size
        self._bytes += size
        while self._bytes > self._most_bytes:
            _, (_, oldest) = self._calls.popitem(last=False)
            self._bytes -= oldest
