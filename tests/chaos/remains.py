"""What lies in store and broker at the end, read without any of calltag's code."""

import json
from collections.abc import Sequence

import aio_pika
import redis

from chaos.record import Data


class StoreReader:
    """Reads calls and outboxes in Redis."""

    def __init__(self, port: int) -> None:
        self._port = port

    def call(self, call: str) -> tuple[int, Data]:
        """Version and user data of a call; 0 if there is none."""
        with redis.Redis(port=self._port, decode_responses=True) as client:
            state = self._key(client, f"*:{{p??}}:call:{call}")
            if state is None:
                return 0, {}
            both = client.pipeline(transaction=True)
            both.hmget(state, ["version", "keys"])
            both.hgetall(f"{state}:userdata")
            (version, order), values = both.execute()
            assert set(json.loads(order or "[]")) == set(values), f"{state}: {order} and {list(values)}"
            return int(version or 0), {key: json.loads(value) for key, value in values.items()}

    def unsent(self) -> int:
        """How many events are kept as not known to be sent."""
        with redis.Redis(port=self._port, decode_responses=True) as client:
            return sum(client.llen(key) for key in client.scan_iter("*:outbox"))

    @staticmethod
    def _key(client: redis.Redis, pattern: str) -> str | None:
        return next(iter(client.scan_iter(pattern)), None)


async def waiting(url: str, prefix: str) -> int:
    """How many operations wait in the partitions' queues for a worker to take them."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        count, partition = 0, 0
        while True:
            try:
                queue = await channel.get_queue(f"{prefix}.ops.p{partition:02d}", ensure=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return count
            count += queue.declaration_result.message_count or 0
            partition += 1


async def parked(url: str, prefix: str) -> Sequence[str]:
    """What lies in the queue of dead letters; it stays there."""
    found = []
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue(f"{prefix}.ops.dead")
        while (message := await queue.get(fail=False)) is not None:
            found.append(message.body.decode(errors="replace"))
    return found
