"""Bare part: aio-pika consumes from a quorum queue, and acknowledges each message, or many at once.

`python -m bench.bare.consume URL COUNT BYTES each|multiple` prints a sample.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from bench.bare.publish import QUORUM, publish

QUEUE = "bench.bare.consumed"
PREFETCH = 400
MANY = 100


@dataclass(slots=True)
class Consumer:
    """Takes `count` messages; `multiple` acknowledges every hundredth, and with it those before."""

    count: int
    multiple: bool
    taken: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, message: AbstractIncomingMessage) -> None:
        self.taken += 1
        if not self.multiple:
            await message.ack()
        elif self.taken % MANY == 0 or self.taken == self.count:
            await message.ack(multiple=True)
        if self.taken == self.count:
            self.done.set()


async def _measure(url: str, count: int, size: int, *, multiple: bool) -> dict[str, float]:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue(QUEUE, durable=True, arguments=dict(QUORUM))
        await publish(channel, QUEUE, count, size)
        reading = await connection.channel(publisher_confirms=False)
        await reading.set_qos(prefetch_count=PREFETCH)
        consumer = Consumer(count, multiple)
        began, cpu = time.monotonic(), time.process_time()
        await (await reading.get_queue(QUEUE)).consume(consumer.take)
        await consumer.done.wait()
        taken = {"work": count, "seconds": time.monotonic() - began, "cpu_s": time.process_time() - cpu}
        await queue.delete(if_unused=False, if_empty=False)
    return taken


if __name__ == "__main__":
    given = _measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), multiple=sys.argv[4] == "multiple")
    print(json.dumps(uvloop.run(given)))
