"""The ways to run calltag. Every test here runs on one process and on three; a module may name others in SYSTEMS."""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from parts.certificates import Authority
from parts.chromium import Chromium, Page
from parts.endpoints import MESSAGES, Endpoint, gateway_endpoint, notifier_endpoint
from parts.nginx import Nginx
from parts.pages import Pages
from parts.rabbitmq import RabbitMq
from parts.raw_http import Address
from parts.redis_server import RedisServer
from parts.system import System, behind_haproxy, embedded_system, six_processes, three_processes

_USUAL = {"one-process": "one_process", "three-processes": "usual_processes"}
"""Each with the fixture that starts it."""
_ON_BACKENDS = {
    "three-processes": three_processes,
    "six-processes": six_processes,
    "three-notifiers-behind-haproxy": behind_haproxy,
}
_CLIENTS = Path(__file__).parents[1] / "clients"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on each system of its module."""
    if "system" in metafunc.fixturenames:
        metafunc.parametrize("system", getattr(metafunc.module, "SYSTEMS", _USUAL), indirect=True, scope="module")


@pytest.fixture(scope="session")
def pages() -> Iterator[Pages]:
    """The site whose pages may speak to the systems."""
    with Pages(_CLIENTS) as serving:
        yield serving


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    browser.start()
    yield browser
    browser.process.kill()


@pytest.fixture
async def page(chromium: Chromium) -> AsyncIterator[Page]:
    async with chromium.page() as page:
        yield page


@pytest.fixture(scope="session")
def allowed(pages: Pages) -> dict[str, str]:
    """The settings by which the pages may do so."""
    return {"CALLTAG_ALLOWED_ORIGINS": pages.origin}


@pytest.fixture(scope="session")
def one_process(tmp_path_factory: pytest.TempPathFactory, allowed: dict[str, str]) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("one-process"), **allowed) as running:
        yield running


@contextmanager
def _on_backends(name: str, factory: pytest.TempPathFactory, rabbitmq: RabbitMq, **settings: str) -> Iterator[System]:
    redis = RedisServer(factory.mktemp(f"redis-of-{name}"))
    redis.start()
    try:
        prefix = f"e2e{uuid4().hex[:8]}"
        # Many processes keep a small machine busy; how long store and broker take proves nothing.
        more = {"CALLTAG_REDIS__DEADLINE_S": "10", "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "10", **settings}
        with _ON_BACKENDS[name](factory.mktemp(name), rabbitmq.url, redis.url, prefix, **more) as running:
            yield running
    finally:
        redis.process.kill()


@pytest.fixture(scope="session")
def usual_processes(tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitMq) -> Iterator[System]:
    with _on_backends("three-processes", tmp_path_factory, rabbitmq) as running:
        yield running


@pytest.fixture(scope="module")
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    # Nearly every module uses these: they are kept. The others end with the module, as even idle processes take time.
    if request.param in _USUAL:
        yield request.getfixturevalue(_USUAL[request.param])
        return
    settings = request.getfixturevalue("allowed") if request.param == "three-notifiers-behind-haproxy" else {}
    rabbitmq: RabbitMq = request.getfixturevalue("rabbitmq")
    with _on_backends(request.param, tmp_path_factory, rabbitmq, **settings) as running:
        yield running


@pytest.fixture(scope="session")
def gateway(usual_processes: System) -> Endpoint:
    return gateway_endpoint(usual_processes)


@pytest.fixture(scope="session")
def notifier(usual_processes: System) -> Endpoint:
    return notifier_endpoint(usual_processes)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    issued = authority.issue("calltag", "localhost")
    settings = {"CALLTAG_TLS__CERT_FILE": str(issued.cert), "CALLTAG_TLS__KEY_FILE": str(issued.key)}
    with embedded_system(folder / "system", **settings) as running:
        yield notifier_endpoint(running, ssl.create_default_context(cafile=str(authority.ca)))


@pytest.fixture(scope="session")
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    """The one that the test's parameter names."""
    found: Endpoint = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """An nginx that passes on a request once it has read it whole; 404 is the answer to it."""
    server = Nginx(tmp_path_factory.mktemp("nginx"))
    server.start()
    yield Endpoint(Address(server.port), "/nowhere", MESSAGES, 404)
    server.process.kill()
