"""Metrics of the connection to RabbitMQ."""

from calltag.core.broker.rabbitmq import RabbitMqBroker, RabbitMqSettings
from calltag.core.broker.rabbitmq.metrics import BrokerMetrics, Repair
from calltag.core.telemetry.metrics import Metrics


async def test_connections_consumers_and_repairs_are_shown() -> None:
    metrics = Metrics()
    observations = BrokerMetrics(metrics)
    observations.show(RabbitMqBroker(RabbitMqSettings("amqp://nowhere/"), observations).state)
    observations.repaired("queue", Repair.CONSUMER_GONE)
    shown = metrics.exposition().decode()
    for line in (
        "calltag_broker_connections 0.0",
        "calltag_broker_blocked 0.0",
        "calltag_broker_consumers 0.0",
        "calltag_broker_consumers_missing 0.0",
        'calltag_broker_recoveries_total{part="queue",reason="consumer_gone"} 1.0',
    ):
        assert line in shown
