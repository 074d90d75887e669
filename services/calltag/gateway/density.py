"""How many operations the messages of a partition hold, where one message may hold many."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bus.ports import PublishedCounts

_REMEMBERED: Final = 1_000
_TIGHT: Final = 2


def _begun() -> deque[PublishedCounts]:
    return deque([PublishedCounts()], maxlen=_REMEMBERED)


@dataclass(slots=True)
class Density:
    """What all gateways had published to one partition, each time that this one looked.

    The messages that wait are those that were published last, by whomever.
    """

    _totals: deque[PublishedCounts] = field(default_factory=_begun)

    def note(self, total: PublishedCounts) -> None:
        """So much was published by now."""
        if total.messages < self._totals[-1].messages:
            # The store has lost the counts.
            self._totals = _begun()
        if total.messages > self._totals[-1].messages:
            self._totals.append(total)

    def operations_in(self, messages: int) -> int:
        """About how many operations the messages hold that were published last.

        Where the looks are too far apart to tell, they are taken to be as full as those since the look before.
        """
        latest = self._totals[-1]
        reaching = (each for each in reversed(self._totals) if latest.messages - each.messages >= messages)
        span = latest.since(next(reaching, self._totals[0]))
        if not span.messages:
            return messages
        mean = span.operations / span.messages
        if span.messages > _TIGHT * messages:
            newest = latest.since(self._totals[-2])
            mean = max(mean, newest.operations / newest.messages)
        return round(messages * mean)
