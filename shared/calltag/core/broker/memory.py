"""In-process broker with the semantics of the one on RabbitMQ."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

from calltag.core.broker.ports import BrokerRefused, Delivery, NodeId, ParkingDetails, Partition, PublishedCounts
from calltag.core.process.limits import MAX_BATCH_BYTES, count_fitting


@dataclass(frozen=True, slots=True)
class ParkedMessage:
    """A parked message and the reason."""

    body: bytes
    message_id: str
    parking: ParkingDetails


@dataclass(slots=True)
class _Queue:
    """One partition: its queue, and the lock of its active consumer."""

    waiting: deque[Delivery] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    consuming: asyncio.Lock = field(default_factory=asyncio.Lock)
    last_tag: int = 0


class _Consumer:
    """Consumer of a partition; acquires the partition's lock with its first batch."""

    def __init__(self, queue: _Queue, prefetch: int) -> None:
        self._queue = queue
        self._prefetch = prefetch
        self._unacknowledged: deque[Delivery] = deque()
        self._active = False

    async def batch(self, limit: int, max_bytes: int = MAX_BATCH_BYTES) -> Sequence[Delivery]:
        if not self._active:
            await self._queue.consuming.acquire()
            self._active = True
        while not self._queue.waiting or len(self._unacknowledged) >= self._prefetch:
            self._queue.arrived.clear()
            await self._queue.arrived.wait()
        limit = min(limit, self._prefetch - len(self._unacknowledged))
        count = count_fitting((len(each.body) for each in islice(self._queue.waiting, limit)), max_bytes)
        taken = [self._queue.waiting.popleft() for _ in range(count)]
        self._unacknowledged.extend(taken)
        return taken

    async def ack_through(self, tag: int) -> None:
        while self._unacknowledged and self._unacknowledged[0].tag <= tag:
            self._unacknowledged.popleft()
        self._queue.arrived.set()

    def unacknowledged(self) -> int:
        return len(self._unacknowledged)

    async def ack(self, tags: Collection[int]) -> None:
        self._unacknowledged = deque(each for each in self._unacknowledged if each.tag not in tags)
        self._queue.arrived.set()

    def give_back(self) -> None:
        """Requeue unacknowledged deliveries at the front, in order, and release the lock to the next consumer."""
        if not self._active:
            return
        returned = [replace(each, redelivered=True, returned=each.returned + 1) for each in self._unacknowledged]
        self._queue.waiting.extendleft(reversed(returned))
        self._active = False
        self._queue.arrived.set()
        self._queue.consuming.release()


class _Inbox:
    """Messages of one node; beyond `max_bytes` in total the oldest are dropped."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()
        self._size_bytes = 0

    def put(self, body: bytes) -> None:
        self._messages.put_nowait(body)
        self._size_bytes += len(body)
        while self._size_bytes > self._max_bytes and not self._messages.empty():
            self._size_bytes -= len(self._messages.get_nowait())

    async def receive(self) -> bytes:
        body = await self._messages.get()
        self._size_bytes -= len(body)
        return body


class MemoryBroker:
    """A broker for one event loop, without persistence.

    A partition holds at most `queue_limit` operations, and at most `parking_limit` may be parked; further ones are
    refused. An inbox holds at most `inbox_max_bytes`; beyond that its oldest messages are dropped.
    """

    def __init__(
        self,
        partitions: int,
        *,
        queue_limit: int = 100_000,
        inbox_max_bytes: int = 268_435_456,
        parking_limit: int = 10_000,
    ) -> None:
        self._queues = [_Queue() for _ in range(partitions)]
        self._queue_limit = queue_limit
        self._inbox_max_bytes = inbox_max_bytes
        self._inboxes: dict[NodeId, _Inbox] = {}
        self._parking_limit = parking_limit
        self.parked: list[ParkedMessage] = []

    async def publish_operation(self, partition: Partition, body: bytes, message_id: str) -> None:
        queue = self._queues[partition]
        if len(queue.waiting) >= self._queue_limit:
            raise BrokerRefused(f"partition {partition} holds {self._queue_limit} operations already")
        queue.last_tag += 1
        queue.waiting.append(Delivery(queue.last_tag, body, message_id, redelivered=False))
        queue.arrived.set()

    async def depth(self, partition: Partition) -> int:
        return len(self._queues[partition].waiting)

    def published(self, partition: Partition) -> PublishedCounts:
        count = self._queues[partition].last_tag
        return PublishedCounts(count, count)

    async def park(self, body: bytes, message_id: str, parking: ParkingDetails) -> None:
        if len(self.parked) >= self._parking_limit:
            raise BrokerRefused(f"{self._parking_limit} operations are parked already")
        self.parked.append(ParkedMessage(body, message_id, parking))

    async def send(self, node: NodeId, body: bytes, message_id: str) -> bool:  # noqa: ARG002 - as on RabbitMQ
        inbox = self._inboxes.get(node)
        if inbox is None:
            return False
        inbox.put(body)
        return True

    @asynccontextmanager
    async def partition(self, partition: Partition, prefetch: int) -> AsyncIterator[_Consumer]:
        consumer = _Consumer(self._queues[partition], prefetch)
        try:
            yield consumer
        finally:
            consumer.give_back()

    @asynccontextmanager
    async def inbox(self, node: NodeId) -> AsyncIterator[_Inbox]:
        inbox = self._inboxes[node] = _Inbox(self._inbox_max_bytes)
        try:
            yield inbox
        finally:
            if self._inboxes.get(node) is inbox:
                del self._inboxes[node]

    def connected(self) -> bool:
        return True

    def consuming(self) -> bool:
        return True
