"""P1 and P2 under fire: workers that are killed lose nothing, double nothing and reorder nothing."""

import asyncio
from pathlib import Path

import pytest

from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

pytestmark = pytest.mark.heavy

OPERATIONS = 1_000
SENDERS = 10
PATIENT = {
    "CALLTAG_GATEWAY__MAX_BACKLOG_AGE_S": "120",
    "CALLTAG_REDIS__DEADLINE_S": "5",
    "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "10",
}
"""However long the next worker, and everything else, takes on a busy machine."""


@pytest.fixture
def system(tmp_path: Path, rabbitmq: RabbitMq, redis_server: RedisServer, amqp_prefix: str):  # type: ignore[no-untyped-def]
    redis_server.clear()
    with three_processes(tmp_path, rabbitmq.url, redis_server.url, amqp_prefix, **PATIENT) as running:
        yield running


async def send(client: Agent, call: str, sender: int) -> None:
    for number in range(OPERATIONS // SENDERS):
        answer = await client.operate(call, "AttachUserData", userData={"log": f"{sender}-{number}"})
        assert answer == {"statusCode": 0}


async def values(client: Agent, call: str) -> list[str]:
    found = (await client.http.get(f"/api/v2/me/calls/{call}")).json()["call"].get("userData", {}).get("log", [])
    return found if isinstance(found, list) else [found]


@pytest.mark.timeout(240)
async def test_a_thousand_values_survive_a_killed_worker(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        facts = {"eventId": f"s-{call_id}", "eventType": "CallStarted", "id": call_id,
                 "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}
        messages: list[dict[str, object]] = []

        async def listen() -> None:
            while True:
                messages.append(await alice.next_message())

        async def more_than(count: int) -> None:
            async def reached() -> bool:
                return len(await values(alice, call_id)) > count

            await eventually(reached, within_s=60)

        listening = asyncio.create_task(listen())
        sending = [asyncio.create_task(send(alice, call_id, sender)) for sender in range(SENDERS)]

        for victim in ("worker", "second", "third"):
            await more_than(min(len(await values(alice, call_id)) + 50, OPERATIONS - 1))
            system.programs[victim].kill()
            name = {"worker": "second", "second": "third", "third": "fourth"}[victim]
            await asyncio.to_thread(system.start, name, "worker")

        await asyncio.gather(*sending)
        await more_than(OPERATIONS - 1)
        found = await values(alice, call_id)
        assert len(found) == OPERATIONS
        for sender in range(SENDERS):
            mine = [value for value in found if value.startswith(f"{sender}-")]
            assert mine == [f"{sender}-{number}" for number in range(OPERATIONS // SENDERS)]

        await eventually(lambda: len(messages) > OPERATIONS, within_s=30)
        listening.cancel()
        versions = [message["ext"]["calltag"]["version"] for message in messages]  # type: ignore[index]
        assert versions == list(range(1, OPERATIONS + 2))


@pytest.mark.timeout(240)
async def test_workers_share_the_partitions_and_none_doubles(system: System) -> None:
    await asyncio.to_thread(system.start, "second", "worker")
    async with agent(system, "switch") as switch, agent(system, "alice") as alice:
        calls = [f"SHARED{number}" for number in range(24)]
        facts = [
            {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call,
             "parties": [{"phoneNumber": "15000", "state": "Established"}]}
            for call in calls
        ]  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}

        def both_work() -> bool:
            return all("partition_taken_over" in system.programs[name].text() for name in ("worker", "second"))

        async def attach(call: str) -> None:
            for number in range(20):
                assert await alice.operate(call, "AttachUserData", userData={"n": number}) == {"statusCode": 0}

        await asyncio.gather(*map(attach, calls))
        await eventually(both_work, within_s=30)
        for call in calls:
            after = await alice.operate(call, "AttachUserData", prefer="wait=10", userData={"n": 20})
            assert after["call"]["userData"]["n"] == list(range(21))
