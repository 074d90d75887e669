"""Consuming: the reader of a partition, and the inbox of a node."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq.abc import AbstractChannel as Underlay

from calltag.core.bus.amqp.failing import FAILURES, normalize_amqp_errors
from calltag.core.bus.amqp.metrics import Repair
from calltag.core.bus.amqp.packing import number_of_parts, unpacked
from calltag.core.bus.amqp.probing import PROBE
from calltag.core.bus.amqp.unsettled import Messages, Settled
from calltag.core.bus.ports import BusInterrupted, BusRefused, BusUnavailable, Delivery, QueueMissing
from calltag.core.runtime.byte_limits import MAX_BATCH_BYTES, count_fitting

_SIGHTINGS: Final = 2
"""How often in a row something has to look wrong: a queue that elects a leader shows no consumers for a moment."""
_NOT_TOLD: Final = 1_000
SELF_PROBE: Final = "calltag-probe"
"""The name of messages that nodes send to themselves."""


@dataclass(frozen=True, slots=True)
class QueueRoute:
    """How messages come to a queue: through the exchange. `probe` sends one that way; false if it leads to no queue."""

    exchange: str
    probe: Callable[[], Awaitable[bool]]


class AmqpConsumer:
    """The deliveries of one queue on one channel, which is this consumer's alone.

    `patience` is how often in a row it may look starved before it has had anything: where one consumer at a time is
    active, it may wait for another one, and RabbitMQ, asked for the queue, counts the active one alone. Where there is
    a `route`, the watch sends a message along it, which has to arrive.
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
        """Whether a message was sent along the route since anything came."""
        self._deadline_s = deadline_s
        self._patience = patience
        self._arrived: deque[AbstractIncomingMessage] = deque()
        self._parts: deque[Delivery] = deque()
        """Of the message that was taken apart last, what no batch has had yet."""
        self._messages = Messages()
        self._news = asyncio.Event()
        self._lost = ""
        self._queue = ""
        self._delivered = 0
        self._seen = 0
        """How much was delivered when the watch looked last."""
        self._suspicion: tuple[Repair | None, int] = (None, 0)
        channel.close_callbacks.add(self._on_close)

    async def start(self, queue: AbstractQueue, prefetch: int) -> None:
        """Begin to consume. Raises QueueMissing, BusInterrupted."""
        try:
            with normalize_amqp_errors():
                async with asyncio.timeout(self._deadline_s):
                    await self._channel.set_qos(prefetch_count=prefetch)
                    underlay = await self._channel.get_underlay_channel()
                    # The broker cancels a consumer whose queue is deleted, or moves to another node.
                    underlay.on_consumer_cancel_callbacks.add(self._on_close)
                    await queue.consume(self._on_message)
            self._queue = queue.name
        except ChannelNotFoundEntity as error:
            raise QueueMissing(f"{queue.name} does not exist; run: calltag topology apply") from error
        except FAILURES as error:
            raise BusInterrupted(f"{queue.name} cannot be consumed: {error}") from error

    async def batch(self, limit: int, max_bytes: int = MAX_BATCH_BYTES) -> Sequence[Delivery]:
        while not self._arrived and not self._parts:
            if self._lost:
                raise BusInterrupted(self._lost)
            self._news.clear()
            await self._news.wait()
        if self._lost:
            raise BusInterrupted(self._lost)
        # Only as many messages are taken apart as the batch takes.
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
        # A tag must be one that is not settled: for another the broker closes the channel.
        if settled.through is not None:
            async with self._settling() as underlay:
                await underlay.basic_ack(settled.through, multiple=True)
        for tag in settled.beyond:
            async with self._settling() as underlay:
                await underlay.basic_ack(tag)

    async def watch(self) -> Repair | None:
        """Ask the broker whether the consumer is there and gets what there is; what is wrong, once that is certain.

        The channel is this consumer's own: where the queue is gone, the broker closes it. Raises TimeoutError when
        nothing comes back.
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
        # Where there are several, another one may be the active one.
        if consumers == 1 and waiting and idle:
            return Repair.CONSUMER_STARVED
        return Repair.UNBOUND if self._probed and idle else None

    async def _has_route(self) -> bool:
        """Send a message along the route, if there is one; false if it leads nowhere. The next watch expects that
        something arrived."""
        if self._route is None or self._probed:
            return True
        # It may arrive before its confirm.
        self._probed = True
        try:
            return await self._route.probe()
        except (BusUnavailable, BusRefused):
            self._probed = False
            return True

    def lose(self, reason: str) -> None:
        """Whoever uses this consumer is told that it is gone."""
        self._lost = self._lost or reason
        self._news.set()

    @asynccontextmanager
    async def _settling(self) -> AsyncIterator[Underlay]:
        if self._lost:
            raise BusInterrupted(self._lost)
        try:
            underlay = await self._channel.get_underlay_channel()
            with normalize_amqp_errors():
                async with asyncio.timeout(self._deadline_s):
                    yield underlay
        except FAILURES as error:
            raise BusInterrupted(f"an acknowledgement was not sent: {type(error).__name__}") from error

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        self._delivered += 1
        self._probed = False
        if message.type == PROBE:
            with suppress(BusInterrupted):
                async with self._settling() as underlay:
                    await underlay.basic_ack(message.delivery_tag or 0)
            return
        self._arrived.append(message)
        self._news.set()

    def _on_close(self, *_: object) -> None:
        self.lose("the channel, its queue or its connection is gone")


def _returned(message: AbstractIncomingMessage) -> int:
    """How often a message came back. RabbitMQ 4 counts what failed and what was only acquired apart; where neither is
    told, a message that is delivered again counts as one that came back often enough to be looked at alone."""
    counts = [message.headers.get(name) for name in ("x-delivery-count", "x-acquired-count")]
    told = [count for count in counts if isinstance(count, int)]
    return max(told) if told else _NOT_TOLD if message.redelivered else 0


class AmqpInbox:
    """A node's inbox: each message is acknowledged when the next one is asked for."""

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
