"""TLS to RabbitMQ and Redis, and from clients: that it is spoken, and what is said where it cannot be."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect as websocket

from calltag.core.broker.ports import BrokerUnavailable
from calltag.core.broker.rabbitmq.connection import connect
from calltag.core.broker.rabbitmq.topology import RabbitMqSettings
from calltag.core.process.tls import ClientTls, OwnCertificate, ServerTls, TlsError
from calltag.core.store.client import RedisClient, redis_client
from calltag.core.store.ports import StoreUnavailable
from parts.agent import Agent
from parts.certificates import Authority, Certificate, encrypted
from parts.command import calltag
from parts.eventually import eventually
from parts.ports import free_port
from parts.processes import Program
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import calltag_program

AMQP, REDIS = "CALLTAG_AMQP__TLS__", "CALLTAG_REDIS__TLS__"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def own(authority: Authority) -> OwnCertificate:
    """What calltag shows servers that demand a certificate."""
    issued = authority.issue("calltag", "calltag.example")
    return OwnCertificate(issued.cert, issued.key)


@pytest.fixture(scope="module")
def broker_port(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[int]:
    """A RabbitMQ whose certificate is for `localhost`, and which demands one of its clients."""
    issued, port = authority.issue("rabbitmq", "localhost"), free_port()
    more = f"""
