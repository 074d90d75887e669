"""A rate with room for bursts."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """Lets `burst` through at once, and `per_s` a second in the long run."""

    per_s: float
    burst: int
    _tokens: float = field(init=False)
    _filled_at_ms: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._tokens = self.burst

    def take(self, now_ms: int) -> bool:
        """Whether one more may pass now."""
        self._fill(now_ms)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def next_in_s(self, now_ms: int) -> float:
        """In how many seconds one more may pass."""
        self._fill(now_ms)
        return max(0.0, (1 - self._tokens) / self.per_s)

    def _fill(self, now_ms: int) -> None:
        since_ms = max(0, now_ms - self._filled_at_ms) if self._filled_at_ms is not None else 0
        self._filled_at_ms = now_ms
        self._tokens = min(self.burst, self._tokens + since_ms * self.per_s / 1000)
