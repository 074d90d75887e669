"""Services that start while the store is away: they say so at once, and get to work by themselves when it is there."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from parts.eventually import eventually
from parts.ports import free_port
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import calltag_program

MOST_S = 2.0
ALICE = ("alice", "demo")
Start = Callable[[str], "Started"]


class Started:
    """A service with its ports; it may not be ready."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.client, self.internal = free_port(), free_port()
        ports = {
            "CALLTAG_GATEWAY__PORT": str(self.client),
            "CALLTAG_NOTIFIER__PORT": str(self.client),
            "CALLTAG_INTERNAL__PORT": str(self.internal),
        }
        self.program = calltag_program(folder, {**environment, **ports}, name)
        self.program.start(lambda: self.alive() == 200)

    def alive(self) -> int:
        try:
            return httpx.get(f"http://127.0.0.1:{self.internal}/livez", timeout=MOST_S, verify=False).status_code
        except httpx.HTTPError:
            return 0

    async def ready(self) -> httpx.Response:
        async with httpx.AsyncClient(verify=False) as http:
            return await http.get(f"http://127.0.0.1:{self.internal}/readyz", timeout=MOST_S)

    async def is_ready(self) -> bool:
        return (await self.ready()).status_code == 200

    async def ask(self, method: str, path: str) -> httpx.Response:
        async with httpx.AsyncClient(auth=ALICE, verify=False) as http:
            return await http.request(method, f"http://127.0.0.1:{self.client}{path}", timeout=MOST_S)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that was not started yet."""
    folder = tmp_path / "own-redis"
    folder.mkdir()
    server = RedisServer(folder)
    yield server
    server.process.kill()


@pytest.fixture
def start(tmp_path: Path, rabbitmq: RabbitMq, store: RedisServer, amqp_prefix: str) -> Iterator[Start]:
    started: list[Started] = []
    environment = {
        "CALLTAG_AMQP__URL": rabbitmq.url,
        "CALLTAG_AMQP__PREFIX": amqp_prefix,
        "CALLTAG_REDIS__URL": store.url,
        "CALLTAG_PARTITIONS": "2",
    }
    topology = calltag_program(tmp_path / "topology", environment, "topology", "apply")
    topology.start(lambda: "partition queues" in topology.text())
    topology.stop()

    def begin(name: str) -> Started:
        started.append(Started(name, tmp_path / name, environment))
        return started[-1]

    yield begin
    for each in started:
        each.program.kill()


async def check_waiting(service: Started) -> None:
    """Alive, not ready, and it says what it waits for."""
    ready = await service.ready()
    assert ready.status_code == 503
    assert ready.json()["checks"]["installation"] is False
    assert service.alive() == 200


@pytest.mark.parametrize(("name", "path"), [("gateway", "/api/v2/me"), ("notifier", "/genesys/cometd")])
async def test_who_serves_clients_answers_at_once_and_becomes_ready(
    start: Start, store: RedisServer, name: str, path: str
) -> None:
    waiting = start(name)
    began = time.monotonic()
    answer = await waiting.ask("POST", path)
    assert time.monotonic() - began < MOST_S
    assert (answer.status_code, answer.headers["Retry-After"], answer.json()["statusCode"]) == (503, "1", 4)
    assert answer.headers["X-Request-Id"]
    with pytest.raises(InvalidStatus, match="503"):
        async with connect(f"ws://127.0.0.1:{waiting.client}{path}"):
            pass
    await check_waiting(waiting)
    store.start()
    await eventually(waiting.is_ready, within_s=30)
    assert (await waiting.ask("POST", path)).status_code == 400
    assert waiting.program.stop() == 0


async def test_a_worker_begins_nothing_before_and_becomes_ready(start: Start, store: RedisServer) -> None:
    waiting = start("worker")
    await check_waiting(waiting)
    store.start()
    await eventually(waiting.is_ready, within_s=30)
    written = waiting.program.text()
    assert "waiting_for_store" in written
    assert "lease_not_renewed" not in written
    assert waiting.program.stop() == 0


@pytest.mark.parametrize("name", ["gateway", "worker", "notifier"])
async def test_the_store_of_another_installation_ends_the_service(start: Start, store: RedisServer, name: str) -> None:
    store.start()
    with redis.Redis(port=store.port) as client:
        client.hset("calltag:installation", mapping={"partitions": 3, "schema": 1})
    store.process.stop()
    waiting = start(name)
    await check_waiting(waiting)
    store.start()
    assert waiting.program.wait(30) == 1
    assert waiting.program.text().splitlines()[-1] == (
        "calltag: this installation has 3 partitions, fixed when it was made; CALLTAG_PARTITIONS says 2"
    )
    assert "Traceback" not in waiting.program.text()
    with redis.Redis(port=store.port) as client:
        assert client.keys() == [b"calltag:installation"]


@pytest.mark.parametrize("name", ["gateway", "notifier", "worker"])
async def test_who_waits_ends_when_told_to(start: Start, name: str) -> None:
    waiting = start(name)
    assert waiting.program.stop() == 0
    assert "Traceback" not in waiting.program.text()
