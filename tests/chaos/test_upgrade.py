"""An upgrade under load, service by service, and the way back: nobody notices either."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from chaos.steady_load import Load, begin_calls, check_nothing_lost_or_doubled, until_all_arrived
from chaos.test_restarts import DRAIN_DELAY_S, DRAIN_TIMEOUT_S
from parts.agent import agent
from parts.earlier import earlier_version
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, two_of_each_of

pytestmark = pytest.mark.heavy

ORDER = ("worker-0", "worker-1", "notifier-0", "notifier-1", "gateway-0", "gateway-1")
"""That of an upgrade; the way back is the other way round."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return earlier_version(tmp_path_factory.mktemp("earlier"))


@pytest.fixture
def system(
    tmp_path: Path, rabbitmq: RabbitMq, redis_server: RedisServer, amqp_prefix: str, earlier: Path
) -> Iterator[System]:
    """All of the earlier version."""
    redis_server.clear()
    variables = {
        "CALLTAG_AMQP__URL": rabbitmq.url,
        "CALLTAG_AMQP__PREFIX": amqp_prefix,
        "CALLTAG_REDIS__URL": redis_server.url,
        "CALLTAG_PARTITIONS": "8",
        "CALLTAG_DRAIN_DELAY_S": str(DRAIN_DELAY_S),
        "CALLTAG_DRAIN_TIMEOUT_S": str(DRAIN_TIMEOUT_S),
        "CALLTAG_WORKER__LEASE_S": "6",
        "CALLTAG_REDIS__DEADLINE_S": "5",
        "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "5",
    }
    with two_of_each_of(earlier, tmp_path, variables) as running:
        yield running


def test_the_earlier_version_is_run_from_its_own_source(earlier: Path, system: System) -> None:
    code = "import calltag.core, calltag.gateway; print(calltag.core.__file__, calltag.gateway.__file__)"
    for name in ORDER:
        environment = system.programs[name].environment
        printed = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert all(each.startswith(str(earlier)) for each in printed.stdout.split())


async def replace(system: System, name: str, source: Path | None) -> None:
    """Have one process end in order, and start the one of the other version in its place."""
    system.programs[name].signal(signal.SIGTERM)
    within_s = DRAIN_DELAY_S + 2 * DRAIN_TIMEOUT_S
    assert await asyncio.to_thread(system.programs[name].wait, within_s) == 0, system.programs[name].text()[-2000:]
    system.run_from(name, source)
    await asyncio.to_thread(system.start_again, name)


@pytest.mark.timeout(400)
async def test_an_upgrade_and_the_way_back_lose_nothing_and_refuse_nothing(
    system: System, earlier: Path, call_id: str
) -> None:
    calls = [f"{call_id}{number}" for number in range(4)]
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        await begin_calls(switch, calls)
        load = Load(alice, calls)
        async with alice.listening():
            async with load.sending():
                await move(system, ORDER, None)
                assert not any(name in system.sources for name in ORDER)
                await move(system, ORDER[::-1], earlier)

            await until_all_arrived(load)
        assert all(sent > 20 for sent in load.sent.values())
        await check_nothing_lost_or_doubled(load)
    assert "Traceback" not in system.logs()
    assert "unreadable" not in system.logs()
    assert "operation_parked" not in system.logs()


async def move(system: System, names: Sequence[str], source: Path | None) -> None:
    """Replace the processes one after another."""
    for name in names:
        await replace(system, name, source)
