"""The broker on RabbitMQ, 3.10 to 4.x."""

from calltag.core.broker.rabbitmq.broker import RabbitMqBroker, apply_topology, open_rabbitmq
from calltag.core.broker.rabbitmq.topology import RabbitMqSettings

__all__ = ["RabbitMqBroker", "RabbitMqSettings", "apply_topology", "open_rabbitmq"]
