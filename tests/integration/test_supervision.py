"""Faults of RabbitMQ and its connections: errors by the deadline, no confirmed message lost, and work resumes."""

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aio_pika
import pytest
from aio_pika.tools import OneShotCallback

from calltag.core.broker.ports import (
    BrokerInterrupted,
    BrokerRefused,
    BrokerUnavailable,
    Delivery,
    Partition,
    PartitionConsumer,
)
from calltag.core.broker.rabbitmq import RabbitMqBroker, RabbitMqSettings, apply_topology, open_rabbitmq
from calltag.core.broker.rabbitmq.connection import Link
from calltag.core.broker.rabbitmq.consumer import AmqpConsumer
from calltag.core.broker.rabbitmq.metrics import Repair, RepairLog
from parts.amqp_frames import Method
from parts.eventually import eventually
from parts.proxy import Proxy
from parts.rabbitmq import RabbitMq

ONE = Partition(0)
MOST_S = 5.0


class Reader:
    """A consumer as services are: it begins anew whenever it is interrupted, and knows what comes a second time."""

    def __init__(self, broker: RabbitMqBroker) -> None:
        self._broker = broker
        self.taken: list[str] = []
        self.interruptions = 0

    async def run(self) -> None:
        while True:
            try:
                async with self._broker.partition(ONE, 100) as consumer:
                    while True:
                        deliveries = await consumer.batch(10)
                        self.taken += [each.message_id for each in deliveries if each.message_id not in self.taken]
                        await consumer.ack_through(deliveries[-1].tag)
            except (BrokerInterrupted, BrokerUnavailable):
                self.interruptions += 1
                await asyncio.sleep(0.05)


@pytest.fixture
def proxy(rabbitmq: RabbitMq) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", rabbitmq.port) as forwarding:
        yield forwarding
        forwarding.heal()


@pytest.fixture
async def settings(proxy: Proxy, rabbitmq: RabbitMq, amqp_prefix: str) -> RabbitMqSettings:
    """The broker notices within seconds that a client is gone; the client has to notice before its heartbeats do."""
    await apply_topology(RabbitMqSettings(rabbitmq.url, prefix=amqp_prefix, partitions=1))
    return RabbitMqSettings(
        f"amqp://guest:guest@127.0.0.1:{proxy.port}/", prefix=amqp_prefix, partitions=1,
        heartbeat_s=2, connect_deadline_s=1, publish_deadline_s=1, watch_s=0.3,
    )  # fmt: skip


@pytest.fixture
def repairs() -> RepairLog:
    return RepairLog()


@pytest.fixture
async def broker(settings: RabbitMqSettings, repairs: RepairLog) -> AsyncIterator[RabbitMqBroker]:
    async with open_rabbitmq(settings, repairs) as opened:
        await eventually(opened.connected)
        yield opened


@asynccontextmanager
async def consuming(broker: RabbitMqBroker) -> AsyncIterator[PartitionConsumer]:
    """A consumer of the partition, tried for until there is one: a busy machine takes longer than a call may."""
    async with AsyncExitStack() as stack:
        found: list[PartitionConsumer] = []

        async def begun() -> bool:
            with suppress(BrokerInterrupted, BrokerUnavailable):
                found.append(await stack.enter_async_context(broker.partition(ONE, 10)))
            return bool(found)

        await eventually(begun)
        yield found[0]


@asynccontextmanager
async def reading(broker: RabbitMqBroker) -> AsyncIterator[Reader]:
    reader = Reader(broker)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(reader.run())
        yield reader
        task.cancel()


async def takes(broker: RabbitMqBroker, name: str) -> bool:
    """Whether the broker takes an operation; in any case it says so in time."""
    try:
        async with asyncio.timeout(MOST_S):
            await broker.publish_operation(ONE, b"x", name)
    except (BrokerUnavailable, BrokerRefused):
        return False
    return True


async def arrives(broker: RabbitMqBroker, reader: Reader, name: str) -> None:
    """An operation that is sent, again if need be, is taken and read."""
    await eventually(lambda: takes(broker, name))
    await eventually(lambda: name in reader.taken)


