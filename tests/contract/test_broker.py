"""Rules for every broker: the same tests on RabbitMQ and in one process."""

import asyncio
from collections.abc import AsyncIterator

import aio_pika
import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import (
    Broker,
    BrokerRefused,
    Delivery,
    NodeId,
    ParkingDetails,
    Partition,
    PartitionConsumer,
)
from calltag.core.broker.rabbitmq import RabbitMqSettings, apply_topology, open_rabbitmq
from calltag.core.broker.rabbitmq.parking import parking_of
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq

ONE, TWO = Partition(0), Partition(1)
LIMIT = 50
PARKING_LIMIT = 5


@pytest.fixture(params=["memory", "rabbitmq"])
async def broker(request: pytest.FixtureRequest, amqp_prefix: str) -> AsyncIterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker(2, queue_limit=LIMIT, parking_limit=PARKING_LIMIT)
        return
    url = request.getfixturevalue("rabbitmq").url
    settings = RabbitMqSettings(
        url, prefix=amqp_prefix, partitions=2, queue_max_length=LIMIT, parking_max_length=PARKING_LIMIT,
        publish_deadline_s=5,
    )  # fmt: skip
    await apply_topology(settings)
    async with open_rabbitmq(settings) as opened:
        await eventually(opened.connected)
        yield opened


async def publish(broker: Broker, *names: str, partition: Partition = ONE) -> None:
    for name in names:
        await broker.publish_operation(partition, name.encode(), name)


async def take(consumer: PartitionConsumer, count: int, limit: int = 100) -> list[str]:
    taken: list[str] = []
    async with asyncio.timeout(20):
        while len(taken) < count:
            taken += [delivery.body.decode() for delivery in await consumer.batch(limit)]
    return taken


async def test_operations_come_in_the_order_in_which_they_were_published(broker: Broker) -> None:
    names = [f"o{number}" for number in range(30)]
    await asyncio.gather(*(broker.publish_operation(ONE, name.encode(), name) for name in names))
    async with broker.partition(ONE, 100) as consumer:
        assert await take(consumer, 30) == names


async def test_partitions_are_apart(broker: Broker) -> None:
    await publish(broker, "a")
    await publish(broker, "b", partition=TWO)
    async with broker.partition(TWO, 10) as consumer:
        assert await take(consumer, 1) == ["b"]


async def test_the_depth_is_what_waits_for_the_consumer(broker: Broker) -> None:
    assert await broker.depth(ONE) == 0
    await publish(broker, "a", "b", "c")
    assert (await broker.depth(ONE), await broker.depth(TWO)) == (3, 0)
    async with broker.partition(ONE, 10) as consumer:
        assert await take(consumer, 3) == ["a", "b", "c"]
        await consumer.ack_through((await _last(broker, consumer)).tag)
        assert await broker.depth(ONE) == 0


async def test_what_was_published_is_told_in_messages_and_in_operations(broker: Broker) -> None:
    await asyncio.gather(*(publish(broker, f"o{number}") for number in range(30)))
    await publish(broker, "alone", partition=TWO)
    found = broker.published(ONE)
    assert (found.operations, found.messages) == (30, await broker.depth(ONE))
    assert (broker.published(TWO).operations, broker.published(TWO).messages) == (1, 1)


async def _last(broker: Broker, consumer: PartitionConsumer) -> Delivery:
    """One more delivery."""
    await publish(broker, "z")
    [delivery] = await consumer.batch(1)
    return delivery


async def test_what_is_not_acknowledged_comes_again_in_order(broker: Broker) -> None:
    await publish(broker, "a", "b", "c", "d")
    async with broker.partition(ONE, 10) as consumer:
        first = (await consumer.batch(1))[0]
        assert not first.redelivered
        await consumer.ack_through(first.tag)
        await take(consumer, 2, limit=1)
    async with broker.partition(ONE, 10) as consumer:
        again = await consumer.batch(1)
        assert (again[0].body, again[0].message_id, again[0].redelivered) == (b"b", "b", True)
        assert await take(consumer, 2) == ["c", "d"]


async def test_one_acknowledgement_covers_all_before(broker: Broker) -> None:
    await publish(broker, "a", "b", "c")
    async with broker.partition(ONE, 10) as consumer:
        deliveries: list[Delivery] = []
        while len(deliveries) < 3:
            deliveries += await consumer.batch(3)
        await consumer.ack_through(deliveries[1].tag)
    async with broker.partition(ONE, 10) as consumer:
        assert await take(consumer, 1) == ["c"]


