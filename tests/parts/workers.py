"""Workers in the test's own process, each with connections of its own, on real backends."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from calltag.core.backends import Backends, amqp_settings, backends, open_client
from calltag.core.broker.ports import BrokerUnavailable, Partition, partition_of
from calltag.core.broker.rabbitmq import RabbitMqBroker, apply_topology, open_rabbitmq
from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.domain.call import CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.operations import AttachUserData, CallAction, CallOperation, CallStarted
from calltag.core.settings import Settings, load_settings
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.ports import LivingWorker
from calltag.core.store.workers import RedisWorkerRegistry, check_installation
from calltag.worker.app import worker_parts
from calltag.worker.assignment import Assignments
from parts.eventually import eventually

ALICE = UserId("alice")
LEG = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), ALICE)


def call_of(partition: Partition, partitions: int) -> CallId:
    """A call that belongs to the partition."""
    ids = (CallId(f"CALL{number}") for number in itertools.count())
    return next(each for each in ids if partition_of(each, partitions) == partition)


@dataclass(eq=False)
class RunningWorker:
    """One worker, until it is stopped, or dropped as if its process had been killed."""

    backends: Backends
    made: Assignments
    stack: AsyncExitStack
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def store(self) -> RedisCallStore:
        """What it commits to; no other worker has the same."""
        store = self.made._make(Partition(0))._store
        assert isinstance(store, RedisCallStore)
        return store

    async def end(self) -> None:
        """Stop in order, within the drain time."""
        self.stop.set()
        assert self.task is not None
        await self.task
        await self.stack.aclose()

    async def drop(self) -> None:
        """Go without a word: neither the batch in hand nor the lease is cared for."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.stack.aclose()


@dataclass
class Crew:
    """The workers of one installation, and what they should do."""

    settings: Settings
    client: RedisClient
    broker: RabbitMqBroker
    members: list[RunningWorker] = field(default_factory=list)
    calls: list[CallId] = field(init=False)
    """One of each partition."""

    def __post_init__(self) -> None:
        count = self.settings.partitions
        self.calls = [call_of(Partition(number), count) for number in range(count)]

    async def values(self, partition: Partition) -> Sequence[object]:
        """What was attached to the partition's call."""
        call = await RedisCallReader(self.client, Keys(), self.settings.partitions).call(self.calls[partition])
        return () if call is None else call.user_data.values.get("n", ())

    async def join(self, amqp_url: str | None = None) -> RunningWorker:
        """One more, which is ready: it waits for what falls to it. It may have a way to RabbitMQ of its own."""
        stack, settings = AsyncExitStack(), self.settings
        if amqp_url is not None:
            amqp = settings.amqp.model_copy(update={"url": SecretStr(amqp_url)})
            settings = settings.model_copy(update={"amqp": amqp})
        parts = await stack.enter_async_context(backends("worker", settings))
        worker = RunningWorker(parts, worker_parts(parts), stack)
        worker.task = asyncio.create_task(worker.made.run(worker.stop))
        self.members.append(worker)
        await eventually(worker.made.all_consumed)
        return worker

    async def leave(self, worker: RunningWorker) -> None:
        self.members.remove(worker)
        await worker.end()

    async def lose(self, worker: RunningWorker) -> None:
        """It goes as if it had been killed."""
        self.members.remove(worker)
        await worker.drop()

    async def living(self) -> Sequence[LivingWorker]:
        return await RedisWorkerRegistry(self.client, Keys()).living()

    async def owners(self) -> dict[Partition, str] | None:
        """Who owns what, if each partition has one owner, and the living are those that should be."""
        living = await self.living()
        pairs = [(held.partition, each.worker) for each in living for held in each.held]
        owners: dict[Partition, str] = dict(pairs)
        whole = len(owners) == len(pairs) == self.settings.partitions
        expected = {each.made.worker for each in self.members}
        return owners if whole and {each.worker for each in living} == expected else None

    async def publish(self, partition: Partition, number: int) -> None:
        """An operation on the partition's call: it begins (0), or a value is attached. Sent until it is confirmed, as
        clients do: on a busy machine the broker may be late."""
        call = self.calls[partition]
        action: CallAction = (
            AttachUserData((("n", number),)) if number else CallStarted(ConnId("c"), CallType.INBOUND, "", (LEG,))
        )
        operation = CallOperation(OperationId(f"{call}-{number}"), call, action, round(time.time() * 1_000), ALICE)
        body = OPERATION.encode(OperationMessage(operation=operation))

        async def is_confirmed() -> bool:
            with suppress(BrokerUnavailable):
                await self.broker.publish_operation(partition, body, operation.id)
                return True
            return False

        await eventually(is_confirmed, within_s=60)


@asynccontextmanager
async def crew(
    amqp_url: str, redis_url: str, prefix: str, *, redis: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Crew]:
    """No worker yet; those that are left at the end are stopped in order. `redis` are more settings of that."""
    amqp = {"url": amqp_url, "prefix": prefix}
    chosen = load_settings(amqp=amqp, redis={"url": redis_url, "deadline_s": 5.0, **(redis or {})}, **settings)
    await apply_topology(amqp_settings(chosen))
    client = open_client(chosen)
    await check_installation(client, Keys(), chosen.partitions)
    async with open_rabbitmq(amqp_settings(chosen)) as broker:
        await eventually(broker.connected)
        made = Crew(chosen, client, broker)
        try:
            yield made
        finally:
            await asyncio.gather(*(each.end() for each in made.members))
            await client.close()
