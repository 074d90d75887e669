"""Consumers: that of a partition, and the inbox of a node."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq.abc import AbstractChannel as Underlay

from calltag.core.broker.ports import BrokerInterrupted, BrokerRefused, BrokerUnavailable, Delivery, QueueMissing
from calltag.core.broker.rabbitmq.connection import FAILURES, normalize_amqp_errors
from calltag.core.broker.rabbitmq.inspector import PROBE
from calltag.core.broker.rabbitmq.metrics import Repair
from calltag.core.broker.rabbitmq.operation_batch import number_of_parts, unpacked
from calltag.core.process.limits import MAX_BATCH_BYTES, count_fitting

_SIGHTINGS: Final = 2
"""Consecutive checks that must fail: a queue that elects a leader shows no consumers for a moment."""
_UNKNOWN_COUNT: Final = 1_000
SELF_PROBE: Final = "calltag-probe"
"""Message name of the probes that a node sends to its own inbox."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Delivery tags to acknowledge: all up to `through`, and each of `beyond`."""

    through: int | None
    beyond: list[int]


@dataclass(slots=True)
class _Message:
    tag: int
    left: int
    """Number of unsettled parts."""


@dataclass(slots=True)
class Messages:
    """The unacknowledged messages, in order of delivery.

    Parts have tags of their own, which rise with the order of delivery.
    """

    _messages: deque[_Message] = field(default_factory=deque)
    _last: int = 0
    _open: dict[int, _Message] = field(default_factory=dict)

    @property
    def unsettled(self) -> int:
        """Number of unsettled parts."""
        return len(self._open)

    def took(self, tag: int, parts: int) -> range:
        """Add a message with so many parts; return their tags."""
        first, self._last = self._last + 1, self._last + parts
        message = _Message(tag, parts)
        self._messages.append(message)
        tags = range(first, self._last + 1)
        self._open.update(dict.fromkeys(tags, message))
        return tags

    def settle_through(self, tag: int) -> Settled:
        """Settle all parts up to this one."""
        return self.settle([each for each in self._open if each <= tag])

    def settle(self, tags: Collection[int]) -> Settled:
        """Settle these parts; unknown and settled tags are ignored."""
        for tag in tags:
            message = self._open.pop(tag, None)
            if message is not None:
                message.left -= 1
        through = None
        while self._messages and not self._messages[0].left:
            through = self._messages.popleft().tag
        beyond = [each.tag for each in self._messages if not each.left]
        if beyond:
            self._messages = deque(each for each in self._messages if each.left)
        return Settled(through, beyond)


@dataclass(frozen=True, slots=True)
class QueueRoute:
    """Route of messages to a queue. `probe` sends one through the exchange; returns False if it is unroutable."""

    exchange: str
    probe: Callable[[], Awaitable[bool]]


