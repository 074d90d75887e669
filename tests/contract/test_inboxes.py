"""Features of one kind of broker: acknowledged, persistent messages and bounds in bytes on RabbitMQ, in memory bounds
in numbers."""

import asyncio
from collections.abc import AsyncIterator

import aio_pika
import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Inbox, NodeId, Partition
from calltag.core.broker.rabbitmq import RabbitMqBroker, RabbitMqSettings, apply_topology, open_rabbitmq
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq

NODE = NodeId("node-1")
ONE = Partition(0)
MAX_BYTES = 1_000


@pytest.fixture
async def broker(rabbitmq: RabbitMq, amqp_prefix: str) -> AsyncIterator[RabbitMqBroker]:
    settings = RabbitMqSettings(
        rabbitmq.url, prefix=amqp_prefix, partitions=1, inbox_max_bytes=MAX_BYTES, publish_deadline_s=5
    )
    await apply_topology(settings)
    async with open_rabbitmq(settings) as opened:
        await eventually(opened.connected)
        yield opened


async def received(inbox: Inbox) -> bytes:
    async with asyncio.timeout(20):
        return await inbox.receive()


async def test_a_message_in_hand_when_its_node_leaves_comes_again(broker: RabbitMqBroker) -> None:
    async with broker.inbox(NODE) as inbox:
        for body in (b"first", b"second"):
            assert await broker.send(NODE, body, "m")
        assert await received(inbox) == b"first"
    async with broker.inbox(NODE) as inbox:
        assert [await received(inbox) for _ in range(2)] == [b"first", b"second"]


async def test_a_message_that_was_handled_does_not_come_again(broker: RabbitMqBroker) -> None:
    async with broker.inbox(NODE) as inbox:
        for body in (b"first", b"second"):
            assert await broker.send(NODE, body, "m")
            assert await received(inbox) == body
    async with broker.inbox(NODE) as inbox:
        assert await received(inbox) == b"second"


async def test_of_a_full_inbox_the_oldest_messages_go(broker: RabbitMqBroker) -> None:
    async with broker.inbox(NODE):
        pass
    bodies = [b"%200d" % number for number in range(20)]
    for body in bodies:
        assert await broker.send(NODE, body, "m")
    async with broker.inbox(NODE) as inbox:
        kept = [await received(inbox)]
        while kept[-1] != bodies[-1]:
            kept.append(await received(inbox))
    assert kept == bodies[-MAX_BYTES // 200 :]


async def test_of_an_inbox_in_memory_with_too_many_bytes_the_oldest_messages_go() -> None:
    broker = MemoryBroker(1, inbox_max_bytes=2)
    async with broker.inbox(NODE) as inbox:
        for body in (b"1", b"2", b"3"):
            assert await broker.send(NODE, body, "m")
        assert [await received(inbox) for _ in range(2)] == [b"2", b"3"]


async def test_operations_are_persistent_and_what_goes_to_nodes_is_not(
    broker: RabbitMqBroker, rabbitmq: RabbitMq, amqp_prefix: str
) -> None:
    async with broker.inbox(NODE):
        pass
    await broker.publish_operation(ONE, b"operation", "m")
    assert await broker.send(NODE, b"message", "m")
    async with await aio_pika.connect(rabbitmq.url) as connection, asyncio.timeout(20):
        channel = await connection.channel()
        modes = {"ops.p00": aio_pika.DeliveryMode.PERSISTENT, f"events.{NODE}": aio_pika.DeliveryMode.NOT_PERSISTENT}
        for name, mode in modes.items():
            queue = await channel.get_queue(f"{amqp_prefix}.{name}", ensure=False)
            async with queue.iterator() as messages:
                message = await anext(messages)
                assert message.delivery_mode is mode
                await message.ack()
