"""The end of a service: balancers get time to see that it goes, and what comes meanwhile is answered."""

import asyncio
from pathlib import Path

import httpx

from e2e.test_official_clients import begin
from parts.agent import agent
from parts.eventually import eventually
from parts.system import System, embedded_system


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


def test_it_ends_after_the_drain_delay(tmp_path: Path) -> None:
    with embedded_system(tmp_path, CALLTAG_DRAIN_DELAY_S="0.3") as system:
        assert system.programs["serve"].stop() == 0
