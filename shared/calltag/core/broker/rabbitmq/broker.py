"""The broker on RabbitMQ: links, publisher, consumers, inspector and watchdog combined."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from uuid import uuid4

import structlog
from aio_pika.abc import AbstractChannel, AbstractQueue, HeadersType
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity

from calltag.core.broker.ports import (
    BrokerInterrupted,
    BrokerRefused,
    BrokerUnavailable,
    NodeId,
    ParkingDetails,
    Partition,
    PublishedCounts,
    hash_tag,
)
from calltag.core.broker.rabbitmq.connection import FAILURES, Link, connect, normalize_amqp_errors
from calltag.core.broker.rabbitmq.consumer import SELF_PROBE, AmqpConsumer, AmqpInbox, QueueRoute
from calltag.core.broker.rabbitmq.inspector import Inspector
from calltag.core.broker.rabbitmq.metrics import BrokerObserver, BrokerState, RepairLog
from calltag.core.broker.rabbitmq.operation_batch import MessageWindow, Packing, Part
from calltag.core.broker.rabbitmq.parking import headers_of
from calltag.core.broker.rabbitmq.publisher import ExchangeMissing, Publisher, Unroutable
from calltag.core.broker.rabbitmq.topology import RabbitMqSettings, Topology
from calltag.core.broker.rabbitmq.watchdog import Watchdog
from calltag.core.process.waiting import restart_forever

log = structlog.get_logger()
Restore = Callable[[AbstractChannel], Awaitable[None]]
_TOPOLOGY_DEADLINE_S: Final = 60.0
_HEARTBEATS: Final = 3
"""RabbitMQ drops a silent client within so many heartbeats; until then a frozen one may keep its partition."""


class RabbitMqBroker:
    """Publishes on one connection and consumes on another: RabbitMQ under a memory alarm stops reading from
    publishing connections, and acknowledgements must not wait for that."""

    def __init__(self, settings: RabbitMqSettings, metrics: BrokerObserver | None = None) -> None:
        observed = metrics or RepairLog()
        self._settings = settings
        self._topology = Topology(settings)
        self._publishing = Link(settings, "publisher", observed)
        self._consuming = Link(settings, "consumer", observed)
        self._publisher = Publisher(self._publishing, settings.publish_deadline_s)
        self._watchdog = Watchdog(self.links, observed, settings.watch_s, self._restore_parking)
        self._packing: dict[Partition, Packing] = {}
        self._window = MessageWindow()
        self._inbox_names: dict[NodeId, str] = {}
        self._partitions_open = 0
        self._parking_unknown = False
        self._patience = 1 + math.ceil(_HEARTBEATS * settings.heartbeat_s / settings.watch_s)
        # Under a memory alarm RabbitMQ does not answer on a publishing connection.
        self._inspector = Inspector(self._consuming, settings.publish_deadline_s)

    @property
    def links(self) -> tuple[Link, Link]:
        """The links for publishing and for consuming."""
        return (self._publishing, self._consuming)

    async def run(self) -> None:
        """Keep the connections up and watch the consumers until cancelled."""
        async with asyncio.TaskGroup() as group:
            for link in self.links:
                group.create_task(restart_forever(link.run, "amqp-link"), name="amqp-link")
            group.create_task(restart_forever(self._watchdog.run, "amqp-watchdog"), name="amqp-watchdog")

    async def publish_operation(self, partition: Partition, body: bytes, message_id: str) -> None:
        packing = self._packing.get(partition)
        if packing is None:
            publish = partial(self._publish_packed, partition)
            packing = self._packing[partition] = Packing(publish, self._settings.publish_deadline_s, self._window)
        await packing.add(Part(body, message_id))

    async def _publish_packed(self, partition: Partition, body: bytes, name: str, headers: HeadersType | None) -> None:
        exchange, key = self._topology.operations, hash_tag(partition)
        await self._publish_surely(
            lambda: self._publisher.publish(exchange, key, body, name, headers=headers),
            partial(self._topology.restore_partition, partition=partition),
        )

    async def _publish_surely(self, publish: Callable[[], Awaitable[None]], restore: Restore) -> None:
        """Publish to a queue that must exist; if its exchange or binding is missing, restore that and retry once.

        Raises BrokerUnavailable; BrokerRefused, which names the remedy, if the retry fails as well.
        """
        try:
            await publish()
        except (Unroutable, ExchangeMissing) as lost:
            refusal = BrokerRefused(f"{lost}; run: calltag topology apply")
            try:
                await self._inspector.ask(str(lost), restore)
            except BrokerUnavailable:
                raise refusal from None
            log.warning("route_restored", reason=str(lost))
            try:
                await publish()
            except (Unroutable, ExchangeMissing):
                raise refusal from None

    async def depth(self, partition: Partition) -> int:
        return await self._inspector.depth(self._topology.partition_queue(partition))

    def published(self, partition: Partition) -> PublishedCounts:
        packing = self._packing.get(partition)
        return PublishedCounts() if packing is None else packing.published

    async def park(self, body: bytes, message_id: str, parking: ParkingDetails) -> None:
        headers = headers_of(parking)
        await self._publish_surely(
            lambda: self._publisher.publish(self._topology.parking, "", body, message_id, headers=headers),
            self._topology.restore_parking,
        )

    async def _restore_parking(self) -> None:
        """Restore the route to the parking queue: RabbitMQ dead-letters to it, and does not report a missing one."""
        if not self._partitions_open or not self._consuming.up:
            return
        try:
            await self._inspector.ask(self._topology.parking, self._topology.restore_parking)
        except BrokerUnavailable as error:
            if not self._parking_unknown:
                log.warning("parking_restore_failed", reason=str(error))
            self._parking_unknown = True
        else:
            self._parking_unknown = False

    async def send(self, node: NodeId, body: bytes, message_id: str) -> bool:
        try:
            # Redis is authoritative: a node that misses a message reads the events from there.
            await self._publisher.publish(self._topology.events, node, body, message_id, persistent=False)
        except Unroutable:
            return False
        return True

    @asynccontextmanager
    async def partition(self, partition: Partition, prefetch: int) -> AsyncIterator[AmqpConsumer]:
        name = self._topology.partition_queue(partition)
        with self._watchdog.expecting(name) as expected:
            async with self._consuming.channel() as channel:
                queue = await channel.get_queue(name, ensure=False)
                consumer = AmqpConsumer(channel, self._settings.publish_deadline_s, patience=self._patience)
                await consumer.start(queue, prefetch)
                self._watchdog.there(expected, consumer)
                self._partitions_open += 1
                try:
                    yield consumer
                finally:
                    self._partitions_open -= 1

    @asynccontextmanager
    async def inbox(self, node: NodeId) -> AsyncIterator[AmqpInbox]:
        with self._watchdog.expecting(node) as expected:
            async with self._consuming.channel() as channel:
                queue = await self._declare_inbox(channel, node)
                route = QueueRoute(self._topology.events, lambda: self.send(node, b"", SELF_PROBE))
                consumer = AmqpConsumer(channel, self._settings.publish_deadline_s, route=route)
                await consumer.start(queue, self._settings.inbox_prefetch)
                self._watchdog.there(expected, consumer)
                yield AmqpInbox(consumer)

    async def _declare_inbox(self, channel: AbstractChannel, node: NodeId) -> AbstractQueue:
        """Declare the node's inbox; if the RabbitMQ node that hosts it is down, the next attempt uses another name.

        Both are bound alike. Messages in the old one are in the streams as well, and the queue expires.
        """
        name = self._inbox_names.setdefault(node, self._topology.inbox_queue(node))
        try:
            with normalize_amqp_errors():
                async with asyncio.timeout(self._settings.connect_deadline_s):
                    return await self._topology.declare_inbox(channel, node, name)
        except FAILURES as error:
            if isinstance(error, ChannelNotFoundEntity | TimeoutError):
                self._inbox_names[node] = f"{self._topology.inbox_queue(node)}.{uuid4().hex[:8]}"
            raise BrokerInterrupted(f"the inbox was not declared: {type(error).__name__}: {error}") from error

    def connected(self) -> bool:
        return all(link.up and not link.blocked for link in self.links)

    def consuming(self) -> bool:
        return not self._watchdog.missing

    def state(self) -> BrokerState:
        """Return the current state, for metrics."""
        return BrokerState(
            connected=sum(link.up for link in self.links),
            blocked=any(link.blocked for link in self.links),
            consuming=self._watchdog.consuming,
            missing=self._watchdog.missing,
        )


@asynccontextmanager
async def open_rabbitmq(
    settings: RabbitMqSettings, metrics: BrokerObserver | None = None
) -> AsyncIterator[RabbitMqBroker]:
    """Open a broker that keeps its connections while the context is open; RabbitMQ need not be reachable yet."""
    broker = RabbitMqBroker(settings, metrics)
    task = asyncio.create_task(broker.run(), name="amqp-broker")
    try:
        yield broker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def apply_topology(settings: RabbitMqSettings) -> None:
    """Declare exchanges and queues; idempotent. Raises BrokerUnavailable, BrokerRefused."""
    connection = await connect(settings, "topology")
    try:
        async with asyncio.timeout(_TOPOLOGY_DEADLINE_S), connection:
            await Topology(settings).declare(await connection.channel())
    except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
        raise BrokerUnavailable(f"the topology was not applied: {type(error).__name__}: {error}") from error
