"""The bus as the services see it: operations by partition, notifications by node.

Two sides implement it: RabbitMQ (`amqp`) and the in-process bus (`memory`). Both carry bytes; what they mean is
the business of `calltag.core.wire`.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NewType, Protocol

from calltag.core.runtime.byte_limits import MAX_BATCH_BYTES

Partition = NewType("Partition", int)
NodeId = NewType("NodeId", str)


class BusError(Exception):
    """Root of what can go wrong on the bus."""


class BusUnavailable(BusError):
    """The broker is away, or did not confirm in time. Whether the message was taken is not known."""


class NotConnected(BusUnavailable):
    """There is no connection to the broker, nor is one being waited for."""

    logged_elsewhere = True
    """The connection itself says so, once: those who need it add nothing to that."""


class BusRefused(BusError):
    """The broker refused the message (the queue is full, or topology is missing). It was not taken."""


class BusInterrupted(BusError):
    """A consumer lost its queue, channel or connection; what it had not acknowledged will be delivered again."""


class QueueMissing(BusInterrupted):
    """The queue that is to be consumed does not exist; the message says how to make it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One operation taken from a partition. `tag` rises with the order of delivery within one consumer.

    `returned` is how often it was delivered before and came back; others may be the cause. Those that go and come back
    together have the same name in `together`; '' is one that comes alone.
    """

    tag: int
    body: bytes
    message_id: str
    redelivered: bool
    returned: int = 0
    together: str = ""


@dataclass(frozen=True, slots=True)
class ParkingDetails:
    """Why an operation was parked. Nothing here holds values of user data; times are Unix time in milliseconds.

    `key` is the call or agent that it is about, if that is known. `after` is the parked operation of the same call that
    it was parked behind.
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
    """How many operations were published to a partition so far, in how many messages."""

    messages: int = 0
    operations: int = 0

    def since(self, before: "PublishedCounts") -> "PublishedCounts":
        """What was published after that."""
        return PublishedCounts(self.messages - before.messages, self.operations - before.operations)


class PartitionConsumer(Protocol):
    """The one reader of a partition, for as long as its context is open."""

    async def batch(self, limit: int, max_bytes: int = MAX_BATCH_BYTES) -> Sequence[Delivery]:
        """Wait for at least one delivery, return at most `limit` of those that are there, in queue order, and no more
        than have `max_bytes` together, unless the first alone has more.

        Raises BusInterrupted when the consumer is gone.
        """
        ...

    async def ack_through(self, tag: int) -> None:
        """Acknowledge every delivery up to and including `tag`. Raises BusInterrupted when that failed."""
        ...

    def unacknowledged(self) -> int:
        """How many deliveries have come and are not acknowledged, those that no batch has had yet included."""
        ...

    async def ack(self, tags: Collection[int]) -> None:
        """Acknowledge these deliveries and no others. Raises BusInterrupted when that failed."""
        ...


class Inbox(Protocol):
    """The messages sent to one node, in the order in which they were sent."""

    async def receive(self) -> bytes:
        """Wait for the next message. It counts as handled when `receive` is called again.

        Raises BusInterrupted when the node's queue was lost: messages may have been missed.
        """
        ...


class Bus(Protocol):
    """Everything a service asks of the bus. All waits have a deadline, but those of `batch` and `receive`."""

    async def publish_operation(self, partition: Partition, body: bytes, message_id: str) -> None:
        """Put an operation on its partition's queue; return once the broker confirmed that it is safe.

        Calls made one after another on one bus keep their order. Raises BusUnavailable, BusRefused.
        """
        ...

    async def depth(self, partition: Partition) -> int:
        """How many messages, of one operation or several, wait to be delivered to the partition's consumer.

        Raises BusUnavailable.
        """
        ...

    def published(self, partition: Partition) -> PublishedCounts:
        """What this process has published to the partition."""
        ...

    async def park(self, body: bytes, message_id: str, parking: ParkingDetails) -> None:
        """Set an operation aside for people to look at; return once that is safe.

        Raises BusUnavailable; BusRefused when as much is parked as may be.
        """
        ...

    async def send(self, node: NodeId, body: bytes, message_id: str) -> bool:
        """Send a message to one node's inbox, confirmed; it need not outlive the broker.

        False if there is no such inbox. Raises BusUnavailable, BusRefused.
        """
        ...

    def partition(self, partition: Partition, prefetch: int) -> AbstractAsyncContextManager[PartitionConsumer]:
        """Become (or queue up as) the consumer of a partition.

        Only one consumer of a partition receives at a time. Leaving the context gives back, in order, what was not
        acknowledged, before the next consumer receives anything.
        """
        ...

    def inbox(self, node: NodeId) -> AbstractAsyncContextManager[Inbox]:
        """Open this node's inbox; it exists from entering the context until shortly after leaving it."""
        ...

    def connected(self) -> bool:
        """Whether the bus is usable right now (for readiness)."""
        ...

    def consuming(self) -> bool:
        """Whether no consumer or inbox that was opened has been lost and not opened again (for readiness)."""
        ...
