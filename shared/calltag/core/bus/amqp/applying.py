"""Applying the topology, on a connection of its own, without retries: run once by an operator."""

import asyncio
from typing import Final

from aio_pika.exceptions import AMQPError

from calltag.core.bus.amqp.connecting import connect
from calltag.core.bus.amqp.settings import AmqpSettings
from calltag.core.bus.amqp.topology import Topology
from calltag.core.bus.ports import BusUnavailable

_DEADLINE_S: Final = 60.0


async def apply_topology(settings: AmqpSettings) -> None:
    """Declare exchanges and queues; idempotent. Raises BusUnavailable, BusRefused."""
    connection = await connect(settings, "topology")
    try:
        async with asyncio.timeout(_DEADLINE_S), connection:
            await Topology(settings).declare(await connection.channel())
    except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
        raise BusUnavailable(f"the topology was not applied: {type(error).__name__}: {error}") from error
