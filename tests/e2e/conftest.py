"""The ways to run calltag. Every test here runs on one process and on three; a module may name others in SYSTEMS."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from parts.pages import Pages
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, behind_haproxy, embedded_system, six_processes, three_processes

_USUAL = ("one-process", "three-processes")
_ON_BACKENDS = {
    "three-processes": three_processes,
    "six-processes": six_processes,
    "three-notifiers-behind-haproxy": behind_haproxy,
}
_CLIENTS = Path(__file__).parents[1] / "clients"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on each system of its module."""
    if "system" in metafunc.fixturenames:
        metafunc.parametrize("system", getattr(metafunc.module, "SYSTEMS", _USUAL), indirect=True, scope="session")


@pytest.fixture(scope="session")
def pages() -> Iterator[Pages]:
    """The site whose pages may speak to the systems."""
    with Pages(_CLIENTS) as serving:
        yield serving


@pytest.fixture(scope="session")
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pages: Pages) -> Iterator[System]:
    folder = tmp_path_factory.mktemp(request.param)
    allowed = dict.fromkeys(("CALLTAG_GATEWAY__ALLOWED_ORIGINS", "CALLTAG_NOTIFIER__ALLOWED_ORIGINS"), pages.origin)
    if request.param == "one-process":
        with embedded_system(folder, **allowed) as running:
            yield running
        return
    rabbitmq: RabbitMq = request.getfixturevalue("rabbitmq")
    redis = RedisServer(tmp_path_factory.mktemp(f"redis-of-{request.param}"))
    redis.start()
    settings = allowed if request.param == "three-notifiers-behind-haproxy" else {}
    prefix = f"e2e{uuid4().hex[:8]}"
    with _ON_BACKENDS[request.param](folder, rabbitmq.url, redis.url, prefix, **settings) as running:
        yield running
    redis.process.kill()
