"""The bus on RabbitMQ, 3.10 to 4.x."""

from calltag.core.broker.rabbitmq.broker import AmqpBus, apply_topology, open_amqp_bus
from calltag.core.broker.rabbitmq.topology import AmqpSettings

__all__ = ["AmqpBus", "AmqpSettings", "apply_topology", "open_amqp_bus"]
