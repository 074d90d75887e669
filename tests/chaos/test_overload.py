"""P6: three times the load that the machine can take. What is accepted takes effect, the rest is refused at once.

Settings by environment: CALLTAG_TEST_OVERLOAD_S, for how many seconds the load lasts.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from calltag.core.bus.amqp import AmqpSettings, open_amqp_bus
from calltag.core.bus.ports import Bus, Partition
from load.generator import Answer, Plan
from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.memory import resident_mb
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

LOAD_S = float(os.environ.get("CALLTAG_TEST_OVERLOAD_S", "15"))
CALIBRATION_S = 4.0
PARTITIONS = 8
CALLS = [f"LOAD{number}" for number in range(300)]
MOST_SECONDS = 5.0
MOST_TO_REFUSE_S = 2.5
NORMAL_AGAIN_S = 5.0
MOST_GROWTH_MB = 100.0
TESTS = Path(__file__).parents[1]


@pytest.fixture
def system(tmp_path: Path, rabbitmq: RabbitMq, redis_server: RedisServer, amqp_prefix: str) -> Iterator[System]:
    redis_server.clear()
    # The load leaves no time to measure what other tests do.
    settings = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": "", "CALLTAG_LOG__LEVEL": "warning"}
    with three_processes(tmp_path, rabbitmq.url, redis_server.url, amqp_prefix, **settings) as running:
        yield running


async def generated(plan: Plan) -> list[Answer]:
    """Carry out a plan in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "load.generator", env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await process.communicate(json.dumps(asdict(plan)).encode())
    found = json.loads(told)
    answers = [Answer(*each) for each in found["answers"]]
    assert len(answers) == found["sent"], "requests were left without an answer"
    return answers


@dataclass
class Watch:
    """The most that was seen while the load lasted."""

    memory_mb: dict[str, float] = field(default_factory=dict)
    depth: int = 0

    def look(self, system: System) -> None:
        for name, program in system.programs.items():
            self.memory_mb[name] = max(self.memory_mb.get(name, 0), resident_mb(program.pid))


@asynccontextmanager
async def watched(system: System, bus: Bus) -> AsyncIterator[Watch]:
    """Look twice a second while the context is open."""
    seen = Watch()

    async def look_on() -> None:
        while True:
            seen.look(system)
            depths = [await bus.depth(Partition(number)) for number in range(PARTITIONS)]
            seen.depth = max(seen.depth, *depths)
            await asyncio.sleep(0.5)

    looking = asyncio.create_task(look_on())
    try:
        yield seen
    finally:
        looking.cancel()


async def begin_calls(switch: Agent) -> None:
    for first in range(0, len(CALLS), 100):
        facts = [
            {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call,
             "parties": [{"phoneNumber": "15000", "state": "Established"}]}
            for call in CALLS[first : first + 100]
        ]  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}


async def attached(client: Agent) -> Counter[int]:
    """How often each number is in the user data of the calls."""
    calls = (await client.http.get("/api/v2/me/calls?fields=*", timeout=60)).json()["calls"]
    found = [call.get("userData", {}).get("log", []) for call in calls]
    return Counter(number for each in found for number in (each if isinstance(each, list) else [each]))


def percentile(answers: list[Answer], part: float) -> float:
    ordered = sorted(each.seconds for each in answers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


@pytest.mark.timeout(240 + 3 * LOAD_S)
async def test_three_times_the_load_that_the_machine_can_take(
    system: System, rabbitmq: RabbitMq, amqp_prefix: str
) -> None:
    port = int(system.gateway_url.rpartition(":")[2])
    amqp = AmqpSettings(rabbitmq.url, prefix=amqp_prefix, partitions=PARTITIONS, publish_deadline_s=10)
    async with agent(system, "switch") as switch, agent(system, "alice") as alice, open_amqp_bus(amqp) as bus:
        await eventually(bus.connected)
        await begin_calls(switch)
        cookie = "; ".join(f"{name}={value}" for name, value in alice.http.cookies.items())
        calm = await generated(Plan(port, cookie, CALLS, CALIBRATION_S, connections=48))
        assert {(each.status, each.code) for each in calm} == {(200, 0)}
        capacity = len(calm) / CALIBRATION_S
        before = Watch()
        before.look(system)
        plan = Plan(port, cookie, CALLS, LOAD_S, connections=1_000, first=len(calm), rate=3 * capacity)
        async with watched(system, bus) as seen:
            answers = await generated(plan)
        ended = time.monotonic()
        again = await alice.operate(CALLS[0], "UpdateUserData", prefer="wait=10", userData={"again": 1})
        normal_after_s = time.monotonic() - ended

        accepted = [each for each in answers if (each.status, each.code) == (200, 0)]
        refused = [each for each in answers if each.status != 200]
        print(
            f"capacity {capacity:.0f}/s, sent {len(answers) / LOAD_S:.0f}/s, accepted {len(accepted) / LOAD_S:.0f}/s, "
            f"p50 {percentile(accepted, 0.5):.2f} s, p99 {percentile(accepted, 0.99):.2f} s; refused "
            f"{len(refused) / LOAD_S:.0f}/s, p99 {percentile(refused, 0.99):.2f} s "
            f"{dict(Counter(each.text for each in refused))}; deepest queue {seen.depth}; normal after "
            f"{normal_after_s:.2f} s; memory in MB {before.memory_mb} {seen.memory_mb}"
        )
        assert len(accepted) + len(refused) == len(answers), "neither accepted nor refused"
        assert refused, "the load was none"
        assert {(each.status in {429, 503}, each.retry_after) for each in refused} == {(True, True)}
        assert percentile(refused, 0.99) < MOST_TO_REFUSE_S
        assert percentile(accepted, 0.99) < MOST_SECONDS
        # What is refused costs little: most of the capacity goes to what is accepted.
        assert len(accepted) > capacity * LOAD_S / 4
        assert seen.depth <= 5_000
        for name, most in seen.memory_mb.items():
            assert most < before.memory_mb[name] + MOST_GROWTH_MB, name
        assert again["statusCode"] == 0, again
        assert normal_after_s < NORMAL_AGAIN_S

        wanted = {each.number for each in (*calm, *accepted)}

        async def all_there() -> bool:
            return wanted <= set(await attached(alice))

        await eventually(all_there, within_s=30)
        found = await attached(alice)
        assert max(found.values()) == 1
