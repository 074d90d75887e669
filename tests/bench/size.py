"""How much is measured."""

from dataclasses import dataclass


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


FULL = Size()
SHORT = Size(rounds=1, operations=600, calls=20, connections=16, seconds=2.0, live_calls=4_000)
