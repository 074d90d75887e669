"""The ways to run calltag. Every test here runs on one process and on three; a module may name others in SYSTEMS."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, embedded_system, six_processes, three_processes

_USUAL = ("one-process", "three-processes")
_ON_BACKENDS = {"three-processes": three_processes, "six-processes": six_processes}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on each system of its module."""
    if "system" in metafunc.fixturenames:
        metafunc.parametrize("system", getattr(metafunc.module, "SYSTEMS", _USUAL), indirect=True, scope="session")


@pytest.fixture(scope="session")
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "one-process":
        with embedded_system(folder) as running:
            yield running
        return
    rabbitmq: RabbitMq = request.getfixturevalue("rabbitmq")
    redis = RedisServer(tmp_path_factory.mktemp(f"redis-of-{request.param}"))
    redis.start()
    with _ON_BACKENDS[request.param](folder, rabbitmq.url, redis.url, f"e2e{uuid4().hex[:8]}") as running:
        yield running
    redis.process.kill()
