"""What the bus on RabbitMQ is asked about itself."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Repair(StrEnum):
    """Why something was built anew."""

    CLOSED = "closed"
    """The broker, or the network, ended the connection."""
    SILENT = "silent"
    """The connection stood and did not answer."""
    UNCONFIRMED = "unconfirmed"
    """No confirm came."""
    CONSUMER_GONE = "consumer_gone"
    """The broker knew no consumer where there should have been one."""
    CONSUMER_STARVED = "consumer_starved"
    """Messages waited, and the consumer got none."""
    UNBOUND = "unbound"
    """A message that the node sent to itself did not arrive: the exchange no longer leads to its inbox."""


class BusMetrics(Protocol):
    """What is counted."""

    def repaired(self, part: str, reason: Repair) -> None:
        """A link (`publisher`, `consumer`) or a single consumer (`queue`) is built anew."""
        ...


@dataclass(slots=True)
class RepairLog:
    """Counts in the process itself: for tests, and where nobody asks."""

    repairs: list[tuple[str, Repair]] = field(default_factory=list)

    def repaired(self, part: str, reason: Repair) -> None:
        self.repairs.append((part, reason))
        del self.repairs[:-1_000]


@dataclass(frozen=True, slots=True)
class BusState:
    """How the bus is doing at this moment."""

    connected: int
    """Of two connections, how many stand."""
    blocked: bool
    """Whether the broker takes no messages at the moment, for want of memory or disk."""
    consuming: int
    """Consumers that are there."""
    missing: int
    """Consumers that should be there and are not."""
