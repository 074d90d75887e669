"""Exchanges and queues.

Partition queues are quorum queues with a single active consumer. Their delivery limit is explicit, because RabbitMQ 4
has a low default, and a crash of a worker counts against all messages that it had prefetched: the worker itself
detects the poison message and parks it. A message that exceeds the limit all the same is dead-lettered to the parking
queue, at least once. An inbox is a durable classic queue: it survives a broken connection of its node and a restart
of RabbitMQ, and expires some time after the node disconnects. It is not a quorum queue, because one that was declared
just before RabbitMQ was killed can come back without a leader (seen on 3.10), and every publish to it then blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from aio_pika.exceptions import ChannelPreconditionFailed
from pamqp.common import FieldTable

from calltag.core.broker.ports import BrokerRefused, NodeId, Partition, addresses, hash_tag
from calltag.core.process.tls import ClientTls

_USUAL_TLS: Final = ClientTls("CALLTAG_AMQP__TLS__")


@dataclass(frozen=True, slots=True)
class RabbitMqSettings:
    """Addresses (of cluster nodes, separated by commas), names and limits; times in seconds, sizes in bytes.

    `watch_s` is the interval between checks of connections and consumers. `replicas` is that of quorum queues; 0 is
    RabbitMQ's default: three, or the number of nodes if lower.
    """

    url: str = field(repr=False)
    prefix: str = "calltag"
    partitions: int = 32
    heartbeat_s: int = 10
    connect_deadline_s: float = 5.0
    publish_deadline_s: float = 1.5
    watch_s: float = 3.0
    replicas: int = 0
    queue_max_length: int = 100_000
    delivery_limit: int = 1_000_000
    parking_max_length: int = 10_000
    inbox_expiry_s: int = 120
    inbox_max_bytes: int = 268_435_456
    inbox_prefetch: int = 100
    tls: ClientTls = _USUAL_TLS

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, split."""
        return addresses(self.url)


_NO_DELIVERY_LIMIT: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Topology:
    """Names and declarations of exchanges and queues."""

    settings: RabbitMqSettings

    @property
    def operations(self) -> str:
        """Direct exchange for operations; routing keys are partitions (`p07`)."""
        return f"{self.settings.prefix}.ops"

    @property
    def events(self) -> str:
        """Direct exchange for messages to nodes; routing keys are nodes."""
        return f"{self.settings.prefix}.events"

    @property
    def parking(self) -> str:
        """Exchange and queue for parked operations and for those beyond the delivery limit."""
        return f"{self.settings.prefix}.ops.dead"

    @property
    def exchanges(self) -> Mapping[str, ExchangeType]:
        """The exchanges with their types."""
        return {
            self.operations: ExchangeType.DIRECT,
            self.events: ExchangeType.DIRECT,
            self.parking: ExchangeType.FANOUT,
        }

    def partition_queue(self, partition: Partition) -> str:
        """Return the queue name of a partition."""
        return f"{self.operations}.{hash_tag(partition)}"

    def inbox_queue(self, node: NodeId) -> str:
        """Return the usual queue name of a node."""
        return f"{self.events}.{node}"

    @property
    def partition_arguments(self) -> FieldTable:
        """Arguments of partition queues; RabbitMQ refuses to redeclare a queue with others."""
        return {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-delivery-limit": self.settings.delivery_limit,
            "x-dead-letter-exchange": self.parking,
            "x-dead-letter-strategy": "at-least-once",
            "x-max-length": self.settings.queue_max_length,
            "x-overflow": "reject-publish",
            **self.replication,
        }

    @property
    def replication(self) -> FieldTable:
        """Initial group size of quorum queues, if set. Members can change later, this argument cannot."""
        return {"x-quorum-initial-group-size": self.settings.replicas} if self.settings.replicas else {}

    @property
    def parking_arguments(self) -> FieldTable:
        """Arguments of the parking queue. Listing it requeues each message: the delivery limit is practically infinite,
        but set, since without one a requeued message may go to the end of the queue."""
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": _NO_DELIVERY_LIMIT,
            "x-max-length": self.settings.parking_max_length,
            "x-overflow": "reject-publish",
            **self.replication,
        }

    async def declare(self, channel: AbstractChannel) -> None:
        """Declare everything but inboxes. Raises BrokerRefused if an existing queue or exchange differs."""
        try:
            for name in self.exchanges:
                await self.declare_exchange(channel, name)
            await (await self.declare_parking(channel)).bind(self.parking)
            for partition in map(Partition, range(self.settings.partitions)):
                queue = await self.declare_partition(channel, partition)
                await queue.bind(self.operations, routing_key=hash_tag(partition))
        except ChannelPreconditionFailed as error:
            raise BrokerRefused(
                f"an existing queue or exchange differs from the CALLTAG_AMQP__ settings: {error}. Delete it when it "
                "is empty (rabbitmqctl delete_queue), or restore the settings that it was declared with"
            ) from None

    async def restore_partition(self, channel: AbstractChannel, partition: Partition) -> None:
        """Declare exchange and binding of an existing partition queue. Raises ChannelNotFoundEntity without one."""
        await self.declare_exchange(channel, self.operations)
        queue = await channel.get_queue(self.partition_queue(partition), ensure=False)
        await queue.bind(self.operations, routing_key=hash_tag(partition))

    async def restore_parking(self, channel: AbstractChannel) -> None:
        """Declare exchange and binding of the existing parking queue. Raises ChannelNotFoundEntity without one."""
        await self.declare_exchange(channel, self.parking)
        await (await channel.get_queue(self.parking, ensure=False)).bind(self.parking)

    async def declare_exchange(self, channel: AbstractChannel, name: str) -> AbstractExchange:
        """Declare one of the exchanges. Raises ChannelPreconditionFailed."""
        return await channel.declare_exchange(name, self.exchanges[name], durable=True)

    async def declare_parking(self, channel: AbstractChannel) -> AbstractQueue:
        """Declare the parking queue. Raises ChannelPreconditionFailed."""
        return await channel.declare_queue(self.parking, durable=True, arguments=self.parking_arguments)

    async def declare_partition(self, channel: AbstractChannel, partition: Partition) -> AbstractQueue:
        """Declare the queue of one partition. Raises ChannelPreconditionFailed."""
        return await channel.declare_queue(
            self.partition_queue(partition), durable=True, arguments=self.partition_arguments
        )

    async def declare_inbox(self, channel: AbstractChannel, node: NodeId, name: str) -> AbstractQueue:
        """Declare a node's inbox under `name`, usually that of `inbox_queue`."""
        await self.declare_exchange(channel, self.events)
        queue = await channel.declare_queue(
            name,
            durable=True,
            arguments={
                "x-queue-type": "classic",
                "x-expires": self.settings.inbox_expiry_s * 1000,
                "x-max-length-bytes": self.settings.inbox_max_bytes,
            },
        )
        await queue.bind(self.events, routing_key=node)
        return queue
