"""Questions to RabbitMQ: the state of a queue, and probes that test whether an exchange routes to a queue."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Final, TypeVar
from uuid import uuid4

from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError
from aiormq.exceptions import ChannelAccessRefused

from calltag.core.broker.ports import BrokerUnavailable
from calltag.core.broker.rabbitmq.connection import FAILURES, Link, normalize_amqp_errors

T = TypeVar("T")
PROBE: Final = "calltag.probe"
"""AMQP type of a probe. Consumers acknowledge and ignore it."""


class Inspector:
    """Sends requests to RabbitMQ on one channel of a link, which stays open."""

    def __init__(self, link: Link, deadline_s: float) -> None:
        self._link = link
        self._deadline_s = deadline_s
        self._channel: AbstractChannel | None = None
        self._asking = asyncio.Lock()

    async def depth(self, queue: str) -> int:
        """Return the number of undelivered messages of a queue. Raises BrokerUnavailable."""
        found = await self.ask(queue, lambda channel: channel.declare_queue(queue, passive=True))
        return found.declaration_result.message_count or 0

    async def ask(self, name: str, question: Callable[[AbstractChannel], Awaitable[T]]) -> T:
        """Run `question` on the channel; `name` is its exchange or queue in errors. Raises BrokerUnavailable."""
        async with self._asking:
            try:
                with normalize_amqp_errors():
                    async with asyncio.timeout(self._deadline_s):
                        if self._channel is None or self._channel.is_closed:
                            self._channel = await self._link.open_channel(confirms=False)
                        return await question(self._channel)
            except FAILURES as error:
                self._channel = None
                raise BrokerUnavailable(f"{name} cannot be inspected: {type(error).__name__}") from error


class Routing(Enum):
    """Result of publishing a message."""

    BOUND = auto()
    UNBOUND = auto()
    FULL = auto()
    REFUSED = auto()


async def probed(connection: AbstractConnection, exchange: str, routing_key: str, body: bytes = b"") -> Routing:
    """Publish a probe; return whether a queue accepted it."""
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    message = Message(body, type=PROBE, message_id=uuid4().hex, content_type="application/json")
    try:
        target = await channel.get_exchange(exchange, ensure=False)
        await target.publish(message, routing_key, mandatory=True)
    except PublishError:
        return Routing.UNBOUND
    except DeliveryError:
        return Routing.FULL
    except ChannelAccessRefused:
        return Routing.REFUSED
    except ChannelNotFoundEntity:
        return Routing.UNBOUND
    finally:
        if not channel.is_closed:
            await channel.close()
    return Routing.BOUND
