"""How much is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FanOut:
    """How much where events go to many sessions."""

    subscribers: Sequence[int] = (300, 1_000)
    together: Sequence[int] = (1, 10)
    """How many events of the first rows come at once; the next ones come when all have these."""
    deliveries: int = 60_000
    """Of one sample of the first rows; half of that where each is an answer to a request."""
    users: int = 2_000
    bursts: int = 400
    idle: int = 10_000
    settled_s: float = 3.0
    """Seconds between the last change and a look at the memory."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a run."""

    rounds: int = 3
    operations: int = 6_000
    """Operations in one measurement of throughput."""
    path_operations: int = 6_000
    """Operations in one measurement of the whole path, which costs all processes milliseconds for each."""
    calls: int = 200
    connections: int = 200
    rate: float = 200.0
    """Operations a second where latency is measured."""
    seconds: float = 10.0
    """How long latency is measured in one round."""
    live_calls: int = 1_000_000
    """Where an installation is large."""
    fan_out: FanOut = field(default_factory=FanOut)


FULL = Size()
_SHORT_FAN_OUT = FanOut((300,), (1,), 3_000, 200, 20, 300, 0.2)
SHORT = Size(
    rounds=1, operations=600, path_operations=150, calls=20, connections=16, seconds=1.0, live_calls=4_000,
    fan_out=_SHORT_FAN_OUT,
)  # fmt: skip
