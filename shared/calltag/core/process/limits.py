"""Rates and shared amounts."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final


@dataclass(slots=True)
class TokenBucket:
    """Admits `burst` at once, and `per_s` per second in the long run."""

    per_s: float
    burst: int
    _tokens: float = field(init=False)
    _filled_at_ms: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._tokens = self.burst

    def take(self, now_ms: int) -> bool:
        """Take a token; return False if there is none."""
        self._fill(now_ms)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def next_in_s(self, now_ms: int) -> float:
        """Return the seconds until the next token."""
        self._fill(now_ms)
        return max(0.0, (1 - self._tokens) / self.per_s)

    def _fill(self, now_ms: int) -> None:
        since_ms = max(0, now_ms - self._filled_at_ms) if self._filled_at_ms is not None else 0
        self._filled_at_ms = now_ms
        self._tokens = min(self.burst, self._tokens + since_ms * self.per_s / 1000)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`per_s` per second in the long run, `burst` at once; 0 per second is no limit."""

    per_s: float = 0.0
    burst: int = 1


@dataclass(slots=True)
class Buckets:
    """One bucket per name, for the `most` recently used names.

    An evicted name starts with a full bucket again.
    """

    limit: RateLimit
    most: int
    _of: OrderedDict[str, TokenBucket] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._of)

    def wait_s(self, name: str, now_ms: int) -> float:
        """Take a token of the name; return 0, or the seconds until the next one if there is none."""
        if not self.limit.per_s:
            return 0.0
        bucket = self._of.pop(name, None) or TokenBucket(self.limit.per_s, self.limit.burst)
        self._of[name] = bucket
        if len(self._of) > self.most:
            self._of.popitem(last=False)
        return 0.0 if bucket.take(now_ms) else bucket.next_in_s(now_ms)


MAX_BATCH_BYTES: Final = 1_048_576
"""Default maximum size of a batch."""


def count_fitting(sizes: Iterable[int], max_bytes: int) -> int:
    """Return how many leading items fit in `max_bytes` in total; at least one, even if the first is larger."""
    count, total = 0, 0
    for size in sizes:
        total += size
        if count and total > max_bytes:
            break
        count += 1
    return count


class QueueFull(Exception):
    """No place is free, or none for the address."""


@dataclass(slots=True)
class SharedQueue:
    """Counts the places of a queue for `most`. An address takes at most as many places as are free.

    So a single address takes half of them, and each further one half of the rest.
    """

    most: int
    taken: int = 0
    _of: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def place(self, address: str) -> Iterator[None]:
        """Take a place for the context; the unknown address ("") may take any. Raises QueueFull."""
        free = self.most - self.taken
        if free <= 0 or (address and self._of[address] >= free):
            raise QueueFull
        self.taken += 1
        self._of[address] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]