async def test_no_more_than_the_prefetch_is_taken_ahead(broker: Broker) -> None:
    await publish(broker, "a", "b", "c")
    async with broker.partition(ONE, 2) as consumer:
        assert await take(consumer, 2) == ["a", "b"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await consumer.batch(1)


async def test_a_batch_has_no_more_bytes_than_wanted_unless_the_first_alone_has(broker: Broker) -> None:
    bodies = ["a" * 40, "b" * 60, "c", "d" * 200, "e" * 99, "f"]
    await publish(broker, *bodies)
    async with broker.partition(ONE, 10) as consumer:
        batches: list[list[str]] = []
        while sum(map(len, batches)) < len(bodies):
            batches.append([each.body.decode() for each in await consumer.batch(10, 100)])
    assert [body for batch in batches for body in batch] == bodies
    assert all(sum(map(len, batch)) <= 100 or len(batch) == 1 for batch in batches)


async def test_one_consumer_at_a_time_and_the_next_goes_on_in_order(broker: Broker) -> None:
    async with broker.partition(ONE, 10) as standby:
        active_entered = standby
        await publish(broker, "a")
        assert await take(active_entered, 1) == ["a"]
        async with broker.partition(ONE, 10) as second:
            waiting = asyncio.create_task(take(second, 3))
            await publish(broker, "b", "c")
            assert await take(active_entered, 2) == ["b", "c"]
            assert not waiting.done()
            waiting.cancel()
    async with broker.partition(ONE, 10) as last:
        assert await take(last, 3) == ["a", "b", "c"]


async def test_a_full_partition_refuses(broker: Broker) -> None:
    async def fill() -> None:
        for number in range(20 * LIMIT):
            await broker.publish_operation(ONE, b"x", str(number))

    with pytest.raises(BrokerRefused):
        await fill()


async def parked(
    broker: Broker, request: pytest.FixtureRequest, prefix: str
) -> list[tuple[bytes, str, ParkingDetails | None]]:
    if isinstance(broker, MemoryBroker):
        return [(each.body, each.message_id, each.parking) for each in broker.parked]
    async with await aio_pika.connect(request.getfixturevalue("rabbitmq").url) as connection:
        queue = await (await connection.channel()).get_queue(f"{prefix}.ops.dead", ensure=False)
        found: list[tuple[bytes, str, ParkingDetails | None]] = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found.append((message.body, message.correlation_id or "", parking_of(message.headers)))
        return found


async def taken(consumer: PartitionConsumer, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(deliveries) < count:
            deliveries += await consumer.batch(count)
    return deliveries


async def test_what_is_parked_is_kept_with_its_reason_until_there_is_no_room(
    broker: Broker, request: pytest.FixtureRequest, amqp_prefix: str
) -> None:
    why = ParkingDetails("failed", "text", TWO, 1, 2, 3, "ValueError", "call:C", "o9")
    kept = []

    async def fill() -> None:
        for number in range(10 * PARKING_LIMIT):
            await broker.park(b"%d" % number, f"o{number}", why)
            kept.append((b"%d" % number, f"o{number}", why))

    with pytest.raises(BrokerRefused):
        await fill()
    assert len(kept) >= PARKING_LIMIT
    assert await parked(broker, request, amqp_prefix) == kept


@pytest.mark.parametrize("acknowledged", [(1,), (2,), (0, 2), (0, 1, 2), (1, 2)])
async def test_of_several_deliveries_some_may_be_acknowledged(broker: Broker, acknowledged: tuple[int, ...]) -> None:
    await publish(broker, "a", "b", "c")
    async with broker.partition(ONE, 3) as consumer:
        deliveries = await taken(consumer, 3)
        await consumer.ack([deliveries[number].tag for number in acknowledged])
        await publish(broker, "d")
        assert await take(consumer, 1) == ["d"]
    async with broker.partition(ONE, 10) as consumer:
        again = await taken(consumer, 4 - len(acknowledged))
        left = [name for number, name in enumerate("abc") if number not in acknowledged]
        assert [each.body.decode() for each in again] == [*left, "d"]
        assert all(each.returned >= 1 for each in again)


async def test_how_often_an_operation_came_back_is_told(broker: Broker) -> None:
    await publish(broker, "a")
    seen = []
    for _ in range(4):
        async with broker.partition(ONE, 3) as consumer:
            seen += [each.returned for each in await taken(consumer, 1)]
    assert seen == [0, 1, 2, 3]


async def test_an_inbox_gets_its_messages_in_order(broker: Broker) -> None:
    node = NodeId("node-1")
    assert not await broker.send(node, b"x", "x")
    async with broker.inbox(node) as inbox:
        for number in range(5):
            assert await broker.send(node, b"%d" % number, str(number))
        async with asyncio.timeout(20):
            assert [await inbox.receive() for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_the_topology_may_be_applied_again(rabbitmq: RabbitMq, amqp_prefix: str) -> None:
    settings = RabbitMqSettings(rabbitmq.url, prefix=amqp_prefix, partitions=2, publish_deadline_s=5)
    await apply_topology(settings)
    async with open_rabbitmq(settings) as broker:
        await eventually(broker.connected)
        await publish(broker, "a")
        await apply_topology(settings)
        async with broker.partition(ONE, 10) as consumer:
            assert await take(consumer, 1) == ["a"]
