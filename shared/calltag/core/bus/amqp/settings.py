"""What the bus on RabbitMQ needs to know."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AmqpSettings:
    """Address, names and limits; times in seconds, sizes in bytes."""

    url: str = field(repr=False)
    prefix: str = "calltag"
    partitions: int = 32
    heartbeat_s: int = 10
    connect_deadline_s: float = 5.0
    publish_deadline_s: float = 1.5
    queue_max_length: int = 100_000
    delivery_limit: int = 1_000_000
    parking_max_length: int = 10_000
    inbox_expiry_s: int = 120
    inbox_max_bytes: int = 268_435_456
    inbox_prefetch: int = 100
