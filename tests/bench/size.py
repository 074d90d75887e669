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


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a run."""

    rounds: int = 3
    operations: int = 6_000
    """Operations in one measurement of throughput."""
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
_SHORT_FAN_OUT = FanOut((300,), (1,), 6_000, 200, 20, 500)
SHORT = Size(rounds=1, operations=600, calls=20, connections=16, seconds=2.0, live_calls=4_000, fan_out=_SHORT_FAN_OUT)
