"""A fail-over that takes back what the store had confirmed: what is at hand is applied again, the rest is told."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Partition
from calltag.core.domain.operations import AttachUserData
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient, open_redis
from calltag.core.store.ports import StoreUnavailable, WorkerId
from calltag.core.store.replica_wait import Durability
from calltag.core.store.routing import Deployment
from calltag.core.store.workers import RedisWorkerRegistry
from calltag.core.telemetry.metrics import Metrics
from calltag.worker.assignment import Assignments
from calltag.worker.loss_recovery import RecentByPartition, RecentLimits
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.parking import Parking
from calltag.worker.partition_runner import PartitionRunner
from integration.test_partition_runner import (
    CALL,
    HERE,
    KEYS,
    LIMITS,
    PARTITIONS,
    begin,
    outgoing_of,
    publish,
    versions_told,
)
from parts.eventually import eventually
from parts.redis_asking import ask, info, wait_until
from parts.redis_cluster import RedisCluster
from parts.redis_sentinel import SERVICE, RedisSentinel
from parts.store_commands import library

pytestmark = [
    pytest.mark.timeout(120),
    # redis-py lets go of its connections to a node that has left a cluster without closing them.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in.*__del__:pytest.PytestUnraisableExceptionWarning"),
]
Redis = RedisSentinel | RedisCluster


@pytest.fixture(params=["sentinel", "cluster"])
def redis(request: pytest.FixtureRequest) -> Iterator[Redis]:
    made: Redis = request.getfixturevalue(f"redis_{request.param}")
    made.clear()
    yield made
    reconnect(made)
    made.revive()


@pytest.fixture
async def client(redis: Redis) -> AsyncIterator[RedisClient]:
    mode, service = ("sentinel", SERVICE) if isinstance(redis, RedisSentinel) else ("cluster", "")
    made = open_redis(Deployment(redis.url, mode, service), deadline_s=2)  # type: ignore[arg-type]
    yield made
    await made.close()
    # Of those that were let go of, no other test is to hear.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@asynccontextmanager
async def working(
    broker: MemoryBroker,
    client: RedisClient,
    metrics: Metrics,
    *,
    limits: RecentLimits | None = None,
    replicas: int = 0,
) -> AsyncIterator[None]:
    """A worker on all partitions, while the context is open."""
    store = RedisCallStore(client, KEYS, durability=Durability(replicas, 400))
    outgoing, observations = outgoing_of(broker, client), WorkerMetrics(metrics)
    recent = RecentByPartition(limits or RecentLimits())

    def make(partition: Partition) -> PartitionRunner:
        return PartitionRunner(partition, store, outgoing, LIMITS, observations, parking_lot=Parking(broker),
                               recent=recent.of(partition))  # fmt: skip

    registry = RedisWorkerRegistry(client, KEYS, lease_ms=60_000)
    worker = Assignments(WorkerId("w"), broker, registry, make, observations, partitions=PARTITIONS, heartbeat_s=0.2)
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        yield
    except BaseException:
        # It might wait for replicas that do not come.
        running.cancel()
        raise
    stop.set()
    await running


def master_of(redis: Redis) -> int:
    port = redis.master_of(KEYS.epoch(HERE)) if isinstance(redis, RedisCluster) else redis.master()
    assert port is not None
    return port


def replicas_of(redis: Redis) -> list[int]:
    return [redis.replica_of(master_of(redis))] if isinstance(redis, RedisCluster) else redis.replicas()


def cut_off(redis: Redis) -> None:
    """The replicas stay up, and get nothing new from the master any more; they do not know why."""
    master = master_of(redis)
    for replica in replicas_of(redis):
        ask(replica, "CONFIG", "SET", "masteruser", "nobody")
        ask(replica, "CONFIG", "SET", "masterauth", "wrong")
    ask(master, "CLIENT", "KILL", "TYPE", "replica")


def reconnect(redis: Redis) -> None:
    for port in redis.ports:
        if redis.programs[port].running:
            ask(port, "CONFIG", "SET", "masteruser", "")
            ask(port, "CONFIG", "SET", "masterauth", "")


async def attached(client: RedisClient) -> Sequence[object]:
    """What was attached to the call, in order; nothing while the store is away."""
    try:
        call = await RedisCallReader(client, KEYS, PARTITIONS).call(CALL)
    except StoreUnavailable:
        return ()
    return call.user_data.values.get("n", ()) if call else ()


async def until_attached(client: RedisClient, wanted: Sequence[object]) -> None:
    async def so() -> bool:
        return list(await attached(client)) == list(wanted)

    await eventually(so, within_s=40)


def counted(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"calltag_{name}_total") or 0


async def lose(redis: Redis, broker: MemoryBroker, client: RedisClient) -> None:
    """Operations 0 to 5 are confirmed; then the master dies, and no replica has 3 to 5."""
    await begin(broker)
    for number in (1, 2):
        await publish(broker, number, AttachUserData((("n", number),)))
    await until_attached(client, [1, 2])
    await asyncio.to_thread(_replicated, redis)
    cut_off(redis)
    for number in (3, 4, 5):
        await publish(broker, number, AttachUserData((("n", number),)))
        await until_attached(client, range(1, number + 1))

    async def told() -> bool:
        return (await versions_told(client))[-1:] == [6]

    await eventually(told)
    redis.programs[master_of(redis)].kill()
    reconnect(redis)


def _replicated(redis: Redis) -> None:
    """Wait until the replicas have all that the master has written so far.

    Not by WAIT: of a connection that wrote nothing it has nothing to wait for.
    """
    written = _offset(master_of(redis), "master_repl_offset")
    for replica in replicas_of(redis):
        wait_until(lambda replica=replica: _offset(replica, "slave_repl_offset") >= written)  # type: ignore[misc]


def _offset(port: int, field: str) -> int:
    return int(info(ask(port, "INFO", "replication"))[field])


async def test_what_a_failover_lost_is_applied_again(redis: Redis, client: RedisClient) -> None:
    broker, metrics = MemoryBroker(PARTITIONS), Metrics()
    async with working(broker, client, metrics):
        await lose(redis, broker, client)
        await until_attached(client, [1, 2, 3, 4, 5])
        await eventually(lambda: counted(metrics, "commits_lost") > 0)
        await publish(broker, 6, AttachUserData((("n", 6),)))
        await until_attached(client, [1, 2, 3, 4, 5, 6])
    assert counted(metrics, "operations_reapplied") == 3
    assert counted(metrics, "commits_unrecoverable") == 0
    call = await RedisCallReader(client, KEYS, PARTITIONS).call(CALL)
    assert call is not None
    assert call.version == 7


async def test_what_is_not_at_hand_is_told_and_versions_go_on(redis: Redis, client: RedisClient) -> None:
    broker, metrics = MemoryBroker(PARTITIONS), Metrics()
    async with working(broker, client, metrics, limits=RecentLimits(operations=1)):
        await lose(redis, broker, client)
        await until_attached(client, [1, 2, 5])
        await eventually(lambda: counted(metrics, "commits_unrecoverable") == 2)
        await publish(broker, 6, AttachUserData((("n", 6),)))
        await until_attached(client, [1, 2, 5, 6])

        async def told() -> bool:
            return await versions_told(client) == sorted(set(await versions_told(client))) and (
                await versions_told(client)
            )[-2:] == [7, 8]

        await eventually(told)
    losses = await library(client).hgetall(KEYS.losses(HERE))
    assert (losses[b"commits"], losses[b"lost_for_good"]) == (b"3", b"2")


async def test_nobody_is_told_before_the_replicas_have_it(redis: Redis, client: RedisClient) -> None:
    broker, metrics = MemoryBroker(PARTITIONS), Metrics()
    async with working(broker, client, metrics, replicas=1):
        await begin(broker)
        await publish(broker, 1, AttachUserData((("n", 1),)))

        async def confirmed() -> bool:
            return await versions_told(client) == [1, 2]

        # Told is what the replicas have confirmed to the worker; what is attached it may still wait for.
        await eventually(confirmed)
        cut_off(redis)
        await publish(broker, 2, AttachUserData((("n", 2),)))
        await until_attached(client, [1, 2])
        await eventually(lambda: counted(metrics, "partition_takeovers") > PARTITIONS + 1)
        assert await versions_told(client) == [1, 2]
        reconnect(redis)

        async def told() -> bool:
            return await versions_told(client) == [1, 2, 3]

        await eventually(told, within_s=30)
    assert await attached(client) == (1, 2)
