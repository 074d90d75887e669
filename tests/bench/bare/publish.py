"""Bare part: aio-pika publishes persistent messages to a quorum queue, with confirms, so many of them in flight.

`python -m bench.bare.publish URL COUNT BYTES` prints a sample.
"""

import asyncio
import json
import sys
import time

import aio_pika
import uvloop
from aio_pika.abc import AbstractChannel

IN_FLIGHT = 200
QUEUE = "bench.bare"
QUORUM = {"x-queue-type": "quorum"}


async def publish(channel: AbstractChannel, queue: str, count: int, size: int) -> None:
    """Publish, each of the tasks one after another."""
    left = iter(range(count))
    body = b"x" * size

    async def one_after_another() -> None:
        for _ in left:
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, queue)

    await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))


async def _measure(url: str, count: int, size: int) -> dict[str, float]:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.declare_queue(QUEUE, durable=True, arguments=dict(QUORUM))
        await publish(channel, QUEUE, 200, size)
        began, cpu = time.monotonic(), time.process_time()
        await publish(channel, QUEUE, count, size)
        taken = {"work": count, "seconds": time.monotonic() - began, "cpu_s": time.process_time() - cpu}
        await (await channel.get_queue(QUEUE)).purge()
    return taken


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
