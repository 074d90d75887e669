"""Estimate of the operations in the waiting messages of a partition, since one message may hold many."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bus.ports import PublishedCounts

_REMEMBERED: Final = 1_000
_TIGHT: Final = 2


def _window_start() -> deque[PublishedCounts]:
    return deque([PublishedCounts()], maxlen=_REMEMBERED)


@dataclass(slots=True)
class Density:
    """Samples of the totals that all gateways published to one partition.

    The waiting messages are those that were published last, by any gateway.
    """

    _totals: deque[PublishedCounts] = field(default_factory=_window_start)

    def note(self, total: PublishedCounts) -> None:
        """Add a sample of the totals."""
        if total.messages < self._totals[-1].messages:
            # Redis has lost the counts.
            self._totals = _window_start()
        if total.messages > self._totals[-1].messages:
            self._totals.append(total)

    def operations_in(self, messages: int) -> int:
        """Estimate the operations in that many of the latest messages.

        If the samples are too far apart, assume them to be at least as full as those since the previous sample.
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
