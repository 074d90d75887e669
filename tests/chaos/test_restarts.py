"""P4: every process is told to end, one of each kind at a time, under load. Nobody notices."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.steady_load import Load, begin_calls, check_nothing_lost_or_doubled, until_all_arrived
from parts.agent import agent
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, two_of_each_behind_haproxy

pytestmark = pytest.mark.heavy

CALLS = 6
DRAIN_DELAY_S = 4.0
"""Longer than the front takes to notice, on a busy machine too."""
DRAIN_TIMEOUT_S = 10.0
ROUNDS = (("gateway-0", "worker-0", "notifier-0"), ("gateway-1", "worker-1", "notifier-1"))


@pytest.fixture
def system(tmp_path: Path, rabbitmq: RabbitMq, redis_server: RedisServer, amqp_prefix: str) -> Iterator[System]:
    redis_server.clear()
    settings = {
        "CALLTAG_DRAIN_DELAY_S": str(DRAIN_DELAY_S),
        "CALLTAG_DRAIN_TIMEOUT_S": str(DRAIN_TIMEOUT_S),
        "CALLTAG_WORKER__LEASE_S": "6",
        "CALLTAG_REDIS__DEADLINE_S": "5",
        "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "5",
    }
    with two_of_each_behind_haproxy(tmp_path, rabbitmq.url, redis_server.url, amqp_prefix, **settings) as running:
        yield running


async def restart(system: System, names: tuple[str, ...]) -> None:
    """Tell all of them to end at once, have them end cleanly within the time to drain, and start them again."""
    began = time.monotonic()
    for name in names:
        system.programs[name].signal(signal.SIGTERM)
    for name in names:
        within_s = began + DRAIN_DELAY_S + DRAIN_TIMEOUT_S - time.monotonic()
        assert await asyncio.to_thread(system.programs[name].wait, within_s) == 0, system.programs[name].text()[-2000:]
    await asyncio.gather(*(asyncio.to_thread(system.start_again, name) for name in names))


@pytest.mark.timeout(240)
async def test_no_request_fails_and_nothing_is_lost_or_doubled_when_processes_are_restarted(
    system: System, call_id: str
) -> None:
    calls = [f"{call_id}{number}" for number in range(CALLS)]
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        await begin_calls(switch, calls)
        load = Load(alice, calls)
        async with alice.listening():
            async with load.sending():
                for names in ROUNDS:
                    await restart(system, names)

            await until_all_arrived(load)
        await check_nothing_lost_or_doubled(load)
    assert "Traceback" not in system.logs()
