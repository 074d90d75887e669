"""Broker or store away: a clear answer within two seconds, and back to work by itself."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

MOST_S = 2.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RabbitMq]:
    folder = tmp_path / "own-rabbitmq"
    folder.mkdir()
    server = RabbitMq(folder)
    try:
        server.start()
        yield server
    finally:
        server.end()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "own-redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.process.kill()


@pytest.fixture
def system(tmp_path: Path, broker: RabbitMq, store: RedisServer, amqp_prefix: str) -> Iterator[System]:
    with three_processes(tmp_path, broker.url, store.url, amqp_prefix) as running:
        yield running


async def refused_in_time(client: Agent, call: str) -> None:
    began = time.monotonic()
    response = await client.post(f"/me/calls/{call}", {"operationName": "AttachUserData", "userData": {"a": 0}})
    took_s = time.monotonic() - began
    assert (response.status_code, response.json()["statusCode"]) == (503, 4), response.text
    assert response.headers["Retry-After"]
    assert took_s < MOST_S


async def works_again(client: Agent, call: str) -> None:
    async def attached() -> bool:
        answer = await client.operate(call, "AttachUserData", prefer="wait=5", userData={"a": 1})
        return bool(answer["statusCode"] == 0)

    await eventually(attached, within_s=60)


async def begin(switch: Agent, call: str) -> None:
    facts = {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call,
             "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
    assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}


def voice(message: dict[str, Any]) -> str:
    assert (message["channel"], message["data"]["messageType"]) == (
        "/notifications/services", "ServiceStateChangeMessage"
    )  # fmt: skip
    [service] = message["data"]["services"]
    assert service["serviceName"] == "voice"
    return str(service["state"])


@pytest.mark.timeout(180)
async def test_the_broker_goes_away_and_comes_back(system: System, broker: RabbitMq, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice") as alice:
        await begin(switch, call_id)
        await alice.subscribe("/notifications/services")
        async with alice.listening():
            broker.process.kill()
            await refused_in_time(alice, call_id)
            assert voice(await alice.next_message()) == "Inactive"
            # Where it starts slowly, the session must not end for want of a connect.
            await asyncio.to_thread(broker.start)
            await works_again(alice, call_id)
            assert voice(await alice.next_message()) == "Active"


@pytest.mark.timeout(180)
async def test_the_store_goes_away_and_comes_back(system: System, store: RedisServer, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice") as alice:
        await begin(switch, call_id)
        store.process.kill()
        await refused_in_time(alice, call_id)
        store.start()
        await works_again(alice, call_id)


ALARMS = {
    "memory": (("set_vm_memory_high_watermark", "0.0000001"), ("set_vm_memory_high_watermark", "0.6")),
    "disk": (("set_disk_free_limit", "1000000000000000"), ("set_disk_free_limit", "10MB")),
}


@pytest.mark.timeout(180)
async def test_while_the_broker_is_short_of_memory_or_disk_nothing_that_was_accepted_is_lost(
    tmp_path: Path, rabbitmq: RabbitMq, redis_server: RedisServer, amqp_prefix: str, call_id: str
) -> None:
    redis_server.clear()
    with three_processes(tmp_path, rabbitmq.url, redis_server.url, amqp_prefix) as system:
        async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
            alice.about = call_id
            await begin(switch, call_id)
            await alice.next_message()
            versions: list[int] = []

            async def has_seen(version: int) -> None:
                while version not in versions:
                    versions.append((await alice.next_message())["ext"]["calltag"]["version"])

            async with alice.listening():
                for raise_it, end_it in ALARMS.values():
                    try:
                        await asyncio.to_thread(rabbitmq.control, *raise_it)
                        for _ in range(3):
                            await refused_in_time(alice, call_id)
                    finally:
                        await asyncio.to_thread(rabbitmq.control, *end_it)
                    await works_again(alice, call_id)
                accepted = await alice.operate(call_id, "AttachUserData", prefer="wait=10", userData={"a": 2})
                # What was refused in the end may have been taken when the alarm began.
                values = accepted["call"]["userData"]["a"]
                assert [value for value in values if value] == [1, 1, 2]
                await has_seen(1 + len(values))
                assert versions == list(range(2, 2 + len(values)))
