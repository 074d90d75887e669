"""Publishing with confirms: a message counts as accepted once RabbitMQ confirms it, by the deadline."""

import asyncio
from contextlib import suppress
from typing import Final
from uuid import uuid4

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractExchange, HeadersType
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, DeliveryError, PublishError

from calltag.core.broker.ports import BrokerRefused, BrokerUnavailable
from calltag.core.broker.rabbitmq.connection import FAILURES, Link, normalize_amqp_errors
from calltag.core.broker.rabbitmq.metrics import Repair

_TRUSTED_S: Final = 1.0
"""Minimum age of a channel that is replaced after a refusal; a leader election takes less."""


class Unroutable(BrokerRefused):
    """No queue is bound for the routing key."""


class ExchangeMissing(BrokerUnavailable):
    """RabbitMQ has no exchange of that name."""


class Publisher:
    """Publishes on one channel of a link, many messages concurrently, in the order of the calls."""

    def __init__(self, link: Link, deadline_s: float) -> None:
        self._link = link
        self._deadline_s = deadline_s
        self._channel: AbstractChannel | None = None
        self._exchanges: dict[str, AbstractExchange] = {}
        self._opening = asyncio.Lock()
        self._confirmed_s = 0.0
        """Time of the last confirm, by the loop's clock."""
        self._opened_s = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        name: str,
        *,
        persistent: bool = True,
        headers: HeadersType | None = None,
    ) -> None:
        """Publish and wait for the confirm. `name` is sent as correlation id.

        A message that is not `persistent` does not survive a restart of RabbitMQ, nor does it wait for the disk.
        Raises BrokerUnavailable, ExchangeMissing; Unroutable, and BrokerRefused when the queue is full.
        """
        if self._link.blocked:
            # RabbitMQ may accept messages sent on a blocked connection much later.
            raise BrokerUnavailable("RabbitMQ accepts no messages: it is short of memory or disk")
        message = Message(
            body,
            delivery_mode=DeliveryMode.PERSISTENT if persistent else DeliveryMode.NOT_PERSISTENT,
            content_type="application/json",
            # aiormq matches returned messages by message id, so each attempt needs one of its own.
            message_id=uuid4().hex,
            correlation_id=name,
            headers=headers,
        )
        channel: AbstractChannel | None = None
        began_s = asyncio.get_running_loop().time()
        try:
            with normalize_amqp_errors():
                async with asyncio.timeout(self._deadline_s):
                    target = await self._exchange(exchange)
                    channel = self._channel
                    await target.publish(message, routing_key, mandatory=True)
            self._confirmed_s = asyncio.get_running_loop().time()
        except PublishError:
            raise Unroutable(f"{exchange} has no queue for {routing_key}") from None
        except DeliveryError:
            self._distrust(channel)
            raise BrokerRefused(f"the queue of {routing_key} is full") from None
        except TimeoutError:
            await self._doubt(channel, began_s)
            raise BrokerUnavailable(f"RabbitMQ did not confirm within {self._deadline_s:g} s") from None
        except (AMQPError, OSError, RuntimeError) as error:
            self._forget(channel)
            # The channel closes for all messages in flight, including those for other exchanges.
            if isinstance(error, ChannelNotFoundEntity) and f"no exchange '{exchange}'" in str(error):
                raise ExchangeMissing(f"the exchange {exchange} is missing") from error
            raise BrokerUnavailable(f"the connection to RabbitMQ broke: {type(error).__name__}") from error

    async def _exchange(self, name: str) -> AbstractExchange:
        if self._channel is None or self._channel.is_closed:
            async with self._opening:
                if self._channel is None or self._channel.is_closed:
                    self._exchanges = {}
                    self._channel = await self._link.open_channel(confirms=True)
                    self._opened_s = asyncio.get_running_loop().time()
        if name not in self._exchanges:
            self._exchanges[name] = await self._channel.get_exchange(name, ensure=False)
        return self._exchanges[name]

    async def _doubt(self, channel: AbstractChannel | None, began_s: float) -> None:
        """Handle a missing confirm. If no other came either, and RabbitMQ does not block the connection, then it is
        stuck, and is rebuilt. Otherwise the queue is slow."""
        if began_s < self._confirmed_s or await self._link.look():
            return
        if channel is None or channel is self._channel:
            self._forget(channel)
            self._link.broken(Repair.UNCONFIRMED)

    def _distrust(self, channel: AbstractChannel | None) -> None:
        """Replace the channel after a queue refused a message: it is full, or the channel was opened while it had no
        leader. Such a channel of RabbitMQ 3.10 keeps addressing the former leader for its whole lifetime."""
        if channel is None or channel is not self._channel:
            return
        if asyncio.get_running_loop().time() - self._opened_s < _TRUSTED_S:
            return
        self._channel = None
        closing = asyncio.create_task(self._close_later(channel), name="publisher-channel")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close_later(self, channel: AbstractChannel) -> None:
        """Close the channel once each message published on it is confirmed, or past its deadline."""
        await asyncio.sleep(self._deadline_s)
        with suppress(*FAILURES), normalize_amqp_errors():
            async with asyncio.timeout(self._deadline_s):
                await channel.close()

    def _forget(self, channel: AbstractChannel | None) -> None:
        if channel is self._channel:
            self._channel = None
