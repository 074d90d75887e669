"""Fills the queues of the partitions with operations, in the form of the gateway of either system.

`python -m bench.load.filling URL calltag|naive COUNT CALLS PARTITIONS`; each operation sets one value of a call.
"""

import asyncio
import json
import os
import sys
import time
import uuid

import aio_pika
import uvloop

IN_FLIGHT = 400


def naive_message(call: str, number: int) -> tuple[str, bytes]:
    """Queue and body."""
    from bench.naive.names import queue_of

    operation = {
        "id": uuid.uuid4().hex, "call_id": call, "user": "alice", "name": "UpdateUserData",
        "user_data": {"AccountNumber": str(number)}, "accepted_at": time.time(),
    }  # fmt: skip
    return queue_of(call), json.dumps(operation).encode()


def calltag_message(call: str, number: int, partitions: int) -> tuple[str, bytes]:
    """Queue and body."""
    from calltag.core.bus.amqp.settings import AmqpSettings
    from calltag.core.bus.amqp.topology import Topology
    from calltag.core.bus.partitioning import partition_of
    from calltag.core.domain.ids import CallId, OperationId, UserId
    from calltag.core.domain.operations import CallOperation, UpdateUserData
    from calltag.core.wire.messages import OPERATION, OperationMessage

    operation = CallOperation(
        id=OperationId(uuid.uuid4().hex),
        call_id=CallId(call),
        action=UpdateUserData((("AccountNumber", (str(number),)),)),
        accepted_at_ms=time.time_ns() // 1_000_000,
        sender=UserId("alice"),
    )
    queue = Topology(AmqpSettings("", "bench", partitions)).partition_queue(partition_of(call, partitions))
    return queue, OPERATION.encode(OperationMessage(operation=operation))


async def fill(url: str, system: str, count: int, calls: int, partitions: int) -> None:
    """Publish with confirms, the operations of one call in order."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        left = iter(range(count))

        async def one_after_another() -> None:
            for number in left:
                call = f"BENCH{number % calls}"
                queue, body = naive_message(call, number) if system == "naive" else calltag_message(
                    call, number, partitions
                )  # fmt: skip
                message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await channel.default_exchange.publish(message, queue)

        await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))


if __name__ == "__main__":
    address, form, *numbers = sys.argv[1:]
    os.environ["NAIVE_PARTITIONS"] = numbers[2]
    uvloop.run(fill(address, form, *map(int, numbers)))
    print("{}")
