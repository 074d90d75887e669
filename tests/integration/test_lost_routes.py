"""A broker that lost bindings or exchanges, while queues and consumers are still there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPError

from calltag.core.broker.ports import (
    BrokerInterrupted,
    BrokerRefused,
    BrokerUnavailable,
    NodeId,
    ParkingDetails,
    Partition,
)
from calltag.core.broker.rabbitmq import RabbitMqBroker, RabbitMqSettings, apply_topology, open_rabbitmq
from calltag.core.broker.rabbitmq.consumer import AmqpConsumer
from calltag.core.broker.rabbitmq.metrics import Repair, RepairLog
from calltag.core.broker.rabbitmq.parking import parking_of
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq

ONE = Partition(0)
NODE = NodeId("node")
LOSSES = ["unbound", "without its exchange"]


@pytest.fixture
async def settings(rabbitmq: RabbitMq, amqp_prefix: str) -> RabbitMqSettings:
    made = RabbitMqSettings(rabbitmq.url, prefix=amqp_prefix, partitions=1, publish_deadline_s=5, watch_s=0.3)
    await apply_topology(made)
    return made


@pytest.fixture
def repairs() -> RepairLog:
    return RepairLog()


@pytest.fixture
async def broker(settings: RabbitMqSettings, repairs: RepairLog) -> AsyncIterator[RabbitMqBroker]:
    async with open_rabbitmq(settings, repairs) as opened:
        await eventually(opened.connected)
        yield opened


@asynccontextmanager
async def channel_of(settings: RabbitMqSettings) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(settings.url) as connection:
        yield await connection.channel(on_return_raises=True)


async def lose(settings: RabbitMqSettings, loss: str, exchange: str, queue: str, key: str) -> None:
    async with channel_of(settings) as channel:
        if loss == "unbound":
            await (await channel.get_queue(queue, ensure=False)).unbind(exchange, key)
        else:
            await channel.exchange_delete(exchange)


class Node:
    """A service with an inbox, which opens it again whenever it is interrupted."""

    def __init__(self, broker: RabbitMqBroker) -> None:
        self._broker = broker
        self.received: list[bytes] = []
        self.opened = 0

    async def run(self) -> None:
        while True:
            try:
                async with self._broker.inbox(NODE) as inbox:
                    self.opened += 1
                    while True:
                        self.received.append(await inbox.receive())
            except (BrokerInterrupted, BrokerUnavailable):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def receiving(broker: RabbitMqBroker) -> AsyncIterator[Node]:
    node = Node(broker)
    running = asyncio.create_task(node.run())
    try:
        await eventually(lambda: node.opened == 1)
        yield node
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def sent(broker: RabbitMqBroker, body: bytes) -> bool:
    try:
        return await broker.send(NODE, body, "name")
    except BrokerUnavailable:
        return False


@pytest.mark.parametrize("loss", LOSSES)
async def test_an_inbox_that_nothing_comes_to_is_opened_again(
    broker: RabbitMqBroker, settings: RabbitMqSettings, repairs: RepairLog, loss: str
) -> None:
    async with receiving(broker) as node:
        await lose(settings, loss, f"{settings.prefix}.events", f"{settings.prefix}.events.node", NODE)
        await eventually(lambda: node.opened == 2)
        await eventually(lambda: sent(broker, b"after"))
        await eventually(lambda: node.received == [b"after"])
        assert [part for part, _ in repairs.repairs] == ["queue"]


async def test_an_inbox_whose_messages_go_elsewhere_is_opened_again(
    broker: RabbitMqBroker, settings: RabbitMqSettings, repairs: RepairLog
) -> None:
    """The broker finds a queue for what the node sends to itself, though it is another one."""
    exchange = f"{settings.prefix}.events"
    async with receiving(broker) as node, channel_of(settings) as channel:
        other = await channel.declare_queue(exclusive=True)
        await other.bind(exchange, NODE)
        await lose(settings, "unbound", exchange, f"{exchange}.node", NODE)
        await eventually(lambda: node.opened == 2)
        assert await sent(broker, b"after")
        await eventually(lambda: node.received == [b"after"])
        assert repairs.repairs == [("queue", Repair.UNBOUND)]


async def test_an_inbox_that_is_well_stays_open_and_shows_no_message_to_itself(
    broker: RabbitMqBroker, repairs: RepairLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, watch = 0, AmqpConsumer.watch

    async def counted(consumer: AmqpConsumer) -> Repair | None:
        nonlocal looks
        looks += 1
        return await watch(consumer)

    monkeypatch.setattr(AmqpConsumer, "watch", counted)
    async with receiving(broker) as node:
        await eventually(lambda: looks >= 8)
        assert await sent(broker, b"one")
        await eventually(lambda: node.received == [b"one"])
        assert (node.opened, repairs.repairs) == (1, [])


@pytest.mark.parametrize("loss", LOSSES)
async def test_an_operation_comes_to_its_partition_though_the_broker_lost_the_way(
    broker: RabbitMqBroker, settings: RabbitMqSettings, loss: str
) -> None:
    queue = f"{settings.prefix}.ops.p00"
    await broker.publish_operation(ONE, b"before", "o1")
    await lose(settings, loss, f"{settings.prefix}.ops", queue, "p00")
    await broker.publish_operation(ONE, b"after", "o2")
    async with broker.partition(ONE, 10) as consumer:
        taken: list[bytes] = []
        while len(taken) < 2:
            taken += [each.body for each in await consumer.batch(10)]
        assert taken == [b"before", b"after"]


@pytest.mark.parametrize("loss", LOSSES)
async def test_what_is_to_be_parked_is_parked_though_the_broker_lost_the_way(
    broker: RabbitMqBroker, settings: RabbitMqSettings, loss: str
) -> None:
    name = f"{settings.prefix}.ops.dead"
    await lose(settings, loss, name, name, name)
    why = ParkingDetails("failed", "text", ONE, 1, 2)
    await broker.park(b"x", "o1", why)
    async with channel_of(settings) as channel:
        message = await (await channel.get_queue(name, ensure=False)).get(no_ack=True)
        assert message is not None
        assert parking_of(message.headers) == why


@pytest.mark.parametrize("loss", LOSSES)
async def test_the_way_of_what_the_broker_parks_itself_is_restored_while_there_is_a_worker(
    broker: RabbitMqBroker, settings: RabbitMqSettings, loss: str
) -> None:
    name = f"{settings.prefix}.ops.dead"

    async def parks() -> bool:
        async with channel_of(settings) as channel:
            try:
                exchange = await channel.get_exchange(name)
                await exchange.publish(aio_pika.Message(b"x"), "", mandatory=True)
            except AMQPError:
                return False
            return True

    async with broker.partition(ONE, 10):
        await lose(settings, loss, name, name, name)
        await eventually(parks)


async def test_without_its_queue_an_operation_is_refused_with_what_to_do(
    broker: RabbitMqBroker, settings: RabbitMqSettings
) -> None:
    async with channel_of(settings) as channel:
        await channel.queue_delete(f"{settings.prefix}.ops.p00")
    with pytest.raises(BrokerRefused, match="calltag topology apply"):
        await broker.publish_operation(ONE, b"x", "o1")
