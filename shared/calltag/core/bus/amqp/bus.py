"""The bus on RabbitMQ, put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aio_pika.exceptions import AMQPError

from calltag.core.bus.amqp.consumer import AmqpConsumer, AmqpInbox
from calltag.core.bus.amqp.link import Link
from calltag.core.bus.amqp.parking import headers_of
from calltag.core.bus.amqp.publisher import Publisher, Unroutable
from calltag.core.bus.amqp.settings import AmqpSettings
from calltag.core.bus.amqp.topology import Topology
from calltag.core.bus.partitioning import hash_tag
from calltag.core.bus.ports import BusInterrupted, BusRefused, NodeId, Parking, Partition


class AmqpBus:
    """Publishes on one connection and consumes on another: a broker short of memory stops reading from connections
    that publish, and acknowledgements must not wait for that."""

    def __init__(self, settings: AmqpSettings) -> None:
        self._settings = settings
        self._topology = Topology(settings)
        self._publishing = Link(settings, "publisher")
        self._consuming = Link(settings, "consumer")
        self._publisher = Publisher(self._publishing, settings.publish_deadline_s)

    @property
    def links(self) -> tuple[Link, Link]:
        """The two connections, to be run."""
        return (self._publishing, self._consuming)

    async def publish_operation(self, partition: Partition, body: bytes, message_id: str) -> None:
        try:
            await self._publisher.publish(self._topology.operations, hash_tag(partition), body, message_id)
        except Unroutable as error:
            raise BusRefused(f"{error}; run: calltag topology apply") from None

    async def park(self, body: bytes, message_id: str, parking: Parking) -> None:
        headers = headers_of(parking)
        try:
            await self._publisher.publish(self._topology.parking, "", body, message_id, headers=headers)
        except Unroutable as error:
            raise BusRefused(f"{error}; run: calltag topology apply") from None

    async def send(self, node: NodeId, body: bytes, message_id: str) -> bool:
        try:
            # What counts is in the store: a node that misses a message finds it there.
            await self._publisher.publish(self._topology.events, node, body, message_id, persistent=False)
        except Unroutable:
            return False
        return True

    @asynccontextmanager
    async def partition(self, partition: Partition, prefetch: int) -> AsyncIterator[AmqpConsumer]:
        async with self._consuming.channel() as channel:
            consumer = AmqpConsumer(channel, self._settings.publish_deadline_s)
            queue = await channel.get_queue(self._topology.partition_queue(partition), ensure=False)
            await consumer.start(queue, prefetch)
            yield consumer

    @asynccontextmanager
    async def inbox(self, node: NodeId) -> AsyncIterator[AmqpInbox]:
        async with self._consuming.channel() as channel:
            consumer = AmqpConsumer(channel, self._settings.publish_deadline_s)
            try:
                async with asyncio.timeout(self._settings.connect_deadline_s):
                    queue = await self._topology.declare_inbox(channel, node)
            except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
                raise BusInterrupted(f"the inbox was not declared: {error}") from error
            await consumer.start(queue, self._settings.inbox_prefetch)
            yield AmqpInbox(consumer)

    def connected(self) -> bool:
        return all(link.up for link in self.links)


@asynccontextmanager
async def open_amqp_bus(settings: AmqpSettings) -> AsyncIterator[AmqpBus]:
    """A bus whose connections are kept while the context is open; RabbitMQ need not be there yet."""
    bus = AmqpBus(settings)
    tasks = [asyncio.create_task(link.run(), name="amqp-link") for link in bus.links]
    try:
        yield bus
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