listeners.ssl.default = 127.0.0.1:{port}
ssl_options.cacertfile = {authority.ca}
ssl_options.certfile = {issued.cert}
ssl_options.keyfile = {issued.key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""
    server = RabbitMq(tmp_path_factory.mktemp("rabbitmq-tls"), configuration=more)
    try:
        server.start()
        yield port
    finally:
        server.end()


def redis_over_tls(folder: Path, authority: Authority, issued: Certificate) -> tuple[RedisServer, int]:
    """A Redis that demands certificates of its clients."""
    port = free_port()
    files = ("--tls-cert-file", str(issued.cert), "--tls-key-file", str(issued.key), "--tls-ca-cert-file")
    server = RedisServer(folder, "--tls-port", str(port), *files, str(authority.ca))
    server.start()
    return server, port


@pytest.fixture(scope="module")
def store_port(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[int]:
    issued = authority.issue("redis", "localhost")
    server, port = redis_over_tls(tmp_path_factory.mktemp("redis-tls"), authority, issued)
    yield port
    server.process.kill()


async def amqp_refusal(host: str, port: int, tls: ClientTls) -> str:
    with pytest.raises(BrokerUnavailable) as raised:
        await connect(RabbitMqSettings(f"amqps://guest:guest@{host}:{port}/", tls=tls), "test")
    return str(raised.value)


@asynccontextmanager
async def store(host: str, port: int, tls: ClientTls) -> AsyncIterator[RedisClient]:
    client = redis_client(f"rediss://{host}:{port}/0", deadline_s=5, tls=tls)
    try:
        yield client
    finally:
        await client.close()


async def store_refusal(host: str, port: int, tls: ClientTls) -> str:
    async with store(host, port, tls) as client:
        with pytest.raises(StoreUnavailable) as raised:
            await client.execute("GET", "a")
    return str(raised.value)


@asynccontextmanager
async def shows(issued: Certificate) -> AsyncIterator[int]:
    """A server that shows a certificate, and does nothing else."""
    context = ServerTls(OwnCertificate(issued.cert, issued.key)).context()
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_rabbitmq_by_tls(
    broker_port: int, authority: Authority, stranger: Authority, own: OwnCertificate
) -> None:
    good = ClientTls(AMQP, authority.ca, own)
    connection = await connect(RabbitMqSettings(f"amqps://guest:guest@localhost:{broker_port}/", tls=good), "test")
    await connection.close()
    unknown = await amqp_refusal("localhost", broker_port, replace(good, ca_file=stranger.ca))
    assert "not from an authority that is trusted here: CALLTAG_AMQP__TLS__CA_FILE names" in unknown
    by_system = await amqp_refusal("localhost", broker_port, replace(good, ca_file=None))
    assert "CALLTAG_AMQP__TLS__CA_FILE names" in by_system
    other_host = await amqp_refusal("127.0.0.1", broker_port, good)
    assert "is for another host: use a host name in the URL that is in the certificate" in other_host
    not_shown = await amqp_refusal("localhost", broker_port, ClientTls(AMQP, authority.ca))
    assert "demands" in not_shown
    assert "CALLTAG_AMQP__TLS__CERT_FILE" in not_shown


async def test_redis_by_tls(store_port: int, authority: Authority, stranger: Authority, own: OwnCertificate) -> None:
    good = ClientTls(REDIS, authority.ca, own)
    async with store("localhost", store_port, good) as client:
        assert await client.ping()
    unknown = await store_refusal("localhost", store_port, replace(good, ca_file=stranger.ca))
    assert "not from an authority that is trusted here: CALLTAG_REDIS__TLS__CA_FILE names" in unknown
    by_system = await store_refusal("localhost", store_port, replace(good, ca_file=None))
    assert "CALLTAG_REDIS__TLS__CA_FILE names" in by_system
    assert "is for another host" in await store_refusal("127.0.0.1", store_port, good)
    assert "CALLTAG_REDIS__TLS__CERT_FILE" in await store_refusal(
        "localhost", store_port, ClientTls(REDIS, authority.ca)
    )


async def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with shows(authority.issue("old", "localhost", expired=True)) as port:
        assert "has expired: renew it" in await amqp_refusal("localhost", port, ClientTls(AMQP, authority.ca))
        assert "has expired: renew it" in await store_refusal("localhost", port, ClientTls(REDIS, authority.ca))


async def test_a_port_without_tls(tmp_path: Path) -> None:
    tls = ClientTls(AMQP, Authority(tmp_path).ca)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"AMQP\0\0\x09\x01")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert "does not speak TLS on this port" in await amqp_refusal("localhost", port, tls)


def test_files_that_are_not_usable_are_told_at_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued, other = authority.issue("one", "localhost"), authority.issue("two", "localhost")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    told: dict[str, ClientTls | ServerTls] = {
        "CALLTAG_AMQP__TLS__CA_FILE: /nowhere cannot be read: No such file": ClientTls(AMQP, Path("/nowhere")),
        "holds no certificates in PEM form": ClientTls(AMQP, rubbish),
        "CALLTAG_TLS__KEY_FILE: /nowhere cannot be read": ServerTls(OwnCertificate(issued.cert, Path("/nowhere"))),
        "the key does not belong to the certificate": ServerTls(OwnCertificate(issued.cert, other.key)),
        "not a certificate and its key in PEM form": ServerTls(OwnCertificate(rubbish, issued.key)),
        "KEY_PASSWORD is not set or wrong": ServerTls(OwnCertificate(issued.cert, encrypted(issued.key, "right"))),
        "CERT_FILE is not": ClientTls(AMQP, authority.ca, OwnCertificate(None, issued.key)),
    }
    for text, tls in told.items():
        with pytest.raises(TlsError) as raised:
            tls.context()
        assert text in str(raised.value)
    locked = OwnCertificate(issued.cert, encrypted(issued.key, "right"), "right")
    assert ServerTls(locked).context().minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
    own: OwnCertificate,
    broker_port: int,
    store_port: int,
) -> Iterator[tuple[Program, str, Certificate]]:
    """All of calltag in one process, by TLS to all sides; also its address, and the certificate that it shows."""
    folder, port, internal = tmp_path_factory.mktemp("secured"), free_port(), free_port()
    shown = authority.issue("front", "localhost")
    certificate = {"CERT_FILE": str(own.cert_file), "KEY_FILE": str(own.key_file), "CA_FILE": str(authority.ca)}
    environment = {
        **{f"{section}{name}": value for section in (AMQP, REDIS) for name, value in certificate.items()},
        "CALLTAG_AMQP__URL": f"amqps://guest:guest@localhost:{broker_port}/",
        "CALLTAG_REDIS__URL": f"rediss://localhost:{store_port}/0",
        "CALLTAG_REDIS__DEADLINE_S": "5",
        "CALLTAG_PARTITIONS": "4",
        "CALLTAG_TLS__CERT_FILE": str(shown.cert),
        "CALLTAG_TLS__KEY_FILE": str(shown.key),
        "CALLTAG_GATEWAY__PORT": str(port),
        "CALLTAG_INTERNAL__PORT": str(internal),
    }
    program = calltag_program(folder, environment, "serve")
    applied = calltag("topology", "apply", cwd=folder, **program.environment)
    assert applied.returncode == 0, applied.stderr

    def is_ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{internal}/readyz", verify=False).status_code == 200
        except httpx.HTTPError:
            return False

    program.start(is_ready)
    yield program, f"https://localhost:{port}", shown
    assert program.stop() == 0, program.text()


