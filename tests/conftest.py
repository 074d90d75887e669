"""The private servers of a test run, started when the first test asks for them and ended with the run."""

import signal
from collections.abc import Iterator
from uuid import uuid4

import pytest
import structlog
from hypothesis import settings

from calltag.core.telemetry.conditions import forget_conditions
from parts.ports import free_port
from parts.rabbitmq import RabbitMq
from parts.rabbitmq_cluster import RabbitMqCluster
from parts.redis_cluster import RedisCluster
from parts.redis_sentinel import RedisSentinel
from parts.redis_server import RedisServer
from parts.results import pytest_addoption, pytest_configure
from parts.system import CalltagProgram

__all__ = ["pytest_addoption", "pytest_configure"]

CalltagProgram.forks = True
# Shared machines are slow at times; how long an example takes proves nothing.
settings.register_profile("calltag", deadline=None)
settings.load_profile("calltag")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has Ctrl-C ignored, by all that they start as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)


PLAIN = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
SHORT = {"contract", "unit"}
"""The folders whose files take seconds each."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long: where several processes share the tests, none has a long file left at the end."""
    items.sort(key=lambda item: bool(SHORT.intersection(item.path.parts)))


@pytest.fixture(autouse=True)
def every_condition_is_new() -> None:
    """What failed in a test before does not keep a line out of the log of this one."""
    forget_conditions()


@pytest.fixture(autouse=True)
def plain_tracebacks() -> None:
    """Print tracebacks without local variables: structlog's default takes seconds for those of an installation."""
    structlog.configure(processors=[structlog.processors.add_log_level, PLAIN])


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.process.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """A Redis with nothing in it."""
    redis_server.clear()
    return redis_server.url


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    server = RabbitMq(tmp_path_factory.mktemp("rabbitmq"))
    try:
        server.start()
        yield server
    finally:
        server.end()


@pytest.fixture(scope="session")
def rabbitmq_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMqCluster]:
    cluster = RabbitMqCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def amqp_prefix() -> str:
    """Names that no other test uses."""
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
def unused_tcp_port() -> int:
    return free_port()


@pytest.fixture
def call_id() -> str:
    """A call of its own for each test."""
    return uuid4().hex.upper()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path_factory.mktemp("redis-cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="session")
def redis_sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSentinel]:
    watched = RedisSentinel(tmp_path_factory.mktemp("redis-sentinel"))
    try:
        watched.start()
        yield watched
    finally:
        watched.kill()
