"""Configuration of the bus on RabbitMQ."""

from dataclasses import dataclass, field
from typing import Final

from calltag.core.bus.addresses import addresses
from calltag.core.runtime.tls import ClientTls

_USUAL_TLS: Final = ClientTls("CALLTAG_AMQP__TLS__")


@dataclass(frozen=True, slots=True)
class AmqpSettings:
    """Addresses (of cluster nodes, separated by commas), names and limits; times in seconds, sizes in bytes.

    `watch_s` is the interval between checks of connections and consumers. `replicas` is that of quorum queues; 0 is
    RabbitMQ's default: three, or the number of nodes if lower.
    """

    url: str = field(repr=False)
    prefix: str = "calltag"
    partitions: int = 32
    heartbeat_s: int = 10
    connect_deadline_s: float = 5.0
    publish_deadline_s: float = 1.5
    watch_s: float = 3.0
    replicas: int = 0
    queue_max_length: int = 100_000
    delivery_limit: int = 1_000_000
    parking_max_length: int = 10_000
    inbox_expiry_s: int = 120
    inbox_max_bytes: int = 268_435_456
    inbox_prefetch: int = 100
    tls: ClientTls = _USUAL_TLS

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, split."""
        return addresses(self.url)
