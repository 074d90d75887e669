"""The two systems under test, each ready to be measured: calltag, and the naive one, on the same RabbitMQ and Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aio_pika
import httpx
import orjson
import redis.asyncio

from bench.children import running, serving
from bench.naive.names import call_key, queue_names, session_key
from calltag.core.broker.ports import Partition
from calltag.core.broker.rabbitmq.topology import RabbitMqSettings, Topology
from calltag.core.domain.ids import CallId
from calltag.core.identity.authentication import COOKIE
from calltag.core.store.calls import RedisCallReader
from calltag.core.store.client import redis_client
from calltag.core.store.keys import Keys
from parts.ports import free_port
from parts.processes import Program
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

PARTITIONS: Final = 8
PAIRS: Final = {f"Attribute{number}": f"a value of twenty {number:02d}" for number in range(5)}
"""What each call carries beside what is measured."""
UNBOUNDED: Final = {
    # What is measured here is the cost of an operation, beyond what the gateway would admit of so many.
    "CALLTAG_GATEWAY__MAX_BACKLOG": "1000000000",
    "CALLTAG_GATEWAY__MAX_BACKLOG_AGE_S": "3600",
    "CALLTAG_GATEWAY__USER_OPERATIONS_PER_S": "0",
    "CALLTAG_GATEWAY__ADDRESS_OPERATIONS_PER_S": "0",
    # A worker that is kept stopped while its queues are filled keeps its partitions.
    "CALLTAG_WORKER__LEASE_S": "60",
    "CALLTAG_LOG__LEVEL": "info",
    # How long a busy machine takes proves nothing.
    "CALLTAG_REDIS__DEADLINE_S": "10",
    "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "10",
}


_LOOK_S: Final = 0.1
_FACTS: Final = 50
"""Calls that the switch tells of in one request."""


class NotDone(RuntimeError):
    """What was begun did not come to its end in time."""


@dataclass(frozen=True, slots=True)
class Backends:
    """RabbitMQ and Redis of this run."""

    broker: RabbitMq
    store: RedisServer


@contextmanager
def backends(folder: Path) -> Iterator[Backends]:
    """Both, started; they end with the context."""
    with ExitStack() as stack:
        for name in ("rabbitmq", "redis"):
            (folder / name).mkdir(parents=True)
        broker, store = RabbitMq(folder / "rabbitmq"), RedisServer(folder / "redis")
        stack.callback(broker.end)
        broker.start()
        stack.callback(store.process.kill)
        store.start()
        yield Backends(broker, store)


@dataclass(frozen=True, slots=True)
class Rig:
    """One system that runs, with calls of one user in it."""

    broker: RabbitMq
    gateway: Program
    worker: Program
    notifier: Program
    port: int
    notifier_port: int
    token: str
    """The value of the user's session cookie."""
    calls: Sequence[str]
    queues: Sequence[str]
    system: System
    """All processes; of the naive system, none."""
    versions: Callable[[], Awaitable[int]]
    """The sum of the versions of all calls: how many operations took effect."""

    async def purge(self) -> None:
        """Forget what waits for the worker."""
        connection = await aio_pika.connect(self.broker.url)
        async with connection:
            channel = await connection.channel()
            for name in self.queues:
                await (await channel.get_queue(name)).purge()

    async def settled(self, target: int, within_s: float = 180.0) -> None:
        """Wait until the sum of versions is reached. Raises NotDone."""
        ends = time.monotonic() + within_s
        while (reached := await self.versions()) < target:
            if time.monotonic() > ends:
                raise NotDone(f"{target - reached} operations did not take effect within {within_s:g} s")
            await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def calltag_rig(
    folder: Path, using: Backends, calls: int, prefix: str = "bench", **settings: str
) -> AsyncIterator[Rig]:
    """calltag as three processes."""
    more = {**UNBOUNDED, "CALLTAG_PARTITIONS": str(PARTITIONS), **settings}
    with three_processes(folder, using.broker.url, using.store.url, prefix, **more) as system:
        yield await _filled(system, using, prefix, [f"BENCH{number}" for number in range(calls)])


async def _filled(system: System, using: Backends, prefix: str, calls: Sequence[str]) -> Rig:
    partitions = int(system.environment["CALLTAG_PARTITIONS"])
    async with httpx.AsyncClient(base_url=system.gateway_url, timeout=60) as http:
        for first in range(0, len(calls), _FACTS):
            facts = [
                {
                    "eventId": f"begin-{call}", "eventType": "CallStarted", "id": call, "userData": PAIRS,
                    "parties": [{"phoneNumber": "15000", "state": "Established"}],
                }
                for call in calls[first : first + _FACTS]
            ]  # fmt: skip
            answer = await http.post(
                "/api/v2/switch/events", json=facts, auth=("switch", "demo"), headers={"Prefer": "wait=10"}
            )
            answer.raise_for_status()
    token = await session_of(_port(system.gateway_url), "alice")
    reader = RedisCallReader(redis_client(using.store.url, deadline_s=10), Keys(), partitions)

    async def versions() -> int:
        found = await asyncio.gather(*(reader.call(CallId(call), with_user_data=False) for call in calls))
        return sum(call.version for call in found if call is not None)

    topology = Topology(RabbitMqSettings(using.broker.url, prefix, partitions))
    return Rig(
        broker=using.broker,
        gateway=system.programs["gateway"],
        worker=system.programs["worker"],
        notifier=system.programs["notifier"],
        port=_port(system.gateway_url),
        notifier_port=_port(system.cometd_url),
        token=token,
        calls=calls,
        queues=[topology.partition_queue(Partition(number)) for number in range(partitions)],
        system=system,
        versions=versions,
    )


async def session_of(port: int, user: str) -> str:
    """The value of the cookie that the user gets from the gateway at that port."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        return (await http.get("/api/v2/me", auth=(user, "demo"))).cookies[COOKIE]


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


@asynccontextmanager
async def naive_rig(folder: Path, using: Backends, calls: int) -> AsyncIterator[Rig]:
    """The naive system as three processes."""
    where = {
        "NAIVE_AMQP_URL": using.broker.url, "NAIVE_REDIS_URL": using.store.url, "NAIVE_PARTITIONS": str(PARTITIONS),
    }  # fmt: skip
    port, notifier_port = free_port(), free_port()
    names, token, user = [f"BENCH{number}" for number in range(calls)], "bench-token", "alice"
    store = redis.asyncio.Redis.from_url(using.store.url)
    await store.set(session_key(token), user)
    for name in names:
        pairs = orjson.dumps({key: [value] for key, value in PAIRS.items()})
        await store.hset(call_key(name), mapping={"user": user, "version": 1, "data": pairs})

    async def versions() -> int:
        pipeline = store.pipeline(transaction=False)
        for name in names:
            pipeline.hget(call_key(name), "version")
        return sum(map(int, await pipeline.execute()))

    with ExitStack() as stack:
        gateway = stack.enter_context(
            serving(folder / "gateway", "bench.naive.gateway", str(port), port=port, **where)
        )  # fmt: skip
        worker = stack.enter_context(running(folder / "worker", "bench.naive.worker", ready="ready", **where))
        notifier = stack.enter_context(
            serving(folder / "notifier", "bench.naive.notifier", str(notifier_port), port=notifier_port, **where)
        )
        yield Rig(
            broker=using.broker,
            gateway=gateway,
            worker=worker,
            notifier=notifier,
            port=port,
            notifier_port=notifier_port,
            token=token,
            calls=names,
            queues=queue_names(PARTITIONS),
            system=System(folder, {}),
            versions=versions,
        )
    await store.aclose()
