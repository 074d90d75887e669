"""Fills the queues of the partitions with operations, the way in which the gateway of either system does.

`python -m bench.load.filling URL calltag|naive COUNT CALLS PARTITIONS`; each operation sets one value of a call.
"""

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable

import aio_pika
import uvloop

IN_FLIGHT = 400
"""Requests that wait for the broker at a time."""
Publish = Callable[[str, int], Awaitable[object]]


async def fill(publish: Publish, count: int, calls: int) -> None:
    """Publish with confirms, the operations of one call in order."""
    left = iter(range(count))

    async def one_after_another() -> None:
        for number in left:
            await publish(f"BENCH{number % calls}", number)

    await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))


async def fill_naive(url: str, count: int, calls: int) -> None:
    """As the naive gateway does."""
    from bench.naive.names import queue_of

    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)

        async def publish(call: str, number: int) -> None:
            operation = {
                "id": uuid.uuid4().hex, "call_id": call, "user": "alice", "name": "UpdateUserData",
                "user_data": {"AccountNumber": str(number)}, "accepted_at": time.time(),
            }  # fmt: skip
            message = aio_pika.Message(json.dumps(operation).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, queue_of(call))

        await fill(publish, count, calls)


async def fill_calltag(url: str, count: int, calls: int, partitions: int) -> None:
    """As calltag's gateway does: through its broker."""
    from calltag.core.broker.ports import partition_of
    from calltag.core.broker.rabbitmq import RabbitMqSettings, open_rabbitmq
    from calltag.core.contracts.operations import OPERATION, OperationMessage
    from calltag.core.domain.ids import CallId, OperationId, UserId
    from calltag.core.domain.operations import CallOperation, UpdateUserData
    from calltag.core.telemetry.logging import configure_logging
    from parts.eventually import eventually

    configure_logging("bench", level="critical")
    async with open_rabbitmq(RabbitMqSettings(url, "bench", partitions, publish_deadline_s=30)) as broker:
        await eventually(broker.connected)

        async def publish(call: str, number: int) -> None:
            operation = CallOperation(
                id=OperationId(uuid.uuid4().hex),
                call_id=CallId(call),
                action=UpdateUserData((("AccountNumber", str(number)),)),
                accepted_at_ms=time.time_ns() // 1_000_000,
                sender=UserId("alice"),
            )
            body = OPERATION.encode(OperationMessage(operation=operation))
            await broker.publish_operation(partition_of(call, partitions), body, operation.id)

        await fill(publish, count, calls)


if __name__ == "__main__":
    address, form, *numbers = sys.argv[1:]
    operations, live, shares = map(int, numbers)
    os.environ["NAIVE_PARTITIONS"] = str(shares)
    filling = fill_naive(address, operations, live) if form == "naive" else fill_calltag(
        address, operations, live, shares
    )  # fmt: skip
    uvloop.run(filling)
    print("{}")