class AmqpConsumer:
    """Consumes one queue on a channel of its own.

    `patience` is the number of consecutive checks that may find it starved before its first delivery: a single active
    consumer may wait for another one, and RabbitMQ counts only the active one in the queue's state. With a `route`,
    the watch sends a probe along it, which has to arrive.
    """

    def __init__(
        self,
        channel: AbstractChannel,
        deadline_s: float,
        *,
        patience: int = _SIGHTINGS,
        route: QueueRoute | None = None,
    ) -> None:
        self._channel = channel
        self._route = route
        self._probed = False
        """True if a probe was sent since the last delivery."""
        self._deadline_s = deadline_s
        self._patience = patience
        self._arrived: deque[AbstractIncomingMessage] = deque()
        self._parts: deque[Delivery] = deque()
        """Parts of unpacked messages that `batch` has not returned yet."""
        self._messages = Messages()
        self._news = asyncio.Event()
        self._lost = ""
        self._queue = ""
        self._delivered = 0
        self._seen = 0
        """Value of `_delivered` at the last check of the watch."""
        self._suspicion: tuple[Repair | None, int] = (None, 0)
        channel.close_callbacks.add(self._on_close)

    async def start(self, queue: AbstractQueue, prefetch: int) -> None:
        """Start consuming. Raises QueueMissing, BrokerInterrupted."""
        try:
            with normalize_amqp_errors():
                async with asyncio.timeout(self._deadline_s):
                    await self._channel.set_qos(prefetch_count=prefetch)
                    underlay = await self._channel.get_underlay_channel()
                    # RabbitMQ cancels a consumer whose queue is deleted, or moves to another node.
                    underlay.on_consumer_cancel_callbacks.add(self._on_close)
                    await queue.consume(self._on_message)
            self._queue = queue.name
        except ChannelNotFoundEntity as error:
            raise QueueMissing(f"{queue.name} does not exist; run: calltag topology apply") from error
        except FAILURES as error:
            raise BrokerInterrupted(f"{queue.name} cannot be consumed: {error}") from error

    async def batch(self, limit: int, max_bytes: int = MAX_BATCH_BYTES) -> Sequence[Delivery]:
        while not self._arrived and not self._parts:
            if self._lost:
                raise BrokerInterrupted(self._lost)
            self._news.clear()
            await self._news.wait()
        if self._lost:
            raise BrokerInterrupted(self._lost)
        # Unpack no more messages than the batch needs.
        size_bytes = sum(len(each.body) for each in self._parts)
        while self._arrived and len(self._parts) < limit and size_bytes < max_bytes:
            message = self._arrived.popleft()
            size_bytes += len(message.body)
            self._parts.extend(self._taken_apart(message))
        count = count_fitting((len(each.body) for each in islice(self._parts, limit)), max_bytes)
        return [self._parts.popleft() for _ in range(count)]

    def _taken_apart(self, message: AbstractIncomingMessage) -> Iterator[Delivery]:
        parts = unpacked(message.body, message.correlation_id or "", message.headers)
        tags = self._messages.took(message.delivery_tag or 0, len(parts))
        returned = _returned(message)
        together = parts[0].name if len(parts) > 1 else ""
        for tag, part in zip(tags, parts, strict=True):
            yield Delivery(tag, part.body, part.name, bool(message.redelivered), returned, together)

    async def ack_through(self, tag: int) -> None:
        await self._ack(self._messages.settle_through(tag))

    def unacknowledged(self) -> int:
        return sum(number_of_parts(each.headers) for each in self._arrived) + self._messages.unsettled

    async def ack(self, tags: Collection[int]) -> None:
        await self._ack(self._messages.settle(tags))

    async def _ack(self, settled: Settled) -> None:
        # RabbitMQ closes the channel for a tag that is settled already.
        if settled.through is not None:
            async with self._settling() as underlay:
                await underlay.basic_ack(settled.through, multiple=True)
        for tag in settled.beyond:
            async with self._settling() as underlay:
                await underlay.basic_ack(tag)

    async def watch(self) -> Repair | None:
        """Check that RabbitMQ knows the consumer and delivers to it; return the fault once it is certain, else None.

        A missing queue makes RabbitMQ close the channel, which is this consumer's own. Raises TimeoutError without a
        reply.
        """
        if self._lost or not self._queue:
            return None
        try:
            with normalize_amqp_errors():
                async with asyncio.timeout(self._deadline_s):
                    underlay = await self._channel.get_underlay_channel()
                    declared = await underlay.queue_declare(self._queue, passive=True)
                    if self._route is not None:
                        await underlay.exchange_declare(self._route.exchange, passive=True)
        except TimeoutError:
            raise
        except FAILURES:
            self._on_close()
            return Repair.CONSUMER_GONE
        wrong = self._wrong(declared.consumer_count or 0, declared.message_count or 0)
        if wrong is None and not await self._has_route():
            self.lose(f"{self._queue}: {Repair.UNBOUND}")
            return Repair.UNBOUND
        before, times = self._suspicion
        self._suspicion = (wrong, times + 1 if wrong is before else 1)
        waits = wrong is Repair.CONSUMER_STARVED and not self._delivered
        if wrong is None or self._suspicion[1] < (self._patience if waits else _SIGHTINGS):
            return None
        self.lose(f"{self._queue}: {wrong}")
        return wrong

    def _wrong(self, consumers: int, waiting: int) -> Repair | None:
        idle = self._seen == self._delivered and not self._arrived and not self._messages.unsettled
        self._seen = self._delivered
        if not consumers:
            return Repair.CONSUMER_GONE
        # With several consumers, another one may be the active one.
        if consumers == 1 and waiting and idle:
            return Repair.CONSUMER_STARVED
        return Repair.UNBOUND if self._probed and idle else None

    async def _has_route(self) -> bool:
        """Send a probe along the route, if there is one; return False if it is unroutable. The next watch expects a
        delivery."""
        if self._route is None or self._probed:
            return True
        # It may arrive before its confirm.
        self._probed = True
        try:
            return await self._route.probe()
        except (BrokerUnavailable, BrokerRefused):
            self._probed = False
            return True

    def lose(self, reason: str) -> None:
        """Mark this consumer as lost: its methods raise BrokerInterrupted with the reason."""
        self._lost = self._lost or reason
        self._news.set()

    @asynccontextmanager
    async def _settling(self) -> AsyncIterator[Underlay]:
        if self._lost:
            raise BrokerInterrupted(self._lost)
        try:
            underlay = await self._channel.get_underlay_channel()
            with normalize_amqp_errors():
                async with asyncio.timeout(self._deadline_s):
                    yield underlay
        except FAILURES as error:
            raise BrokerInterrupted(f"an acknowledgement was not sent: {type(error).__name__}") from error

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        self._delivered += 1
        self._probed = False
        if message.type == PROBE:
            with suppress(BrokerInterrupted):
                async with self._settling() as underlay:
                    await underlay.basic_ack(message.delivery_tag or 0)
            return
        self._arrived.append(message)
        self._news.set()

    def _on_close(self, *_: object) -> None:
        self.lose("the channel, its queue or its connection was closed")


def _returned(message: AbstractIncomingMessage) -> int:
    """Return how often a message was requeued. RabbitMQ 4 counts failed deliveries and acquisitions separately; with
    neither header, a redelivered message counts as requeued often enough to be handled alone."""
    counts = [message.headers.get(name) for name in ("x-delivery-count", "x-acquired-count")]
    known = [count for count in counts if isinstance(count, int)]
    return max(known) if known else _UNKNOWN_COUNT if message.redelivered else 0


class AmqpInbox:
    """A node's inbox; acknowledges a batch of messages once all of them are handled."""

    def __init__(self, consumer: AmqpConsumer) -> None:
        self._consumer = consumer
        self._waiting: deque[Delivery] = deque()
        self._handled: int | None = None

    async def receive(self) -> bytes:
        delivery = await self._next()
        while delivery.message_id == SELF_PROBE:
            delivery = await self._next()
        return delivery.body

    async def _next(self) -> Delivery:
        if not self._waiting:
            if self._handled is not None:
                await self._consumer.ack_through(self._handled)
            self._waiting.extend(await self._consumer.batch(100))
        delivery = self._waiting.popleft()
        self._handled = delivery.tag
        return delivery
