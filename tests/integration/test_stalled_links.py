"""Links that are half dead: connections stand, and not a byte goes through. And links that are cut."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.test_backends_away import begin, refused_in_time, works_again
from parts.agent import agent
from parts.proxy import Proxy
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes


@pytest.fixture
def to_broker(rabbitmq: RabbitMq) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", rabbitmq.port) as proxy:
        yield proxy


@pytest.fixture
def to_store(redis_server: RedisServer) -> Iterator[Proxy]:
    redis_server.clear()
    with Proxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def system(tmp_path: Path, to_broker: Proxy, to_store: Proxy, amqp_prefix: str) -> Iterator[System]:
    amqp = f"amqp://guest:guest@127.0.0.1:{to_broker.port}/"
    with three_processes(tmp_path, amqp, f"redis://127.0.0.1:{to_store.port}/0", amqp_prefix) as running:
        yield running
        to_broker.heal()
        to_store.heal()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("link", ["to_broker", "to_store"])
async def test_a_stalled_link_is_told_in_time_and_recovers(
    system: System, request: pytest.FixtureRequest, link: str, call_id: str
) -> None:
    proxy: Proxy = request.getfixturevalue(link)
    async with agent(system, "switch") as switch, agent(system, "alice") as alice:
        await begin(switch, call_id)
        proxy.stall()
        for _ in range(3):
            await refused_in_time(alice, call_id)
        proxy.heal()
        await works_again(alice, call_id)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("link", ["to_broker", "to_store"])
async def test_a_cut_link_is_mended(system: System, request: pytest.FixtureRequest, link: str, call_id: str) -> None:
    proxy: Proxy = request.getfixturevalue(link)
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        alice.about = call_id
        await begin(switch, call_id)
        await alice.next_message()
        for number in range(3):
            proxy.cut()
            await works_again(alice, call_id)
            message = await alice.next_message()
            assert message["ext"]["calltag"]["version"] == number + 2
