"""Observability of the broker on RabbitMQ: its state, and the repairs that it counts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from calltag.core.telemetry.metrics import Metrics


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


class BrokerObserver(Protocol):
    """Observer of the broker."""

    def repaired(self, part: str, reason: Repair) -> None:
        """A link (`publisher`, `consumer`) or a single consumer (`queue`) is rebuilt."""
        ...


@dataclass(slots=True)
class RepairLog:
    """Implements BrokerObserver in memory, for tests and services without metrics."""

    repairs: list[tuple[str, Repair]] = field(default_factory=list)

    def repaired(self, part: str, reason: Repair) -> None:
        self.repairs.append((part, reason))
        del self.repairs[:-1_000]


@dataclass(frozen=True, slots=True)
class BrokerState:
    """Current state of the broker."""

    connected: int
    """Number of open connections, of two."""
    blocked: bool
    """True while RabbitMQ blocks publishing because of a memory or disk alarm."""
    consuming: int
    """Number of active consumers."""
    missing: int
    """Number of consumers that were lost and not opened again."""


class BrokerMetrics:
    """Implements BrokerObserver: counts repairs, and shows the state of the broker."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._recoveries = metrics.counter(
            "broker_recoveries", "Connections and consumers re-established, by part and reason.", "part", "reason"
        )
        self._connections = metrics.gauge("broker_connections", "Open connections to RabbitMQ, of two.")
        self._blocked = metrics.gauge(
            "broker_blocked", "1 while RabbitMQ blocks this connection because of a memory or disk alarm."
        )
        self._consumers = metrics.gauge("broker_consumers", "Active consumers of this process.")
        self._missing = metrics.gauge("broker_consumers_missing", "Missing consumers of this process.")

    def repaired(self, part: str, reason: Repair) -> None:
        self._recoveries.labels(part, reason).inc()

    def show(self, read_state: Callable[[], BrokerState]) -> None:
        """Update the gauges from the state of the broker at each scrape."""

        def observe() -> None:
            state = read_state()
            self._connections.set(state.connected)
            self._blocked.set(state.blocked)
            self._consumers.set(state.consuming)
            self._missing.set(state.missing)

        self._metrics.before_scrape(observe)