async def test_all_of_calltag_by_tls(secured: tuple[Program, str, Certificate], authority: Authority) -> None:
    _, url, _ = secured
    trusting = ssl.create_default_context(cafile=authority.ca)
    async with httpx.AsyncClient(base_url=url, verify=trusting, auth=("alice", "demo"), timeout=20) as http:
        agent = Agent(http, url)
        await agent.subscribe("/v2/me/calls")
        dialed = await agent.post(
            "/me/devices/631608b3-ceb1-472b-ba05-2ae39555b0d1/calls",
            {"operationName": "Dial", "destination": {"phoneNumber": "15001"}},
        )
        assert dialed.json() == {"statusCode": 0}
        assert (await agent.next_message())["channel"] == "/v2/me/calls"
    async with websocket(f"{url.replace('https', 'wss')}/genesys/cometd", ssl=trusting) as socket_:
        await socket_.send("[]")


async def test_no_older_tls_and_no_plain_http(secured: tuple[Program, str, Certificate], authority: Authority) -> None:
    _, url, _ = secured
    old = ssl.create_default_context(cafile=authority.ca)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with httpx.AsyncClient(verify=old) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"{url}/api/v2/me")
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.HTTPError):
            await http.get(f"{url.replace('https', 'http')}/api/v2/me")


async def test_a_renewed_certificate_is_shown_without_a_restart(
    secured: tuple[Program, str, Certificate], authority: Authority
) -> None:
    program, url, shown = secured
    trusting = ssl.create_default_context(cafile=authority.ca)

    def serial() -> object:
        with (
            socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            certificate = secure.getpeercert()
            assert certificate is not None
            return certificate["serialNumber"]

    before = await asyncio.to_thread(serial)
    shown.cert.write_text("half written")
    await eventually(lambda: "certificate_reload_failed" in program.text(), 30)
    assert await asyncio.to_thread(serial) == before
    authority.issue("front", "localhost")
    await eventually(lambda: "certificate_reloaded" in program.text(), 30)
    assert await asyncio.to_thread(serial) != before


async def test_clients_must_show_a_certificate_where_that_is_set(
    tmp_path: Path, authority: Authority, stranger: Authority, own: OwnCertificate
) -> None:
    issued = authority.issue("demanding", "localhost")
    context = ServerTls(OwnCertificate(issued.cert, issued.key), authority.ca).context()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    other = stranger.issue("other", "calltag.example")
    async with server:
        port = server.sockets[0].getsockname()[1]

        async def answer(shown: OwnCertificate) -> bytes:
            tls = ClientTls(AMQP, authority.ca, shown).context()
            reader, writer = await asyncio.open_connection("localhost", port, ssl=tls)
            try:
                return await reader.readexactly(1)
            finally:
                writer.transport.abort()

        assert await answer(own) == b"!"
        for shown in (OwnCertificate(), OwnCertificate(other.cert, other.key)):
            with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
                await answer(shown)
