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
from uuid import uuid4

import pytest

from calltag.core.broker.ports import Broker, Partition
from calltag.core.broker.rabbitmq import RabbitMqSettings, open_rabbitmq
from load.generator import Answer, Plan
from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.memory import resident_mb
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

pytestmark = pytest.mark.alone

LOAD_S = float(os.environ.get("CALLTAG_TEST_OVERLOAD_S", "10"))
CALIBRATION_S = 4.0
PARTITIONS = 8
MAX_BACKLOG = 600
"""More than a gateway publishes to one partition in half a second: until it looks again, it counts that as waiting."""
CALLS = [f"LOAD{number}" for number in range(300)]
MOST_IN_FLIGHT = 32
MOST_SECONDS = 5.0
MOST_TO_REFUSE_S = 5.0
NORMAL_AGAIN_S = 5.0
MOST_GROWTH_MB = 100.0
TESTS = Path(__file__).parents[1]


@pytest.fixture
def prefix() -> str:
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
def system(tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitMq, prefix: str) -> Iterator[System]:
    """For each test another one: what a killed worker leaves behind is not what the next one measures."""
    redis = RedisServer(tmp_path_factory.mktemp("redis-under-load"))
    redis.start()
    # The load leaves no time to measure what other tests do.
    settings = {
        "CALLTAG_LOG__LEVEL": "warning",
        "CALLTAG_GATEWAY__MAX_BACKLOG": str(MAX_BACKLOG),
        "CALLTAG_GATEWAY__MAX_BACKLOG_AGE_S": "2",
        # How long a busy machine takes proves nothing.
        "CALLTAG_REDIS__DEADLINE_S": "5",
        "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "10",
    }
    folder = tmp_path_factory.mktemp("under-load")
    with three_processes(folder, rabbitmq.url, redis.url, prefix, **settings) as running:
        yield running
    redis.process.kill()


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
async def watched(system: System, broker: Broker) -> AsyncIterator[Watch]:
    """Look twice a second while the context is open."""
    seen = Watch()

    async def look_on() -> None:
        while True:
            seen.look(system)
            depths = [await broker.depth(Partition(number)) for number in range(PARTITIONS)]
            seen.depth = max(seen.depth, *depths)
            await asyncio.sleep(0.5)

    looking = asyncio.create_task(look_on())
    try:
        yield seen
    finally:
        looking.cancel()


def port_of(system: System) -> int:
    return int(system.gateway_url.rpartition(":")[2])


def cookie_of(client: Agent) -> str:
    return "; ".join(f"{name}={value}" for name, value in client.http.cookies.items())


async def begin_calls(switch: Agent, calls: list[str], number: str = "15000") -> None:
    for first in range(0, len(calls), 100):
        facts = [
            {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call,
             "parties": [{"phoneNumber": number, "state": "Established"}]}
            for call in calls[first : first + 100]
        ]  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}


async def attached(client: Agent, wanted: list[str]) -> Counter[int]:
    """How often each number is in the user data of these calls."""
    calls = (await client.http.get("/api/v2/me/calls?fields=*", timeout=60)).json()["calls"]
    calls = [call for call in calls if call["id"] in wanted]
    found = [call.get("userData", {}).get("log", []) for call in calls]
    return Counter(number for each in found for number in (each if isinstance(each, list) else [each]))


def percentile(answers: list[Answer], part: float) -> float:
    ordered = sorted(each.seconds for each in answers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


@pytest.mark.timeout(240 + 3 * LOAD_S)
async def test_three_times_the_load_that_the_machine_can_take(system: System, rabbitmq: RabbitMq, prefix: str) -> None:
    port = port_of(system)
    amqp = RabbitMqSettings(rabbitmq.url, prefix=prefix, partitions=PARTITIONS, publish_deadline_s=10)
    async with agent(system, "switch") as switch, agent(system, "alice") as alice, open_rabbitmq(amqp) as broker:
        await eventually(broker.connected)
        await begin_calls(switch, CALLS)
        cookie = cookie_of(alice)
        calm = await generated(Plan(port, cookie, CALLS, CALIBRATION_S, connections=48))
        assert {(each.status, each.code) for each in calm} == {(200, 0)}
        capacity = len(calm) / CALIBRATION_S
        before = Watch()
        before.look(system)
        plan = Plan(port, cookie, CALLS, LOAD_S, connections=2_000, first=len(calm), rate=3 * capacity)
        async with watched(system, broker) as seen:
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
        # What is refused costs little, even where others use the machine as well.
        assert len(accepted) > capacity * LOAD_S / 8
        assert seen.depth <= MAX_BACKLOG + MOST_IN_FLIGHT
        for name, most in seen.memory_mb.items():
            assert most < before.memory_mb[name] + MOST_GROWTH_MB, name
        assert again["statusCode"] == 0, again
        assert normal_after_s < NORMAL_AGAIN_S

        wanted = {each.number for each in (*calm, *accepted)}

        async def all_there() -> bool:
            return wanted <= set(await attached(alice, CALLS))

        await eventually(all_there, within_s=30)
        found = await attached(alice, CALLS)
        assert max(found.values()) == 1


@pytest.mark.timeout(240)
async def test_while_no_worker_works_the_backlog_is_bounded(system: System) -> None:
    call = f"BACKLOG{uuid4().hex[:8]}"
    async with agent(system, "switch") as switch, agent(system, "bob") as bob:
        await begin_calls(switch, [call], "15001")
        for name in [name for name in system.programs if name.startswith("worker") and system.programs[name].running]:
            system.programs[name].kill()
        answers = await generated(Plan(port_of(system), cookie_of(bob), [call], 8.0, connections=16))
        accepted = [each for each in answers if (each.status, each.code) == (200, 0)]
        refused = [each for each in answers if each.status != 200]
        assert len(accepted) <= MAX_BACKLOG + MOST_IN_FLIGHT
        assert refused, f"{len(accepted)} were accepted and none was refused"
        assert {(each.status, each.retry_after) for each in refused} == {(503, True)}
        assert any("wait for their worker" in each.text for each in refused)
        await asyncio.to_thread(system.start, f"worker-{uuid4().hex[:4]}", "worker")
        began = time.monotonic()

        async def works() -> bool:
            answer = await bob.operate(call, "UpdateUserData", prefer="wait=5", userData={"again": 1})
            return bool(answer["statusCode"] == 0)

        await eventually(works, within_s=15)
        print(f"normal {time.monotonic() - began:.1f} s after a worker was there")
        assert await attached(bob, [call]) == Counter(each.number for each in accepted)