async def confirmed(broker: RabbitMqBroker, names: Sequence[str]) -> list[str]:
    return [name for name in names if await takes(broker, name)]


async def test_a_peer_that_vanished_without_a_sign_is_noticed(
    broker: RabbitMqBroker, proxy: Proxy, repairs: RepairLog
) -> None:
    async with reading(broker) as reader:
        await arrives(broker, reader, "before")
        proxy.vanish()
        # Nobody publishes: what has to be noticed is silence.
        await eventually(lambda: {("consumer", Repair.SILENT), ("publisher", Repair.SILENT)} <= set(repairs.repairs))
        await arrives(broker, reader, "after")


@pytest.mark.parametrize(("there", "back"), [(True, False), (False, True)])
async def test_a_line_that_carries_one_way_only_is_told_in_time(
    broker: RabbitMqBroker, proxy: Proxy, *, there: bool, back: bool
) -> None:
    async with reading(broker) as reader:
        await arrives(broker, reader, "before")
        proxy.stall(there=there, back=back)
        assert not await takes(broker, "meanwhile")
        await eventually(lambda: not broker.connected())
        proxy.heal()
        await arrives(broker, reader, "after")
        assert reader.taken in (["before", "after"], ["before", "meanwhile", "after"])


async def test_on_a_slow_line_what_was_confirmed_arrives_in_order(broker: RabbitMqBroker, proxy: Proxy) -> None:
    async with reading(broker) as reader:
        await arrives(broker, reader, "before")
        proxy.slow(bytes_per_s=1_500)
        sent = await confirmed(broker, [f"slow-{number}" for number in range(8)])
        proxy.heal()
        await arrives(broker, reader, "after")
        assert [name for name in reader.taken if name in sent] == sent


async def test_confirms_that_are_lost_on_the_way_are_told_in_time(
    broker: RabbitMqBroker, proxy: Proxy, repairs: RepairLog
) -> None:
    async with reading(broker) as reader:
        await arrives(broker, reader, "before")
        proxy.lose(Method.BASIC_ACK)
        assert not await takes(broker, "unconfirmed")
        await eventually(lambda: ("publisher", Repair.UNCONFIRMED) in repairs.repairs)
        proxy.heal()
        await arrives(broker, reader, "after")
        assert reader.taken == ["before", "unconfirmed", "after"]


async def delete_queue(settings: RabbitMqSettings, rabbitmq: RabbitMq) -> None:
    async with await aio_pika.connect(rabbitmq.url) as connection:
        await (await connection.channel()).queue_delete(f"{settings.prefix}.ops.p00")


FORGET_CONSUMER = """
{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
[ra:process_command(amqqueue:get_pid(Q), rabbit_fifo:make_checkout({{element(2, C), element(1, C)}}, cancel, #{{}}))
 || C <- rabbit_amqqueue:consumers(Q)].
"""


async def test_a_consumer_that_the_broker_forgot_is_found(
    broker: RabbitMqBroker, settings: RabbitMqSettings, rabbitmq: RabbitMq, repairs: RepairLog
) -> None:
    async with reading(broker) as reader:
        await arrives(broker, reader, "before")
        forget = FORGET_CONSUMER.format(queue=f"{settings.prefix}.ops.p00")
        await asyncio.to_thread(rabbitmq.control, "eval", forget)
        await arrives(broker, reader, "after")
        assert ("queue", Repair.CONSUMER_GONE) in repairs.repairs
        assert (broker.state().consuming, broker.state().missing) == (1, 0)


async def test_a_consumer_that_was_not_told_that_its_queue_is_gone_finds_out(
    broker: RabbitMqBroker, settings: RabbitMqSettings, rabbitmq: RabbitMq, proxy: Proxy, repairs: RepairLog
) -> None:
    async with reading(broker) as reader:
        await arrives(broker, reader, "before")
        proxy.lose(Method.BASIC_CANCEL)
        await delete_queue(settings, rabbitmq)
        await eventually(lambda: ("queue", Repair.CONSUMER_GONE) in repairs.repairs)
        await apply_topology(settings)
        await arrives(broker, reader, "after")


