"""Whoever asks Redis finds the new master, whatever has become of the old one."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial

import pytest
from redis.exceptions import ResponseError

from calltag.core.store.batching import ScriptBatcher
from calltag.core.store.client import RedisClient
from calltag.core.store.deployment import Deployment, client_of
from calltag.core.store.ports import StoreUnavailable
from parts.eventually import eventually
from parts.redis_asking import ask, wait_until
from parts.redis_cluster import RedisCluster
from parts.redis_sentinel import SERVICE, RedisSentinel

pytestmark = [
    pytest.mark.timeout(120),
    # redis-py lets go of its connections to a node that has left a cluster without closing them.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in.*__del__:pytest.PytestUnraisableExceptionWarning"),
]
Redis = RedisSentinel | RedisCluster
Way = Callable[[RedisClient, str], Awaitable[object]]
KEY = "t:{1}:moves"


async def one_by_one(client: RedisClient, value: str) -> None:
    async with client.exchange() as connection:
        await connection.set(KEY, value)


async def together(client: RedisClient, value: str) -> None:
    pipeline = client.pipeline()
    pipeline.set(KEY, value)
    await client.run(pipeline)


async def durably(client: RedisClient, value: str) -> None:
    source = "return redis.call('SET', KEYS[1], ARGV[1])"
    await client.run_and_wait(source, [KEY], [value], replicas=0, timeout_ms=1)


WAYS: Mapping[str, Way] = {
    "one by one": one_by_one,
    "together": together,
    "durably": durably,
    "in batches": lambda client, value: ScriptBatcher(client).command("SET", KEY, value),
}


@pytest.fixture(params=["sentinel", "cluster"])
def redis(request: pytest.FixtureRequest) -> Iterator[Redis]:
    made: Redis = request.getfixturevalue(f"redis_{request.param}")
    made.clear()
    yield made
    made.revive()


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    redis_cluster.clear()
    yield redis_cluster
    redis_cluster.revive()


def connect(redis: Redis) -> RedisClient:
    mode, service = ("sentinel", SERVICE) if isinstance(redis, RedisSentinel) else ("cluster", "")
    return client_of(Deployment(redis.url, mode, service), deadline_s=1)  # type: ignore[arg-type]


def master_of(redis: Redis, key: str = KEY) -> int:
    port = redis.master_of(key) if isinstance(redis, RedisCluster) else redis.master()
    assert port is not None
    return port


async def succeeds(way: Way, client: RedisClient) -> bool:
    try:
        await way(client, "after")
    except StoreUnavailable:
        return False
    return True


async def test_a_frozen_master_holds_up_nobody_when_it_is_replaced(redis: Redis) -> None:
    clients = {name: connect(redis) for name in WAYS}
    for name, way in WAYS.items():
        await way(clients[name], "before")
    master = redis.programs[master_of(redis)]
    master.signal(signal.SIGSTOP)
    try:
        # Each by itself: none of them finds it for another.
        found = [eventually(partial(succeeds, way, clients[name]), within_s=40) for name, way in WAYS.items()]
        await asyncio.gather(*found)
    finally:
        master.signal(signal.SIGCONT)
        await asyncio.gather(*(client.close() for client in clients.values()))
    await asyncio.to_thread(wait_until, redis.whole)


async def test_who_is_redirected_asks_there(cluster: RedisCluster) -> None:
    client, keys = connect(cluster), [f"{KEY}:{number}" for number in range(200)]
    batcher = ScriptBatcher(client)
    try:
        await asyncio.gather(*(batcher.command("SET", key, "1") for key in keys))
        old = master_of(cluster)
        replica = cluster.replica_of(old)
        await asyncio.to_thread(wait_until, lambda: fails_over(replica))
        await asyncio.to_thread(wait_until, lambda: master_of(cluster) == replica)
        assert set(await asyncio.gather(*(batcher.command("SET", key, "2") for key in keys))) == {True}
        await together(client, "3")
        await one_by_one(client, "4")
        assert client.server_of(KEY) == f"127.0.0.1:{replica}"
        # What was redirected had to ask one after another; no more.
        before = batcher.round_trips
        await asyncio.gather(*(batcher.command("SET", key, "5") for key in keys))
        assert batcher.round_trips == before + 1
    finally:
        await client.close()


def fails_over(replica: int) -> bool:
    with contextlib.suppress(ResponseError):
        # Refused while the replica is not in step.
        ask(replica, "CLUSTER", "FAILOVER")
        return True
    return False


async def test_connections_that_a_server_has_closed_are_made_anew(cluster: RedisCluster) -> None:
    client = connect(cluster)
    batcher = ScriptBatcher(client)
    try:
        for number in range(3):
            assert await batcher.command("SET", KEY, number)
            ask(master_of(cluster), "CLIENT", "KILL", "TYPE", "normal")
        assert await batcher.command("GET", KEY) == b"2"
    finally:
        await client.close()
