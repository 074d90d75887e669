"""Token buckets: rate limits with bursts, single or per name."""

from collections import OrderedDict
from dataclasses import dataclass, field


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