async def test_a_consumer_whose_queue_is_gone_is_missed_until_the_queue_is_there_again(
    broker: RabbitMqBroker, settings: RabbitMqSettings, rabbitmq: RabbitMq
) -> None:
    async with reading(broker) as reader:
        await arrives(broker, reader, "before")
        assert broker.consuming()
        await delete_queue(settings, rabbitmq)
        await eventually(lambda: not broker.consuming())
        await apply_topology(settings)
        await arrives(broker, reader, "after")
        assert broker.consuming()


async def take_and_keep(broker: RabbitMqBroker) -> None:
    async with asyncio.timeout(20), broker.partition(ONE, 10) as consumer:
        while True:
            await consumer.batch(10)


async def test_a_consumer_that_kept_the_broker_waiting_for_too_long_gets_everything_again(
    broker: RabbitMqBroker, rabbitmq: RabbitMq
) -> None:
    patience = (
        "application:set_env(rabbit, channel_tick_interval, {}), application:set_env(rabbit, consumer_timeout, {})."
    )
    try:
        await asyncio.to_thread(rabbitmq.control, "eval", patience.format(300, 1_000))
        assert await confirmed(broker, ["a", "b"]) == ["a", "b"]
        with pytest.raises(BrokerInterrupted):
            await take_and_keep(broker)
    finally:
        await asyncio.to_thread(rabbitmq.control, "eval", patience.format(60_000, 1_800_000))
    async with reading(broker) as reader:
        await eventually(lambda: reader.taken == ["a", "b"])


async def take_all(consumer: PartitionConsumer) -> None:
    async with asyncio.timeout(20):
        while True:
            await consumer.batch(10)


async def test_what_was_taken_ahead_on_a_channel_that_died_cannot_be_acknowledged_and_comes_again(
    broker: RabbitMqBroker, proxy: Proxy
) -> None:
    names = [f"o{number}" for number in range(20)]
    assert await confirmed(broker, names) == names
    async with broker.partition(ONE, 100) as consumer:
        taken: list[Delivery] = []
        while len(taken) < 10:
            taken += await consumer.batch(10 - len(taken))
        proxy.cut()
        # Until this is noticed, an acknowledgement may still go into the connection that is broken.
        with pytest.raises(BrokerInterrupted):
            await take_all(consumer)
        for each in taken[:2]:
            with pytest.raises(BrokerInterrupted):
                await consumer.ack_through(each.tag)
    async with reading(broker) as reader:
        await eventually(lambda: len(reader.taken) == 20)
        assert reader.taken == names


async def test_without_any_connection_publishing_is_refused_at_once(unused_tcp_port: int) -> None:
    settings = RabbitMqSettings(f"amqp://guest:guest@127.0.0.1:{unused_tcp_port}/", partitions=1, publish_deadline_s=60)
    async with open_rabbitmq(settings) as broker:
        assert not await takes(broker, "x")
        assert not broker.connected()


ALARMS = {
    "memory": (("set_vm_memory_high_watermark", "0.0000001"), ("set_vm_memory_high_watermark", "0.6")),
    "disk": (("set_disk_free_limit", "1000000000000000"), ("set_disk_free_limit", "10MB")),
}


@pytest.mark.parametrize("alarm", ALARMS)
async def test_a_broker_that_is_short_of_something_refuses_fast_serves_consumers_and_recovers(
    broker: RabbitMqBroker, rabbitmq: RabbitMq, proxy: Proxy, alarm: str
) -> None:
    raise_it, end_it = ALARMS[alarm]
    names = [f"o{number}" for number in range(5)]
    assert await confirmed(broker, names) == names
    connections = proxy.taken
    try:
        await asyncio.to_thread(rabbitmq.control, *raise_it)
        await eventually(lambda: takes_not(broker, "first"))
        await eventually(lambda: not broker.connected())
        # From here on it is known: nobody has to wait for that.
        async with asyncio.timeout(MOST_S):
            for number in range(200):
                assert not await takes(broker, f"refused-{number}")
        async with reading(broker) as reader:
            await eventually(lambda: reader.taken[:5] == names)
    finally:
        await asyncio.to_thread(rabbitmq.control, *end_it)
    await eventually(broker.connected)
    async with reading(broker) as reader:
        await arrives(broker, reader, "after")
    assert proxy.taken == connections


