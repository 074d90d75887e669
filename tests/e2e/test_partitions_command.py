"""`calltag partitions`, as an operator uses it: who works on what, what waits, and whether all is well."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from calltag.core.bus.partitioning import partition_of
from e2e.test_official_clients import begin
from parts.agent import agent
from parts.command import calltag
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.samples import sample
from parts.system import System, three_processes

PARTITIONS = 8
Row = dict[str, Any]


@pytest.fixture
def running(tmp_path: Path, rabbitmq: RabbitMq, redis_server: RedisServer, amqp_prefix: str) -> Iterator[System]:
    redis_server.clear()
    with three_processes(tmp_path, rabbitmq.url, redis_server.url, amqp_prefix) as made:
        yield made


async def listed(system: System) -> tuple[int, list[Row]]:
    done = await asyncio.to_thread(calltag, "partitions", "--json", cwd=system.folder, **system.environment)
    assert done.stderr == "", done.stderr
    return done.returncode, [orjson.loads(line) for line in done.stdout.splitlines()]


async def readiness(system: System, name: str) -> Row:
    port = system.programs[name].environment["CALLTAG_INTERNAL__PORT"]
    async with httpx.AsyncClient() as http:
        told: Row = (await http.get(f"http://127.0.0.1:{port}/readyz?verbose")).json()
    return told["details"]["partitions"]  # type: ignore[no-any-return]


async def test_who_works_on_what_and_what_waits(running: System, call_id: str) -> None:
    me = (await readiness(running, "worker"))["worker"]
    everything = list(range(PARTITIONS))

    async def owned_by_one() -> bool:
        code, rows = await listed(running)
        return (code, {(each["state"], *each["owners"]) for each in rows}) == (0, {("owned", me)})

    await eventually(owned_by_one)
    assert await readiness(running, "worker") == {
        "worker": me, "owned": everything, "consumed": everything, "missing": [],
    }  # fmt: skip
    here = partition_of(call_id, PARTITIONS)
    async with agent(running, "switch") as switch, agent(running, "bob") as bob:
        await begin(switch, call_id)
        code, rows = await listed(running)
        assert (code, [each["partition"] for each in rows]) == (0, everything)
        assert {name: rows[here][name] for name in ("epoch", "depth", "oldest_age_ms", "consumers")} == {
            "epoch": 1, "depth": 0, "oldest_age_ms": 0, "consumers": 1,
        }  # fmt: skip
        assert await sample(running, "worker", "calltag_partitions_owned") == PARTITIONS
        assert await sample(running, "worker", "calltag_partitions_missing") == 0

        running.programs["worker"].kill()
        for number in range(3):
            assert await bob.operate(call_id, "AttachUserData", userData={"n": number}) == {"statusCode": 0}

        async def unowned() -> bool:
            code, rows = await listed(running)
            return code == 3 and {each["state"] for each in rows} == {"unowned"}

        await eventually(unowned)
        _, rows = await listed(running)
        assert rows[here] == {
            "partition": here, "state": "unowned", "owners": [], "epoch": 1, "depth": 3, "ready": 3,
            "unacknowledged": None, "consumers": 0, "oldest_age_ms": None,
        }  # fmt: skip
        shown = await asyncio.to_thread(calltag, "partitions", cwd=running.folder, **running.environment)
        assert shown.returncode == 3
        assert "unowned" in shown.stdout.splitlines()[1 + here]
    running.start("worker", "worker")

    async def done() -> bool:
        _, rows = await listed(running)
        return (rows[here]["state"], rows[here]["epoch"], rows[here]["depth"]) == ("owned", 2, 0)

    await eventually(done)


async def test_what_is_not_there_is_said(tmp_path: Path, rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str) -> None:
    where = {
        "CALLTAG_AMQP__URL": rabbitmq.url, "CALLTAG_AMQP__PREFIX": amqp_prefix, "CALLTAG_REDIS__URL": redis_url,
    }  # fmt: skip
    never = calltag("partitions", cwd=tmp_path, **where)
    assert (never.returncode, "nothing was ever started" in never.stderr) == (1, True)
    away = calltag("partitions", cwd=tmp_path, **{**where, "CALLTAG_REDIS__URL": "redis://127.0.0.1:1"})
    assert (away.returncode, away.stderr.startswith("calltag: Redis is not usable")) == (1, True)


async def test_queues_that_are_missing_are_told(running: System) -> None:
    elsewhere = {**running.environment, "CALLTAG_AMQP__PREFIX": "nothing-here"}
    told = await asyncio.to_thread(calltag, "partitions", "--json", cwd=running.folder, **elsewhere)
    assert told.returncode == 3
    assert {orjson.loads(line)["state"] for line in told.stdout.splitlines()} == {"no queue"}
