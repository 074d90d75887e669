"""Probes: messages that only test whether an exchange routes to a queue."""

from enum import Enum, auto
from typing import Final
from uuid import uuid4

from aio_pika import Message
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError
from aiormq.exceptions import ChannelAccessRefused

PROBE: Final = "calltag.probe"
"""AMQP type of a probe. Consumers acknowledge and ignore it."""


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