async def takes_not(broker: RabbitMqBroker, name: str) -> bool:
    return not await takes(broker, name)


async def test_connections_that_break_in_the_middle_of_everything_leave_no_error_unheard(
    broker: RabbitMqBroker, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    sent: list[str] = []

    async def send(sender: int) -> None:
        for number in range(10_000):
            if await takes(broker, f"{sender}-{number}"):
                sent.append(f"{sender}-{number}")
            else:
                await asyncio.sleep(0.02)

    async with reading(broker) as reader:
        senders = [asyncio.create_task(send(sender)) for sender in range(10)]
        for _ in range(8):
            known = len(sent)
            await eventually(lambda known=known: len(sent) > known + 20)  # type: ignore[misc]
            proxy.cut()
        for task in senders:
            task.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        await eventually(lambda: set(sent) <= set(reader.taken))
    for sender in range(10):
        mine = [name for name in reader.taken if name in sent and name.startswith(f"{sender}-")]
        assert mine == [name for name in sent if name.startswith(f"{sender}-")]
    gc.collect()
    await asyncio.sleep(0)
    assert unheard == []
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_what_is_in_hand_is_counted_by_operations(broker: RabbitMqBroker) -> None:
    await asyncio.gather(*(broker.publish_operation(ONE, b"x", f"o{number}") for number in range(30)))
    async with broker.partition(ONE, 100) as consumer:
        await eventually(lambda: consumer.unacknowledged() == 30)
        [first] = await consumer.batch(1)
        assert consumer.unacknowledged() == 30
        await consumer.ack_through(first.tag)
        assert consumer.unacknowledged() == 29


async def test_a_consumer_that_waits_for_the_active_one_is_not_taken_for_starved(
    broker: RabbitMqBroker, repairs: RepairLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: Counter[object] = Counter()
    watch = AmqpConsumer.watch

    async def counted(consumer: AmqpConsumer) -> Repair | None:
        looks[consumer] += 1
        return await watch(consumer)

    monkeypatch.setattr(AmqpConsumer, "watch", counted)
    assert await confirmed(broker, ["a", "b"]) == ["a", "b"]
    async with broker.partition(ONE, 1) as active:
        [first] = await active.batch(10)
        async with broker.partition(ONE, 10) as waiting:
            # What waits in the queue is the active one's, which is at work on what it has.
            await eventually(lambda: looks[waiting] >= 10)
            await active.ack_through(first.tag)
            [second] = await active.batch(10)
            assert second.body == b"x"
            assert waiting.unacknowledged() == 0
    assert repairs.repairs == []


@pytest.mark.parametrize("broken", [False, True])
async def test_a_consumer_that_came_before_the_former_one_left_is_watched_on(
    broker: RabbitMqBroker, *, broken: bool
) -> None:
    former = broker.partition(ONE, 10)
    await former.__aenter__()
    async with consuming(broker):
        error = BrokerInterrupted("no channel") if broken else None
        with suppress(BrokerInterrupted):
            await former.__aexit__(type(error) if error else None, error, None)
        assert (broker.state().consuming, broker.consuming()) == (1, True)
    assert (broker.state().consuming, broker.consuming()) == (0, True)


async def test_probes_leave_nothing_behind(settings: RabbitMqSettings) -> None:
    """The library keeps what it holds of a channel until the connection closes, even when the channel is closed."""
    link = Link(settings, "test")

    def kept() -> int:
        gc.collect()
        return sum(isinstance(each, OneShotCallback) for each in gc.get_objects())

    async with asyncio.TaskGroup() as group:
        running = group.create_task(link.run())
        await eventually(lambda: link.up)
        await link.probe()
        before = kept()
        for _ in range(20):
            await link.probe()
        assert (kept(), link.up) == (before, True)
        running.cancel()
