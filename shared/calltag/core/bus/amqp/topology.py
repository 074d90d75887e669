"""Exchanges and queues.

Partition queues are quorum queues with a single active consumer. Their delivery limit is explicit, because RabbitMQ 4
sets a low one by itself, and a worker that dies counts against all that it had taken ahead: the worker itself finds
out which operation it dies of, and parks that one. What exceeds the limit all the same joins the parked operations, at
least once, instead of vanishing. An inbox is a durable classic queue: it survives a broken connection of its node and
a restart of the broker, and expires some time after the node is gone. It is not a quorum queue, because one that was
made just before its broker was killed can come back without a leader (seen on 3.10), and everything that is sent to it
then waits for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from aio_pika.exceptions import ChannelPreconditionFailed
from pamqp.common import FieldTable

from calltag.core.bus.amqp.settings import AmqpSettings
from calltag.core.bus.partitioning import hash_tag
from calltag.core.bus.ports import BusRefused, NodeId, Partition

_NO_DELIVERY_LIMIT: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Topology:
    """The names, and how they are declared."""

    settings: AmqpSettings

    @property
    def operations(self) -> str:
        """Direct exchange of operations; routing keys are partitions (`p07`)."""
        return f"{self.settings.prefix}.ops"

    @property
    def events(self) -> str:
        """Direct exchange of messages to nodes; routing keys are nodes."""
        return f"{self.settings.prefix}.events"

    @property
    def parking(self) -> str:
        """Exchange and queue of operations that were parked, and of those that the broker delivered too often."""
        return f"{self.settings.prefix}.ops.dead"

    @property
    def exchanges(self) -> Mapping[str, ExchangeType]:
        """Every exchange, with its kind."""
        return {
            self.operations: ExchangeType.DIRECT,
            self.events: ExchangeType.DIRECT,
            self.parking: ExchangeType.FANOUT,
        }

    def partition_queue(self, partition: Partition) -> str:
        """The queue of a partition."""
        return f"{self.operations}.{hash_tag(partition)}"

    def inbox_queue(self, node: NodeId) -> str:
        """The queue of a node."""
        return f"{self.events}.{node}"

    @property
    def partition_arguments(self) -> FieldTable:
        """What partition queues are declared with; a queue that is there with others is refused by the broker."""
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
        """How many nodes keep a quorum queue, where the settings say so. Its members can change later, this not."""
        return {"x-quorum-initial-group-size": self.settings.replicas} if self.settings.replicas else {}

    @property
    def parking_arguments(self) -> FieldTable:
        """What the queue of parked operations is declared with. Whoever lists them returns each message: the delivery
        limit is as good as none, and yet one, since with none a returned message may go to the queue's end."""
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": _NO_DELIVERY_LIMIT,
            "x-max-length": self.settings.parking_max_length,
            "x-overflow": "reject-publish",
            **self.replication,
        }

    async def declare(self, channel: AbstractChannel) -> None:
        """Declare all that does not belong to one node. Raises BusRefused where something else is there already."""
        try:
            for name in self.exchanges:
                await self.declare_exchange(channel, name)
            await (await self.declare_parking(channel)).bind(self.parking)
            for partition in map(Partition, range(self.settings.partitions)):
                queue = await self.declare_partition(channel, partition)
                await queue.bind(self.operations, routing_key=hash_tag(partition))
        except ChannelPreconditionFailed as error:
            raise BusRefused(
                f"something is declared otherwise than CALLTAG_AMQP__ settings say: {error}. Delete it when it is "
                "empty (rabbitmqctl delete_queue), or go back to the settings that it was made with"
            ) from None

    async def restore_partition(self, channel: AbstractChannel, partition: Partition) -> None:
        """Declare the way to a queue that is there: exchange and binding. Raises ChannelNotFoundEntity without one."""
        await self.declare_exchange(channel, self.operations)
        queue = await channel.get_queue(self.partition_queue(partition), ensure=False)
        await queue.bind(self.operations, routing_key=hash_tag(partition))

    async def restore_parking(self, channel: AbstractChannel) -> None:
        """Declare the way to the queue of parked operations. Raises ChannelNotFoundEntity without one."""
        await self.declare_exchange(channel, self.parking)
        await (await channel.get_queue(self.parking, ensure=False)).bind(self.parking)

    async def declare_exchange(self, channel: AbstractChannel, name: str) -> AbstractExchange:
        """Declare one of the exchanges. Raises ChannelPreconditionFailed."""
        return await channel.declare_exchange(name, self.exchanges[name], durable=True)

    async def declare_parking(self, channel: AbstractChannel) -> AbstractQueue:
        """Declare the queue of parked operations. Raises ChannelPreconditionFailed."""
        return await channel.declare_queue(self.parking, durable=True, arguments=self.parking_arguments)

    async def declare_partition(self, channel: AbstractChannel, partition: Partition) -> AbstractQueue:
        """Declare the queue of one partition. Raises ChannelPreconditionFailed."""
        return await channel.declare_queue(
            self.partition_queue(partition), durable=True, arguments=self.partition_arguments
        )

    async def declare_inbox(self, channel: AbstractChannel, node: NodeId, name: str) -> AbstractQueue:
        """Declare a node's inbox under a name, which is its own as a rule."""
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
