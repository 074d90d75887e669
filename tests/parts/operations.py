"""A worker in the test's own process on RabbitMQ and Redis, and operations for it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import orjson

from calltag.core.backends import Backends, amqp_settings, backends
from calltag.core.broker.ports import Partition
from calltag.core.broker.rabbitmq import apply_topology
from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.domain.call import CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.operations import AttachUserData, CallAction, CallOperation, CallStarted
from calltag.core.settings import load_settings
from calltag.core.store.calls import RedisCallReader
from calltag.worker.app import worker_parts
from parts.eventually import eventually
from parts.store_commands import library

ALICE = UserId("alice")
ONLY = Partition(0)


@dataclass
class Operations:
    """One partition; operations are published as gateways do."""

    parts: Backends

    async def publish(self, name: str, call: str, action: CallAction, sender: UserId | None = ALICE) -> None:
        operation = CallOperation(OperationId(name), CallId(call), action, 1, sender)
        await self.parts.broker.publish_operation(ONLY, OPERATION.encode(OperationMessage(operation=operation)), name)

    async def start(self, *calls: str) -> None:
        """Calls with alice on them."""
        for call in calls:
            leg = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), ALICE)
            started = CallStarted(ConnId("c"), CallType.INBOUND, "", (leg,))
            await self.publish(f"start-{call}", call, started, None)

    async def attach(self, call: str, *numbers: int) -> None:
        for number in numbers:
            await self.publish(f"{call}-{number}", call, AttachUserData((("n", number),)))

    async def values(self, call: str) -> list[object]:
        """What was attached to the call, in order."""
        found = await RedisCallReader(self.parts.client, self.parts.keys, 1).call(CallId(call))
        return list(found.user_data.values.get("n", ())) if found is not None else []

    async def until(self, call: str, *numbers: int) -> None:
        """Wait until exactly these values are on the call."""

        async def there() -> bool:
            return await self.values(call) == list(numbers)

        await eventually(there)

    async def until_started(self, *calls: str) -> None:
        async def there() -> bool:
            reader = RedisCallReader(self.parts.client, self.parts.keys, 1)
            return all([await reader.call(CallId(call)) is not None for call in calls])

        await eventually(there)

    async def refusals(self) -> list[dict[str, Any]]:
        """What alice was told of refused operations, in order."""
        kept = await library(self.parts.client).xrange(self.parts.keys.stream_of(ALICE))
        events = [orjson.loads(fields[b"e"]) for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", kept)]
        return [event for event in events if event["kind"] == "refused"]

    @asynccontextmanager
    async def damaged(self, call: str, what: str) -> AsyncIterator[None]:
        """A key of the call (`state`, `data`, `done`, `order`) holds something else while the context is open."""
        connection, name = library(self.parts.client), getattr(self.parts.keys.state(ONLY, f"call:{call}"), what)
        # What does not exist yet is what was there before.
        had = bool(await connection.exists(name))
        if had:
            await connection.rename(name, f"{name}:aside")
        await connection.set(name, "no hash and no list")
        try:
            yield
        finally:
            await connection.delete(name)
            if had:
                await connection.rename(f"{name}:aside", name)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """A worker that ends in order."""
        stop = asyncio.Event()
        running = asyncio.create_task(worker_parts(self.parts).run(stop))
        try:
            yield
        finally:
            stop.set()
            await running

    @asynccontextmanager
    async def dying(self) -> AsyncIterator[None]:
        """A worker that ends in the middle of whatever it does."""
        running = asyncio.create_task(worker_parts(self.parts).run(asyncio.Event()))
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    def metric(self, name: str, **labels: str) -> float:
        return self.parts.metrics.registry.get_sample_value(f"calltag_{name}", labels) or 0.0


@asynccontextmanager
async def operations(
    amqp_url: str, redis_url: str, prefix: str, *, redis: Mapping[str, Any] | None = None, **worker: Any
) -> AsyncIterator[Operations]:
    """One partition on RabbitMQ and Redis; `redis` are more settings of that, `worker` are settings of the worker."""
    settings = load_settings(
        partitions=1,
        amqp={"url": amqp_url, "prefix": prefix, "publish_deadline_s": 5},
        redis={"url": redis_url, "deadline_s": 5, **(redis or {})},
        worker={"lease_s": 0.5, **worker},
        directory={"demo": True},
    )
    await apply_topology(amqp_settings(settings))
    async with backends("worker", settings) as parts:
        await eventually(parts.broker.connected)
        yield Operations(parts)
