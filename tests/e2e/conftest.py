"""Both ways to run calltag; every test here runs on both."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, embedded_system, three_processes


@pytest.fixture(scope="session", params=["one-process", "three-processes"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "one-process":
        with embedded_system(folder) as running:
            yield running
        return
    rabbitmq: RabbitMq = request.getfixturevalue("rabbitmq")
    redis = RedisServer(tmp_path_factory.mktemp("redis-of-three"))
    redis.start()
    with three_processes(folder, rabbitmq.url, redis.url, f"e2e{uuid4().hex[:8]}") as running:
        yield running
    redis.process.kill()
