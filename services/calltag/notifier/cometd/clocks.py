"""The clocks of a node, and how late something is by them."""

import time
from typing import Final

_LONGEST_MS: Final = 2**53
"""What is accepted long ago, or never was, must not be more than a metric can hold."""


def monotonic_ms() -> int:
    """A clock that does not go back."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def latency_s(accepted_at_ms: int, now_ms: int) -> float:
    """How long ago something was accepted, within bounds."""
    return min(max(0, now_ms - accepted_at_ms), _LONGEST_MS) / 1000
