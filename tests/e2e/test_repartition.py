"""Another number of partitions: calls go on with their data, and nothing is moved that is not at rest."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from parts.agent import agent
from parts.command import calltag
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

USERS = {"alice": "15000", "bob": "15001", "carol": "15002"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of its own: an installation is all of one."""
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.process.kill()


def variables(rabbitmq: RabbitMq, store: RedisServer, prefix: str) -> dict[str, str]:
    return {
        "CALLTAG_AMQP__URL": rabbitmq.url, "CALLTAG_AMQP__PREFIX": prefix,
        "CALLTAG_REDIS__URL": store.url, "CALLTAG_PARTITIONS": "8",
    }  # fmt: skip


async def run(where: dict[str, str], folder: Path, *arguments: str) -> Any:
    return await asyncio.to_thread(lambda: calltag(*arguments, cwd=folder, **where))


async def begin(system: System, calls: dict[str, str]) -> None:
    """Calls with data, and sessions of agents."""
    async with agent(system, "switch") as switch:
        for call, user in calls.items():
            party = {"phoneNumber": USERS[user], "state": "Established"}
            started = {"eventId": call, "eventType": "CallStarted", "id": call, "parties": [party]}
            assert (await switch.post("/switch/events", started, Prefer="wait=10")).status_code == 200
            async with agent(system, user) as party_of:
                await party_of.post("/me", {"operationName": "StartContactCenterSession", "channels": ["voice"]})
                done = await party_of.operate(call, "AttachUserData", prefer="wait=10", userData={"call": call})
                assert done["statusCode"] == 0


async def check(system: System, calls: dict[str, str]) -> None:
    """Every call has its data, and takes more."""
    for call, user in calls.items():
        async with agent(system, user) as party:
            found = (await party.http.get(f"/api/v2/me/calls/{call}")).json()["call"]
            assert found["userData"]["call"] == call
            done = await party.operate(call, "UpdateUserData", prefer="wait=10", userData={"more": "1"})
            assert done["statusCode"] == 0, done
            me = (await party.http.get("/api/v2/me")).json()["user"]
            assert me["userName"] == user


async def test_an_installation_moves_to_other_numbers_of_partitions(
    tmp_path: Path, rabbitmq: RabbitMq, store: RedisServer
) -> None:
    prefix = f"parts{uuid4().hex[:8]}"
    where = variables(rabbitmq, store, prefix)
    calls = {f"c{number}-{prefix}": user for number, user in enumerate([*USERS] * 4)}
    with three_processes(tmp_path / "first", rabbitmq.url, store.url, prefix) as system:
        await begin(system, calls)
        refused = await run(where, tmp_path, "repartition", "3", "--yes")
        assert refused.returncode == 1
        assert refused.stderr.startswith("calltag: processes run: ")
    for number in (3, 16):
        moved = await run(where, tmp_path, "repartition", str(number), "--yes")
        assert moved.returncode == 0, moved.stderr
        assert f"now set CALLTAG_PARTITIONS={number}" in moved.stdout
        again = await run(where, tmp_path, "repartition", str(number), "--yes")
        assert (again.returncode, again.stderr) == (
            1,
            f"calltag: the installation has {number} partitions already\n",
        )
        others = {"CALLTAG_PARTITIONS": str(number)}
        with three_processes(tmp_path / str(number), rabbitmq.url, store.url, prefix, **others) as system:
            await check(system, calls)
            listed = await run({**where, **others}, tmp_path, "partitions")
            assert listed.returncode == 0, listed.stdout
        where |= others
    with redis.Redis.from_url(store.url) as client:
        assert client.hgetall("calltag:installation") == {b"partitions": b"16", b"schema": b"1"}


async def test_waiting_operations_are_not_left_behind(tmp_path: Path, rabbitmq: RabbitMq, store: RedisServer) -> None:
    """A gateway without a worker: its operations wait in the queues."""
    prefix = f"parts{uuid4().hex[:8]}"
    where = variables(rabbitmq, store, prefix)
    nothing = await run(where, tmp_path, "repartition", "3", "--yes")
    assert "nothing was ever started on this store" in nothing.stderr
    with three_processes(tmp_path / "first", rabbitmq.url, store.url, prefix) as system:
        await asyncio.to_thread(system.programs["worker"].stop)
        async with agent(system, "switch") as switch:
            party = {"phoneNumber": "15000", "state": "Established"}
            started = {"eventId": "1", "eventType": "CallStarted", "id": "1", "parties": [party]}
            assert (await switch.post("/switch/events", started)).status_code == 200
    waiting = await run(where, tmp_path, "repartition", "3", "--yes")
    assert waiting.returncode == 1
    assert f"operations wait: 1 in {prefix}.ops.p0" in waiting.stderr
    with redis.Redis.from_url(store.url) as client:
        assert client.hget("calltag:installation", "schema") == b"1"
        client.hset("calltag:installation", "schema", "moving to 5")
    other = await run(where, tmp_path, "repartition", "3", "--yes")
    assert "the installation is moving to 5 partitions: name that number to continue" in other.stderr
