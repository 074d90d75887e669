"""Prometheus metrics of the bus."""

from dataclasses import dataclass

from calltag.core.bus.amqp.bus import AmqpBus
from calltag.core.bus.amqp.metrics import Repair
from calltag.core.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class BusObservations:
    """Implements BusMetrics."""

    metrics: Metrics

    def repaired(self, part: str, reason: Repair) -> None:
        self.metrics.broker_recoveries.labels(part, reason).inc()

    def show(self, bus: AmqpBus) -> None:
        """Update the gauges from the state of the bus at each scrape."""

        def observe() -> None:
            state = bus.state()
            self.metrics.broker_connections.set(state.connected)
            self.metrics.broker_blocked.set(state.blocked)
            self.metrics.broker_consumers.set(state.consuming)
            self.metrics.broker_consumers_missing.set(state.missing)

        self.metrics.observers.append(observe)
