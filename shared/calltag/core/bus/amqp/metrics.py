"""Observability of the bus on RabbitMQ: its state, and the repairs that it counts."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Repair(StrEnum):
    """Reason for rebuilding a connection or consumer."""

    CLOSED = "closed"
    """RabbitMQ or the network closed the connection."""
    SILENT = "silent"
    """The connection was open but did not respond."""
    UNCONFIRMED = "unconfirmed"
    """Publisher confirms did not arrive."""
    CONSUMER_GONE = "consumer_gone"
    """RabbitMQ did not know the consumer."""
    CONSUMER_STARVED = "consumer_starved"
    """Messages waited, but were not delivered to the consumer."""
    UNBOUND = "unbound"
    """A probe that the node sent to itself did not arrive: the exchange is no longer bound to its inbox."""


class BusMetrics(Protocol):
    """Observer of the bus."""

    def repaired(self, part: str, reason: Repair) -> None:
        """A link (`publisher`, `consumer`) or a single consumer (`queue`) is rebuilt."""
        ...


@dataclass(slots=True)
class RepairLog:
    """Implements BusMetrics in memory, for tests and services without metrics."""

    repairs: list[tuple[str, Repair]] = field(default_factory=list)

    def repaired(self, part: str, reason: Repair) -> None:
        self.repairs.append((part, reason))
        del self.repairs[:-1_000]


@dataclass(frozen=True, slots=True)
class BusState:
    """Current state of the bus."""

    connected: int
    """Number of open connections, of two."""
    blocked: bool
    """True while RabbitMQ blocks publishing because of a memory or disk alarm."""
    consuming: int
    """Number of active consumers."""
    missing: int
    """Number of consumers that were lost and not opened again."""
