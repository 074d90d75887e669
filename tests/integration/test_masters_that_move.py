"""Whoever asks Redis finds the new master, whatever has become of the old one."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial

import pytest
import structlog
from redis.crc import key_slot
from redis.exceptions import ResponseError

from calltag.core.store.client import RedisClient, open_redis
from calltag.core.store.connection import RedisServer, Request
from calltag.core.store.lua_script import LuaScript
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.routing import ClusterRouter, Deployment
from calltag.core.store.scripts import ScriptBatcher
from parts.eventually import eventually, turns
from parts.redis_asking import ask, wait_until
from parts.redis_cluster import RedisCluster
from parts.redis_sentinel import SERVICE, RedisSentinel

pytestmark = [
    pytest.mark.timeout(120),
]
Redis = RedisSentinel | RedisCluster
Way = Callable[[RedisClient, str], Awaitable[object]]
KEY = "t:{1}:moves"
_PATIENT_S = 20.0
"""For what a busy machine is to get done, and no server keeps waiting."""
_STUCK_S = 3.0
"""For what no server answers: long enough for others to get their answer meanwhile."""


async def one_by_one(client: RedisClient, value: str) -> None:
    await client.execute("SET", KEY, value)


async def together(client: RedisClient, value: str) -> None:
    await client.execute_all([("SET", KEY, value), ("EXISTS", KEY)])


async def durably(client: RedisClient, value: str) -> None:
    script = LuaScript("return redis.call('SET', KEYS[1], ARGV[1])", idempotent=True)
    await client.run_and_wait(script, [KEY], [value], replicas=0, timeout_ms=1)


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
    wait_until(lambda: settled(redis_cluster))


def settled(cluster: RedisCluster) -> bool:
    """Whether no server of the cluster doubts another one, which it may still do when all is well again."""
    return cluster.whole() and not any(b"fail" in ask(port, "CLUSTER", "NODES") for port in cluster.ports)


def connect(redis: Redis, deadline_s: float = 1.0) -> RedisClient:
    mode, service = ("sentinel", SERVICE) if isinstance(redis, RedisSentinel) else ("cluster", "")
    return open_redis(Deployment(redis.url, mode, service), deadline_s=deadline_s)  # type: ignore[arg-type]


def master_of(redis: Redis, key: str = KEY) -> int:
    port = redis.master_of(key) if isinstance(redis, RedisCluster) else redis.master()
    assert port is not None
    return port


async def succeeds(way: Way, client: RedisClient, value: str = "after") -> bool:
    try:
        await way(client, value)
    except StoreUnavailable:
        return False
    return True


async def test_a_frozen_master_holds_up_nobody_when_it_is_replaced(redis: Redis) -> None:
    clients = {name: connect(redis) for name in WAYS}
    for name, way in WAYS.items():
        await eventually(partial(succeeds, way, clients[name], "before"))
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


async def test_who_only_asks_whether_the_masters_answer_finds_the_new_one(cluster: RedisCluster) -> None:
    client = connect(cluster)
    try:
        await eventually(client.ping)
        old = master_of(cluster)
        cluster.programs[old].kill()
        await eventually(client.ping, within_s=40)
        assert old not in {int(each.name.rpartition(":")[2]) for each in await client.router.masters()}
    finally:
        await client.close()


async def test_a_demoted_master_is_left_by_every_connection(redis_sentinel: RedisSentinel) -> None:
    redis_sentinel.clear()
    client = connect(redis_sentinel, _PATIENT_S)
    try:
        source = "return string.match(redis.call('INFO', 'replication'), 'role:(%a+)')"
        role = LuaScript(source, idempotent=True)
        # As many connections as may be under way at a time have been used.
        for batchers in ([ScriptBatcher(client) for _ in range(12)] for _ in range(2)):
            await asyncio.gather(*(each.calls(role)([KEY], []) for each in batchers))
        old = master_of(redis_sentinel)
        ask(redis_sentinel.sentinel_ports[0], "SENTINEL", "FAILOVER", SERVICE)
        await asyncio.to_thread(wait_until, lambda: redis_sentinel.master() not in (None, old))
        await asyncio.to_thread(wait_until, redis_sentinel.whole)
        batcher = ScriptBatcher(client)
        for number in range(12):
            assert await batcher.calls(role)([KEY], []) == b"master"
            assert await batcher.command("SET", KEY, number)
    finally:
        await client.close()


async def test_who_is_redirected_asks_there(cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    client, keys = connect(cluster, _PATIENT_S), [f"{KEY}:{number}" for number in range(200)]
    batcher = ScriptBatcher(client)
    try:
        await asyncio.gather(*(batcher.command("SET", key, "1") for key in keys))
        old = master_of(cluster)
        replica = cluster.replica_of(old)
        await asyncio.to_thread(wait_until, lambda: fails_over(replica))
        await asyncio.to_thread(wait_until, lambda: all(master_at(port) == replica for port in cluster.ports))
        exchange, sizes = RedisServer.exchange, list[int]()

        async def counted(server: RedisServer, requests: Sequence[Request]) -> None:
            sizes.append(len(requests))
            await exchange(server, requests)

        with monkeypatch.context() as patched:
            patched.setattr(RedisServer, "exchange", counted)
            assert set(await asyncio.gather(*(batcher.command("SET", key, "2") for key in keys))) == {b"OK"}
        assert sizes == [200, 200], "nothing is asked for by itself"
        await together(client, "3")
        await one_by_one(client, "4")
        server = client.server_of(KEY)
        assert server is not None
        assert server.name == f"127.0.0.1:{replica}"
        before = batcher.round_trips
        await asyncio.gather(*(batcher.command("SET", key, "5") for key in keys))
        assert batcher.round_trips == before + 1
    finally:
        await client.close()


def master_at(port: int) -> int:
    """Return the master of KEY in the view of one server, to which that server redirects clients."""
    slot = key_slot(KEY.encode())
    return next(int(node[1]) for first, last, node, *_ in ask(port, "CLUSTER", "SLOTS") if first <= slot <= last)


def fails_over(replica: int) -> bool:
    with contextlib.suppress(ResponseError):
        # Refused while the replica is not in step.
        ask(replica, "CLUSTER", "FAILOVER")
        return True
    return False


@pytest.mark.parametrize("way", WAYS)
async def test_connections_that_a_server_has_closed_are_made_anew(cluster: RedisCluster, way: str) -> None:
    client = connect(cluster, _PATIENT_S)
    run = partial(WAYS[way], client)
    try:
        await asyncio.gather(*(run("0") for _ in range(3)))
        for number in range(3):
            ask(master_of(cluster), "CLIENT", "KILL", "TYPE", "normal")
            await turns()
            await run(str(number))
        assert await reads(client, KEY) == b"2"
    finally:
        await client.close()


async def reads(client: RedisClient, key: str) -> object:
    return await client.execute("GET", key)


def others_key(cluster: RedisCluster, master: int | None = None) -> str:
    """A key that another master has, than that of KEY if none is given."""
    avoided = cluster.master_of(KEY) if master is None else master
    keys = (f"t:{{{number}}}:moves" for number in range(100))
    return next(key for key in keys if cluster.master_of(key) != avoided)


@contextlib.contextmanager
def moving(cluster: RedisCluster, to: int) -> Iterator[None]:
    """The slot of KEY is on its way to another master."""
    source, slot = cluster.master_of(KEY), key_slot(KEY.encode())
    names = {port: ask(port, "CLUSTER", "MYID") for port in (source, to)}
    ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[to])
    try:
        yield
    finally:
        for port in (to, source):
            ask(port, "CLUSTER", "SETSLOT", slot, "STABLE")


@pytest.mark.parametrize("connections", [0, 1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
async def test_a_key_is_found_while_its_slot_moves(cluster: RedisCluster, way: str, connections: int) -> None:
    client, other = connect(cluster, _PATIENT_S), others_key(cluster)
    target = cluster.master_of(other)
    try:
        await asyncio.gather(*(reads(client, other) for _ in range(connections)))
        await reads(client, KEY)
        if not connections:
            # As one that has just joined, of which the others tell when it has its first slot.
            assert isinstance(client.router, ClusterRouter)
            del client.router._servers["127.0.0.1", target]
        with moving(cluster, target):
            await WAYS[way](client, "moved")
            assert await reads(client, KEY) == b"moved"
            await asyncio.to_thread(cluster.clear)
    finally:
        await client.close()


async def test_no_connection_is_left_when_a_command_failed_before_the_end(cluster: RedisCluster) -> None:
    client, other = connect(cluster, _PATIENT_S), others_key(cluster)
    await asyncio.gather(reads(client, KEY), reads(client, other))
    master = cluster.master_of(KEY)
    cluster.programs[master].kill()
    assert not await succeeds(one_by_one, client)
    await client.close()
    await asyncio.to_thread(wait_until, lambda: not users(cluster.master_of(other)))


def users(port: int) -> set[bytes]:
    """Who is connected to a server, apart from who asks that."""
    listed = ask(port, "CLIENT", "LIST", "TYPE", "normal").splitlines()
    return {line.split()[0] for line in listed if b"cmd=client|list" not in line}


@contextlib.contextmanager
def without_a_slot(cluster: RedisCluster, slot: int) -> Iterator[None]:
    owner = cluster.master_of(KEY)
    for port in cluster.ports:
        ask(port, "CLUSTER", "DELSLOTS", slot)
    try:
        yield
    finally:
        ask(owner, "CLUSTER", "ADDSLOTS", slot)
        wait_until(lambda: settled(cluster))


@pytest.mark.parametrize("way", WAYS)
async def test_a_slot_that_nobody_had_is_found(cluster: RedisCluster, way: str) -> None:
    client = connect(cluster)
    try:
        with without_a_slot(cluster, key_slot(KEY.encode())):
            assert not await succeeds(WAYS[way], client)
        await eventually(partial(succeeds, WAYS[way], client))
    finally:
        await client.close()


async def test_a_cluster_that_is_down_costs_no_connection(cluster: RedisCluster) -> None:
    client, other = connect(cluster, _PATIENT_S), others_key(cluster)
    port = cluster.master_of(other)
    try:
        await asyncio.gather(*(reads(client, other) for _ in range(3)))
        before = users(port)
        with without_a_slot(cluster, key_slot(KEY.encode())):
            for way in WAYS.values():
                assert not await succeeds(way, client)
        await eventually(partial(succeeds, one_by_one, client))
        assert before <= users(port)
    finally:
        await client.close()


@contextlib.contextmanager
def frozen_for_good(cluster: RedisCluster, master: int) -> Iterator[None]:
    """A master does not answer, and nobody takes its place."""
    stopped = [cluster.programs[port] for port in (cluster.replica_of(master), master)]
    for port in cluster.ports:
        ask(port, "CONFIG", "SET", "cluster-require-full-coverage", "no")
    for program in stopped:
        program.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for program in stopped:
            program.signal(signal.SIGCONT)
        wait_until(lambda: settled(cluster))
        for port in cluster.ports:
            ask(port, "CONFIG", "SET", "cluster-require-full-coverage", "yes")


async def test_who_asks_a_frozen_master_takes_no_place_from_others(cluster: RedisCluster) -> None:
    client, other = connect(cluster, _STUCK_S), others_key(cluster)
    try:
        await asyncio.gather(reads(client, KEY), reads(client, other))
        with frozen_for_good(cluster, cluster.master_of(KEY)):
            stuck = [asyncio.create_task(succeeds(one_by_one, client)) for _ in range(200)]
            await turns()
            await reads(client, other)
            assert not any(task.done() for task in stuck), "it waited for others"
            assert not any(await asyncio.gather(*stuck))
    finally:
        await client.close()


async def test_who_begins_while_a_master_is_frozen_finds_the_others(cluster: RedisCluster) -> None:
    async def found(client: RedisClient, key: str) -> bool:
        try:
            await reads(client, key)
        except StoreUnavailable:
            return False
        return True

    for master in cluster.masters():
        other = others_key(cluster, master)
        with frozen_for_good(cluster, master):
            client = connect(cluster)
            try:
                await eventually(partial(found, client, other))
            finally:
                await client.close()


async def test_the_first_calls_share_round_trips(cluster: RedisCluster) -> None:
    client = connect(cluster, _PATIENT_S)
    batcher = ScriptBatcher(client)
    try:
        answered = await asyncio.gather(*(batcher.command("SET", f"t:{{{number}}}", "1") for number in range(3000)))
        assert set(answered) == {b"OK"}
        assert batcher.round_trips < 10
    finally:
        await client.close()


async def test_masters_are_looked_for_at_rest_while_no_server_is_up(cluster: RedisCluster) -> None:
    for program in cluster.programs.values():
        program.kill()
    client, ends = connect(cluster), time.monotonic() + 1
    with structlog.testing.capture_logs() as logs:
        while time.monotonic() < ends:
            assert not await succeeds(one_by_one, client)
    await client.close()
    assert 0 < len(logs) < 10
