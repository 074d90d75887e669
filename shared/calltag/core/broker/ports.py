"""Ports of the broker: operations by partition, notifications by node.

Implemented on RabbitMQ (`rabbitmq`) and in process (`memory`). Both carry bytes; `calltag.core.contracts` defines their
meaning."""

import re
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NewType, Protocol

from calltag.core.process.limits import MAX_BATCH_BYTES

# A comma may be part of a password, unless another address follows.
_BETWEEN: Final = re.compile(r"\s*,\s*(?=amqps?://)")


def addresses(url: str) -> tuple[str, ...]:
    """Split a setting with one or several addresses, separated by commas."""
    return tuple(_BETWEEN.split(url.strip(" ,\t\n")))


Partition = NewType("Partition", int)
NodeId = NewType("NodeId", str)


def partition_of(key: str, partitions: int) -> Partition:
    """Return the partition of a call id, or of a user id for operations on agents.

    The function is public, and fixed for the lifetime of an installation: other publishers on `calltag.ops` have to
    compute the same. Tests hold golden vectors.
    """
    return Partition(int.from_bytes(sha256(key.encode()).digest()[:8]) % partitions)


def hash_tag(partition: Partition) -> str:
    """Return the partition's name in routing keys, queue names and Redis hash tags: `p07`."""
    return f"p{partition:02d}"


class BrokerError(Exception):
    """Root of the errors of the broker."""


class BrokerUnavailable(BrokerError):
    """RabbitMQ is unavailable, or did not confirm by the deadline. The message may have been accepted."""


class NotConnected(BrokerUnavailable):
    """There is no connection to RabbitMQ; the call does not wait for one."""

    logged_elsewhere = True
    """The link logs its own state; callers do not log this error again."""


class BrokerRefused(BrokerError):
    """RabbitMQ refused the message (the queue is full, or topology is missing). It was not accepted."""


class BrokerInterrupted(BrokerError):
    """A consumer lost its queue, channel or connection; RabbitMQ redelivers unacknowledged messages."""


class QueueMissing(BrokerInterrupted):
    """The queue to consume does not exist; the message says how to create it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One operation delivered from a partition. `tag` rises with the order of delivery within one consumer.

    `returned` counts earlier deliveries that were requeued; other operations may be the cause. Operations packed in
    one message are redelivered together and share a name in `together`; '' is one alone in its message.
    """

    tag: int
    body: bytes
    message_id: str
    redelivered: bool
    returned: int = 0
    together: str = ""


@dataclass(frozen=True, slots=True)
class ParkingDetails:
    """Reason for parking an operation. Never contains values of user data; times are Unix time in milliseconds.

    `key` is its call or agent, if known. `after` is the parked operation of the same call that it was parked behind.
    """

    reason: str
    detail: str
    partition: Partition
    first_seen_ms: int
    failed_ms: int
    attempts: int = 1
    exception: str = ""
    key: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class PublishedCounts:
    """Number of operations published to a partition so far, and of the messages that carried them."""

    messages: int = 0
    operations: int = 0

    def since(self, before: "PublishedCounts") -> "PublishedCounts":
        """Return the counts of what was published since `before`."""
        return PublishedCounts(self.messages - before.messages, self.operations - before.operations)


class PartitionConsumer(Protocol):
    """The single active consumer of a partition, while its context is open."""

    async def batch(self, limit: int, max_bytes: int = MAX_BATCH_BYTES) -> Sequence[Delivery]:
        """Wait for at least one delivery; return those that have arrived, in queue order: at most `limit`, and at most
        `max_bytes` in total unless the first alone is larger.

        Raises BrokerInterrupted when the consumer is lost.
        """
        ...

    async def ack_through(self, tag: int) -> None:
        """Acknowledge every delivery up to and including `tag`. Raises BrokerInterrupted."""
        ...

    def unacknowledged(self) -> int:
        """Return the number of unacknowledged deliveries, including those not yet returned by `batch`."""
        ...

    async def ack(self, tags: Collection[int]) -> None:
        """Acknowledge these deliveries and no others. Raises BrokerInterrupted."""
        ...


class Inbox(Protocol):
    """The messages sent to one node, in the order of sending."""

    async def receive(self) -> bytes:
        """Wait for the next message; it counts as handled with the next call of `receive`.

        Raises BrokerInterrupted when the node's queue was lost: messages may have been missed.
        """
        ...


class Broker(Protocol):
    """Operations of the broker. All waits have a deadline, except those of `batch` and `receive`."""

    async def publish_operation(self, partition: Partition, body: bytes, message_id: str) -> None:
        """Publish an operation to its partition's queue; return once RabbitMQ has confirmed it.

        Successive calls on one broker keep their order. Raises BrokerUnavailable, BrokerRefused.
        """
        ...

    async def depth(self, partition: Partition) -> int:
        """Return the number of undelivered messages of the partition; each may hold several operations.

        Raises BrokerUnavailable.
        """
        ...

    def published(self, partition: Partition) -> PublishedCounts:
        """Return what this process has published to the partition."""
        ...

    async def park(self, body: bytes, message_id: str, parking: ParkingDetails) -> None:
        """Move an operation to the parking queue for an operator; return once it is confirmed.

        Raises BrokerUnavailable; BrokerRefused when the parking queue is full.
        """
        ...

    async def send(self, node: NodeId, body: bytes, message_id: str) -> bool:
        """Send a message to one node's inbox, confirmed but not persistent.

        Returns False if there is no such inbox. Raises BrokerUnavailable, BrokerRefused.
        """
        ...

    def partition(self, partition: Partition, prefetch: int) -> AbstractAsyncContextManager[PartitionConsumer]:
        """Become (or wait to become) the single active consumer of a partition.

        Leaving the context requeues unacknowledged deliveries, in order, before the next consumer receives anything.
        """
        ...

    def inbox(self, node: NodeId) -> AbstractAsyncContextManager[Inbox]:
        """Open this node's inbox; it expires shortly after the context ends."""
        ...

    def connected(self) -> bool:
        """Return whether the broker is usable now (for readiness)."""
        ...

    def consuming(self) -> bool:
        """Return whether every lost consumer and inbox was opened again (for readiness)."""
        ...
