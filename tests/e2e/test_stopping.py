"""The end of a service: balancers get time to see that it goes, and what comes meanwhile is answered."""

import asyncio
import signal
from pathlib import Path

import httpx

from calltag.core.domain.status import StatusCode
from e2e.test_official_clients import begin
from parts.agent import agent
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.samples import sample
from parts.system import System, embedded_system, three_processes


async def is_ready(system: System) -> bool:
    port = system.programs["serve"].environment["CALLTAG_INTERNAL__PORT"]
    async with httpx.AsyncClient() as http:
        return (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200


async def test_it_serves_on_for_the_drain_delay_though_not_ready(tmp_path: Path, call_id: str) -> None:
    with embedded_system(tmp_path, CALLTAG_DRAIN_DELAY_S="60") as system:
        serve = system.programs["serve"]
        async with agent(system, "switch") as switch, agent(system, "bob", "/v2/me/calls") as bob:
            held = asyncio.create_task(bob.next_message())
            assert await is_ready(system)
            assert serve._process is not None
            serve._process.terminate()

            async def not_ready() -> bool:
                return not await is_ready(system)

            await eventually(not_ready)
            await begin(switch, call_id)
            assert (await held)["data"]["call"]["id"] == call_id
            answer = await bob.http.get(f"/api/v2/me/calls/{call_id}")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert serve.running
            serve.kill()


async def test_who_waits_for_an_outcome_is_answered_before_the_time_to_drain_is_over(
    tmp_path: Path, rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str
) -> None:
    settings = {"CALLTAG_DRAIN_DELAY_S": "0.5", "CALLTAG_DRAIN_TIMEOUT_S": "2", "CALLTAG_GATEWAY__MAX_WAIT_S": "60"}
    with three_processes(tmp_path, rabbitmq.url, redis_url, amqp_prefix, **settings) as system:
        system.programs["worker"].kill()
        gateway = system.programs["gateway"]

        async def answered() -> httpx.Response:
            async with httpx.AsyncClient(base_url=system.gateway_url, auth=("alice", "demo"), timeout=60) as http:
                body = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
                return await http.post("/api/v2/me", json=body, headers={"Prefer": "wait=60"})

        waiting = [asyncio.create_task(answered()) for _ in range(3)]

        async def all_wait() -> bool:
            return await sample(system, "gateway", "calltag_operations_accepted_total") == len(waiting)

        await eventually(all_wait)
        gateway.signal(signal.SIGTERM)
        for answer in await asyncio.gather(*waiting):
            assert (answer.status_code, answer.json()["statusCode"]) == (202, StatusCode.INCOMPLETE)
            message = answer.json()["statusMessage"]
            assert message == "accepted, but the outcome is not known yet: this server is stopping"
            assert answer.headers["connection"] == "close"
        assert gateway.wait() == 0
        assert "Exception in ASGI application" not in gateway.text()


def test_it_ends_after_the_drain_delay(tmp_path: Path) -> None:
    with embedded_system(tmp_path, CALLTAG_DRAIN_DELAY_S="0.3") as system:
        assert system.programs["serve"].stop() == 0
