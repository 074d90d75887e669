"""What the bus on RabbitMQ needs to know."""

from dataclasses import dataclass, field
from typing import Final

from calltag.core.bus.addresses import addresses
from calltag.core.runtime.tls import ClientTls

_USUAL_TLS: Final = ClientTls("CALLTAG_AMQP__TLS__")


@dataclass(frozen=True, slots=True)
class AmqpSettings:
    """Addresses (those of a cluster's nodes with commas between), names and limits; times in seconds, sizes in bytes.

    `watch_s` is how often connections and consumers are tried. Of `replicas` of a quorum queue, 0 leaves the number to
    RabbitMQ: three, or as many as there are nodes.
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
        """Every address."""
        return addresses(self.url)
