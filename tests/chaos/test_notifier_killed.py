"""P3 and P4 under fire: notifiers that are killed lose nothing, and clients never have to shake hands again."""

import asyncio
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from parts.agent import agent
from parts.eventually import eventually
from parts.ports import free_port
from parts.processes import Program
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

pytestmark = pytest.mark.heavy

OPERATIONS = 160
# How long a busy machine takes proves nothing.
PATIENT = {"CALLTAG_REDIS__DEADLINE_S": "5", "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "10"}
NAMES = ("notifier", "second", "third")
CALLS = "/v2/me/calls"


class Wanderer:
    """A client whose every request goes to another notifier, as by a balancer without stickiness."""

    def __init__(self, http: httpx.AsyncClient, urls: list[str], *, ack: bool) -> None:
        self._http = http
        self._urls = itertools.cycle(urls)
        self._ack = ack
        self._batch = 0
        self._client_id = ""
        self.failures = 0
        self.messages: list[dict[str, Any]] = []

    async def _send(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        response = await self._http.post(next(self._urls), json=[message], timeout=40)
        response.raise_for_status()
        answer: list[dict[str, Any]] = response.json()
        assert answer[-1]["successful"], answer[-1]
        return answer

    async def begin(self) -> None:
        hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
        [reply] = await self._send(hello | ({"ext": {"ack": True}} if self._ack else {}))
        self._client_id = reply["clientId"]
        await self._send({"channel": "/meta/subscribe", "clientId": self._client_id, "subscription": CALLS})

    def message(self, *, failed: bool = False) -> dict[str, Any]:
        """The next connect; after a failure it says so as the official client does."""
        message: dict[str, Any] = {
            "channel": "/meta/connect", "clientId": self._client_id, "connectionType": "long-polling",
        }  # fmt: skip
        if failed:
            message["advice"] = {"timeout": 0}
        if self._ack:
            message["ext"] = {"ack": self._batch}
        return message

    async def connect(self, *, failed: bool = False) -> None:
        """Send a connect, and take what comes with its reply."""
        *events, reply = await self._send(self.message(failed=failed))
        self._batch = reply.get("ext", {}).get("ack", 0)
        self.messages += events

    async def connect_for_ever(self) -> None:
        """Connect again and again, after a failure at once."""
        failed = True
        while True:
            try:
                await self.connect(failed=failed)
                failed = False
            except httpx.HTTPError:
                failed = True
                self.failures += 1

    def go_to(self, url: str) -> None:
        """Use this notifier only."""
        self._urls = itertools.cycle([url])

    def versions(self) -> list[int]:
        """The versions of the call in the order in which they came; repeats, which have the same event id, left out."""
        seen: dict[str, int] = {}
        for message in self.messages:
            told = message["ext"]["calltag"]
            assert seen.setdefault(told["eventId"], told["version"]) == told["version"]
        return list(seen.values())


@pytest.fixture
def system(tmp_path: Path, rabbitmq: RabbitMq, redis_server: RedisServer, amqp_prefix: str) -> Iterator[System]:
    redis_server.clear()
    with three_processes(tmp_path, rabbitmq.url, redis_server.url, amqp_prefix, **PATIENT) as running:
        yield running


@pytest.mark.timeout(240)
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM"])
async def test_sessions_outlive_their_notifiers(system: System, call_id: str, end: str) -> None:
    ports = {"notifier": int(system.cometd_url.rpartition(":")[2]), "second": free_port(), "third": free_port()}
    for name in NAMES[1:]:
        await asyncio.to_thread(system.start, name, "notifier", port_of="NOTIFIER", port=ports[name])
    urls = [f"http://127.0.0.1:{port}/genesys/cometd" for port in ports.values()]
    async with agent(system, "switch") as switch, agent(system, "alice") as alice:
        wanderers = [
            Wanderer(alice.http, urls[turn:] + urls[:turn], ack=ack) for turn in range(3) for ack in (True, False)
        ]
        for each in wanderers:
            await each.begin()
        facts = {"eventId": f"s-{call_id}", "eventType": "CallStarted", "id": call_id,
                 "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}
        async with asyncio.TaskGroup() as group:
            connecting = [group.create_task(each.connect_for_ever()) for each in wanderers]

            async def attach() -> None:
                for number in range(OPERATIONS):
                    answer = await alice.operate(call_id, "AttachUserData", userData={"n": number})
                    assert answer == {"statusCode": 0}

            attaching = group.create_task(attach())

            async def progress(versions: int) -> None:
                def reached() -> bool:
                    return all(each.versions()[-1:] >= [versions] for each in wanderers)

                await eventually(reached, within_s=60)

            for turn, name in enumerate(NAMES):
                await progress(OPERATIONS // 4 * (turn + 1))
                program = system.programs[name]
                if end == "SIGKILL":
                    program.kill()
                else:
                    assert await asyncio.to_thread(program.stop) == 0
                await asyncio.to_thread(system.start, name, "notifier", port_of="NOTIFIER", port=ports[name])
            await attaching
            await progress(OPERATIONS + 1)
            for task in connecting:
                task.cancel()
    for each in wanderers:
        assert each.versions() == list(range(1, OPERATIONS + 2))


def has_suspended(notifier: Program) -> bool:
    """Whether a connect is suspended at a notifier."""
    internal = f"http://127.0.0.1:{notifier.environment['CALLTAG_INTERNAL__PORT']}/metrics"
    return "calltag_cometd_suspended_connects 1.0" in httpx.get(internal).text


def leases_in(server: RedisServer) -> int:
    """How many notifiers have a lease."""
    with redis.Redis(port=server.port) as client:
        return sum(1 for _ in client.scan_iter("*:notifier:*"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no-ack"])
async def test_a_home_that_was_frozen_past_its_lease_answers_nothing_from_memory(
    system: System, redis_server: RedisServer, call_id: str, ack: bool
) -> None:
    frozen, first = system.programs["notifier"], f"{system.cometd_url}/genesys/cometd"
    port = free_port()
    await asyncio.to_thread(system.start, "second", "notifier", port_of="NOTIFIER", port=port)
    second = f"http://127.0.0.1:{port}/genesys/cometd"
    async with agent(system, "switch") as switch, agent(system, "alice") as alice:
        client = Wanderer(alice.http, [first], ack=ack)
        await client.begin()
        facts = {"eventId": f"s-{call_id}", "eventType": "CallStarted", "id": call_id,
                 "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}
        await client.connect(failed=True)
        while not client.messages:
            await client.connect()

        suspended = asyncio.create_task(alice.http.post(first, json=[client.message()], timeout=60))
        await eventually(lambda: has_suspended(frozen))
        frozen.signal(signal.SIGSTOP)
        try:
            client.go_to(second)
            await client.connect(failed=True)
            for number in range(3):
                assert (await alice.operate(call_id, "AttachUserData", userData={"n": number})) == {"statusCode": 0}
            while client.versions()[-1] < 4:
                await client.connect()
            await eventually(lambda: leases_in(redis_server) == 1)
        finally:
            frozen.signal(signal.SIGCONT)
        late = await suspended
        assert (late.status_code, late.text) == (500, "replaced by a newer /meta/connect")

        assert (await alice.operate(call_id, "AttachUserData", userData={"n": 4})) == {"statusCode": 0}
        client.go_to(first)
        while client.versions()[-1] < 5:
            await client.connect()
        assert client.versions() == [1, 2, 3, 4, 5]
