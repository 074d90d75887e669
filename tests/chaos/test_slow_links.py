"""P1 to P3 and P6 on a slow link to Redis, and with a broker that takes no large messages."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from argon2 import PasswordHasher

from parts.eventually import eventually
from parts.memory import resident_mb
from parts.processes import Program
from parts.proxy import Proxy
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240)]

MIB = 1_048_576
WATCHERS = 40
UPDATES = 300
HELD = "x" * 65_000
SETTINGS = {
    "CALLTAG_DIRECTORY__DEMO": "false",
    "CALLTAG_PARTITIONS": "4",
    # On a busy machine the backlog of so slow a link grows older than gateways usually take operations for.
    "CALLTAG_GATEWAY__MAX_BACKLOG_AGE_S": "300",
    "CALLTAG_NOTIFIER__MAX_SESSIONS_PER_BROWSER": "-1",
    # What is not read from the streams need not be kept: forty copies of all events are 800 MB.
    "CALLTAG_EVENTS__PER_WATCHER_BYTES": str(4 * MIB),
}


def directory(folder: Path) -> str:
    """An agent, a switch, and those who supervise the agent."""
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("demo")
    watchers = [f"watcher-{number}" for number in range(WATCHERS)]
    users = [
        f'[[users]]\nid = "switch"\npassword_hash = "{hashed}"\nroles = ["switch"]\n',
        f'[[users]]\nid = "alice"\npassword_hash = "{hashed}"\nfeatures = ["api-voice"]\nsupervisors = {watchers}\n',
        '[[users.devices]]\nid = "d"\nnumber = "15000"\n',
        *(f'[[users]]\nid = "{each}"\npassword_hash = "{hashed}"\nroles = ["supervisor"]\n' for each in watchers),
    ]
    file = folder / "directory.toml"
    file.write_text("\n".join(users))
    return str(file)


@pytest.fixture(scope="module")
def frugal_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    server = RabbitMq(tmp_path_factory.mktemp("rabbitmq"), configuration=f"max_message_size = {MIB}\n")
    try:
        server.start()
        yield server
    finally:
        server.end()


@pytest.fixture
def redis_in_memory(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, "--appendonly", "no")
    server.start()
    yield server
    server.process.kill()


@dataclass
class Slow:
    """A calltag whose worker has a slow link to Redis."""

    system: System
    worker: Program
    link: Proxy


@pytest.fixture
def slow(tmp_path: Path, frugal_rabbitmq: RabbitMq, redis_in_memory: RedisServer) -> Iterator[Slow]:
    settings = {**SETTINGS, "CALLTAG_DIRECTORY__FILE": directory(tmp_path)}
    with (
        Proxy("127.0.0.1", redis_in_memory.port) as link,
        three_processes(
            tmp_path, frugal_rabbitmq.url, redis_in_memory.url, f"t{uuid4().hex[:12]}", **settings
        ) as system,
    ):
        assert system.programs.pop("worker").stop() == 0
        behind = {**system.environment, "CALLTAG_REDIS__URL": f"redis://127.0.0.1:{link.port}/0"}
        worker = replace(system, environment=behind).start("slow-worker", "worker")
        link.share(MIB)
        yield Slow(system, worker, link)


@dataclass
class Watcher:
    """A client that subscribes to the agent's calls, and notes the versions and numbers that it is told."""

    http: httpx.AsyncClient
    url: str
    client_id: str = ""
    told: list[tuple[int, int]] = field(default_factory=list)

    async def bayeux(self, channel: str, **more: Any) -> list[dict[str, Any]]:
        message = {"channel": channel, **({"clientId": self.client_id} if self.client_id else {}), **more}
        response = await self.http.post(f"{self.url}/genesys/cometd", json=[message], timeout=60)
        messages: list[dict[str, Any]] = orjson.loads(response.content)
        answer = messages.pop()
        assert answer["successful"], answer
        self.client_id = answer.get("clientId", self.client_id)
        return messages

    async def begin(self, channel: str) -> None:
        await self.bayeux("/meta/handshake", version="1.0", supportedConnectionTypes=["long-polling"])
        await self.bayeux("/meta/subscribe", subscription=channel)

    async def listen(self) -> None:
        while True:
            for message in await self.bayeux("/meta/connect", connectionType="long-polling"):
                data = message["data"]["call"].get("userData", {})
                self.told.append((message["ext"]["calltag"]["version"], data.get("number", 0)))


@asynccontextmanager
async def signed_in(system: System, user: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=system.gateway_url, timeout=30, verify=False) as http:
        answer = await http.get("/api/v2/me", auth=(user, "demo"))
        assert answer.status_code == 200, answer.text
        yield http


async def begin_call(system: System, call: str) -> None:
    async with httpx.AsyncClient(base_url=system.gateway_url, auth=("switch", "demo"), timeout=30) as http:
        started = {
            "eventId": "started", "eventType": "CallStarted", "id": call,
            "parties": [{"phoneNumber": "15000", "state": "Established"}], "userData": {"held": HELD},
        }  # fmt: skip
        answer = await http.post("/api/v2/switch/events", json=started, headers={"Prefer": "wait=10"})
        assert answer.json()["statusCode"] == 0, answer.text


async def test_many_updates_of_a_large_call_reach_all_who_watch_it(slow: Slow) -> None:
    call = uuid4().hex.upper()
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(signed_in(slow.system, "alice"))
        watchers = [
            Watcher(await stack.enter_async_context(signed_in(slow.system, f"watcher-{n}")), slow.system.cometd_url)
            for n in range(WATCHERS)
        ]
        await asyncio.gather(*(each.begin("/v2/users/alice/calls") for each in watchers))
        listening = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = [listening.create_task(each.listen()) for each in watchers]
        await begin_call(slow.system, call)
        before_mb, most_mb = resident_mb(slow.worker.pid), 0.0
        for number in range(1, UPDATES + 1):
            update = {"operationName": "UpdateUserData", "userData": {"number": number}}
            answer = await alice.post(f"/api/v2/me/calls/{call}", json=update)
            assert answer.json() == {"statusCode": 0}, answer.text

        def all_told() -> bool:
            nonlocal most_mb
            most_mb = max(most_mb, resident_mb(slow.worker.pid))
            return all(each.told and each.told[-1][1] == UPDATES for each in watchers)

        try:
            await eventually(all_told, within_s=200)
        except AssertionError:
            print([each.told[-1:] for each in watchers], slow.link.carried, slow.worker.text()[-3000:])
            raise
        for task in tasks:
            task.cancel()
    in_order = [(number + 1, number) for number in range(UPDATES + 1)]
    assert [each.told == in_order for each in watchers] == [True] * WATCHERS
    assert most_mb - before_mb < 48
