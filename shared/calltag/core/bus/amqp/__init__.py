"""The bus on RabbitMQ, 3.10 to 4.x."""

from calltag.core.bus.amqp.applying import apply_topology
from calltag.core.bus.amqp.bus import AmqpBus, open_amqp_bus
from calltag.core.bus.amqp.settings import AmqpSettings

__all__ = ["AmqpBus", "AmqpSettings", "apply_topology", "open_amqp_bus"]
