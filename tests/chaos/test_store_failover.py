"""Fail-over of Redis, with whole processes: under Sentinels and in a cluster."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from calltag.core.broker.ports import partition_of
from calltag.core.store.keys import Keys
from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.redis_asking import ask, wait_until
from parts.redis_cluster import RedisCluster
from parts.redis_sentinel import SERVICE, RedisSentinel
from parts.system import System, three_processes

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240)]
PARTITIONS = 8


@pytest.fixture
def sentinel(redis_sentinel: RedisSentinel) -> Iterator[RedisSentinel]:
    redis_sentinel.clear()
    yield redis_sentinel
    bring_back(redis_sentinel)


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    redis_cluster.clear()
    yield redis_cluster
    bring_back(redis_cluster)


def settings_of(redis: RedisSentinel | RedisCluster, wait: int) -> dict[str, str]:
    """Settings for it, with deadlines for a busy machine."""
    mode = "sentinel" if isinstance(redis, RedisSentinel) else "cluster"
    return {
        "CALLTAG_REDIS__MODE": mode,
        "CALLTAG_REDIS__SENTINEL_SERVICE": SERVICE,
        "CALLTAG_REDIS__WAIT_REPLICAS": str(wait),
        "CALLTAG_REDIS__DEADLINE_S": "2",
        # Nobody connects while the store is away.
        "CALLTAG_NOTIFIER__MAX_INTERVAL_S": "120",
    }


@asynccontextmanager
async def call_of_alice(system: System, call: str) -> AsyncIterator[Agent]:
    """A call that alice is on; she may send, and sees its events."""
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        facts = {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call,
                 "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}
        yield alice


async def values(client: Agent, call: str) -> list[str]:
    """What was attached, in order; nothing while the store is away."""
    answer = await client.http.get(f"/api/v2/me/calls/{call}")
    found = answer.json().get("call", {}).get("userData", {}).get("log", []) if answer.status_code == 200 else []
    return found if isinstance(found, list) else [found]


async def attach(client: Agent, call: str, value: str) -> None:
    """Attach until it is accepted, under one idempotency key."""
    body = {"operationName": "AttachUserData", "userData": {"log": value}}
    for _ in range(300):
        answer = await client.post(f"/me/calls/{call}", body, **{"Idempotency-Key": f"{call}-{value}"})
        if answer.status_code == 200:
            assert answer.json() == {"statusCode": 0}
            return
        assert answer.status_code == 503, answer.text
        await asyncio.sleep(0.1)
    pytest.fail("it was not accepted")


def master_of(redis: RedisSentinel | RedisCluster, call: str, prefix: str = "calltag") -> int:
    if isinstance(redis, RedisCluster):
        return redis.master_of(Keys(prefix).epoch(partition_of(call, PARTITIONS)))
    master = redis.master()
    assert master is not None
    return master


def is_master(port: int) -> bool:
    return bool(ask(port, "ROLE")[0] == b"master")


def bring_back(redis: RedisSentinel | RedisCluster) -> None:
    """What was killed is started again; what was frozen goes on, and takes itself for the master for a moment."""
    for each in redis.programs.values():
        if each.running:
            each.signal(signal.SIGCONT)
    redis.revive()


@pytest.mark.parametrize(
    "fault", [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGSTOP, id="frozen")]
)
@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_with_wait_each_accepted_operation_takes_effect_once_and_in_order(
    kind: str,
    fault: signal.Signals,
    tmp_path: Path,
    rabbitmq: RabbitMq,
    request: pytest.FixtureRequest,
    amqp_prefix: str,
    call_id: str,
) -> None:
    redis: RedisSentinel | RedisCluster = request.getfixturevalue(kind)
    with three_processes(tmp_path, rabbitmq.url, redis.url, amqp_prefix, **settings_of(redis, 1)) as system:
        async with call_of_alice(system, call_id) as alice:
            for number in range(20):
                await attach(alice, call_id, f"v{number}")
            victim = master_of(redis, call_id)
            successor = redis.replica_of(victim) if isinstance(redis, RedisCluster) else None
            await eventually(lambda: _count(alice, call_id, 20))
            redis.programs[victim].signal(fault)
            for number in range(20, 60):
                await attach(alice, call_id, f"v{number}")
            if successor is not None:
                # The new master has no replica: what is accepted waits until it has one again.
                await asyncio.to_thread(wait_until, lambda: is_master(successor))
                await asyncio.to_thread(bring_back, redis)
            await eventually(lambda: _count(alice, call_id, 60), within_s=40)
            assert await values(alice, call_id) == [f"v{number}" for number in range(60)]
            versions: list[int] = []
            while len(versions) < 61:
                message = await next_message(alice)
                versions.append(message["ext"]["calltag"]["version"])
            assert versions == list(range(1, 62))


async def next_message(client: Agent) -> dict[str, Any]:
    """The next message; while the store has no master, a connect is answered with 503."""
    while True:
        try:
            return await client.next_message()
        except AssertionError:
            await asyncio.sleep(0.1)


async def _count(client: Agent, call: str, count: int) -> bool:
    return len(await values(client, call)) >= count
