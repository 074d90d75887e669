"""From `helm template` to an upgrade: real processes with the rendered environment, replaced as a rollout does."""

import asyncio
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

import chart
from calltag.core.backends import amqp_settings
from calltag.core.broker.rabbitmq import apply_topology
from calltag.core.http.scope import COMETD_PATHS
from calltag.core.settings import load_settings
from chaos.steady_load import Load, begin_calls, check_nothing_lost_or_doubled, until_all_arrived
from parts.agent import agent
from parts.eventually import eventually
from parts.haproxy import HaProxy, Upstream
from parts.ports import free_port
from parts.processes import Program
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, calltag_program, is_ready
from unit.deploy.manifests import Manifest, environment, pods

pytestmark = pytest.mark.heavy

SERVED: Final = ("gateway", "notifier")
VALUES: Final[Mapping[str, Any]] = {
    "directory": {"existingSecret": ""},
    "preStopSeconds": 0,
    "settings": {
        "partitions": 4,
        "directory": {"demo": True, "demo_on_network": True},
        "drain_delay_s": 4,
        "worker": {"lease_s": 6},
        "redis": {"deadline_s": 5},
        "amqp": {"publish_deadline_s": 5},
    },
}
UPGRADED: Final = chart.merged(VALUES, {"settings": {"log": {"level": "debug"}, "operation_memory_s": 1_800}})


class Rollouts:
    """Stands for Kubernetes: a pod of each Deployment, and places for its successor behind a front."""

    def __init__(self, folder: Path, variables: Mapping[str, str], places: Mapping[str, list[Upstream]]) -> None:
        self.folder = folder
        self.variables = variables
        self.places = {name: list(free) for name, free in places.items()}
        self.running: dict[str, tuple[Program, float]] = {}

    def start(self, name: str, pod: Manifest) -> None:
        """Start a pod, and wait until its readiness probe passes."""
        place = self.places[name].pop()
        own = {"CALLTAG_INTERNAL__PORT": str(place.internal)}
        if name in SERVED:
            own[f"CALLTAG_{name.upper()}__PORT"] = str(place.port)
        given = {variable: value for variable, value in environment(pod).items() if "/" not in value}
        folder = self.folder / f"{name}-{place.internal}"
        program = calltag_program(folder, {**given, **self.variables, **own}, *pod["containers"][0]["args"])
        assert pod["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/readyz"
        program.start(lambda: is_ready(place.internal))
        self.running[name] = program, pod["terminationGracePeriodSeconds"]

    async def roll(self, name: str, pod: Manifest) -> None:
        """Start the new pod, then end the old one in order, within its grace period."""
        old, grace_s = self.running[name]
        await asyncio.to_thread(self.start, name, pod)
        old.signal(signal.SIGTERM)
        assert await asyncio.to_thread(old.wait, grace_s) == 0, old.text()[-2000:]

    def kill(self) -> None:
        for program, _ in self.running.values():
            program.kill()


async def is_settled(url: str) -> bool:
    """Whether the front has noticed which places are free."""
    async with httpx.AsyncClient(base_url=url) as http:
        answers = [await http.get("/api/v2/diagnostics/version") for _ in range(5)]
        answers += [await http.post("/genesys/cometd", json=[]) for _ in range(5)]
    return {each.status_code for each in answers} == {200}


@pytest.fixture
def places() -> dict[str, list[Upstream]]:
    return {name: [Upstream(free_port(), free_port()) for _ in range(2)] for name in ("gateway", "worker", "notifier")}


@pytest.fixture
def front(tmp_path: Path, places: dict[str, list[Upstream]]) -> Iterator[HaProxy]:
    of = {name: {f"{name}-{n}": place for n, place in enumerate(places[name])} for name in SERVED}
    proxy = HaProxy(tmp_path / "haproxy", COMETD_PATHS, of["gateway"], of["notifier"])
    yield proxy
    proxy.process.kill()


@pytest.mark.timeout(240)
async def test_an_upgrade_of_the_release_is_not_noticed(
    tmp_path: Path,
    rabbitmq: RabbitMq,
    redis_server: RedisServer,
    amqp_prefix: str,
    places: dict[str, list[Upstream]],
    front: HaProxy,
    call_id: str,
) -> None:
    redis_server.clear()
    url = f"http://127.0.0.1:{front.port}"
    amqp = {"url": rabbitmq.url, "prefix": amqp_prefix}
    await apply_topology(amqp_settings(load_settings(amqp=amqp, partitions=4)))
    variables = {
        "CALLTAG_AMQP__URL": rabbitmq.url, "CALLTAG_AMQP__PREFIX": amqp_prefix,
        "CALLTAG_REDIS__URL": redis_server.url, "CALLTAG_PUBLIC_URL": url,
    }  # fmt: skip
    rollouts = Rollouts(tmp_path, variables, places)
    try:
        before, after = (dict(pods(chart.manifests(values))) for values in (VALUES, UPGRADED))
        for name in places:
            await asyncio.to_thread(rollouts.start, name, before[name])
        await asyncio.to_thread(front.start)
        await eventually(lambda: is_settled(url))
        system = System(tmp_path, {}, url, url)
        async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
            await begin_calls(switch, [call_id])
            load = Load(alice, [call_id])
            async with alice.listening():
                async with load.sending():
                    for name in ("worker", "notifier", "gateway"):
                        await rollouts.roll(name, after[name])
                await until_all_arrived(load)
            assert load.sent[call_id] > 10
            await check_nothing_lost_or_doubled(load)
        assert {program.environment["CALLTAG_LOG__LEVEL"] for program, _ in rollouts.running.values()} == {"debug"}
    finally:
        rollouts.kill()
