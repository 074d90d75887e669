"""Places are counted from the accept on, in all and by address; who finds none is told so."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from calltag.core.http.request_parser import RequestLimit
from calltag.core.http.responses import NotYet
from calltag.core.http.scope import TrustedProxies
from calltag.core.http.server import Places, Server, ServerOptions, bound_socket
from calltag.core.process.tls import OwnCertificate, ServerTls
from calltag.core.settings.sections import Http
from parts.certificates import Authority
from parts.eventually import eventually


class App:
    """Answers HTTP requests, and accepts WebSockets, once `go` is set; says when one came in."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.arrived.set()
        await self.go.wait()
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                continue
            return
        head: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        await send(head)
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(app: ASGIApp, options: ServerOptions) -> AsyncIterator[tuple[Server, str, Counter[RequestLimit]]]:
    """A server, its address, and how often it refused for each limit."""
    refused: Counter[RequestLimit] = Counter()
    server = Server(app, options, lambda limit: refused.update([limit]))
    async with server.serving(bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port:
        yield server, f"127.0.0.1:{port}", refused


@pytest.fixture
def app() -> App:
    made = App()
    made.go.set()
    return made


TWO = ServerOptions(Http(max_connections_per_address=2), max_connections=2)


async def get(address: str, *, source: str = "127.0.0.1") -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(local_address=source)
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.get(f"http://{address}/")


def check_refused(answer: httpx.Response, word: str) -> None:
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
    assert answer.headers["Connection"] == "close"
    assert set(answer.json()) == {"statusCode", "statusMessage"}
    assert answer.json()["statusCode"] == 4
    assert word in answer.json()["statusMessage"]


async def test_requests_are_refused_until_there_is_an_application(app: App) -> None:
    async with served(NotYet("waits for its store"), TWO) as (server, address, _):
        answer = await get(address)
        assert (answer.status_code, answer.headers["Retry-After"], answer.json()["statusCode"]) == (503, "1", 4)
        with pytest.raises(InvalidStatus, match="503"):
            async with connect(f"ws://{address}/"):
                pass
        server.app = app
        assert (await get(address)).text == "ok"
        async with connect(f"ws://{address}/"):
            pass


async def test_who_comes_beyond_the_places_is_told_at_once_and_served_when_one_is_free() -> None:
    app = App()
    async with served(app, TWO) as (server, address, refused):
        async with asyncio.TaskGroup() as group, asyncio.timeout(30):
            held = [group.create_task(get(address)) for _ in range(2)]
            await eventually(lambda: server.places.taken == 2)
            check_refused(await get(address), "2 connections")
            with pytest.raises(InvalidStatus, match="503"):
                async with connect(f"ws://{address}/"):
                    pass
            app.go.set()
            assert [(await each).status_code for each in held] == [200, 200]
        await eventually(lambda: server.places.taken == 0)
        assert (await get(address)).text == "ok"
        assert refused == {RequestLimit.CONNECTIONS: 2}


async def test_connections_that_ask_for_nothing_and_websockets_take_places(app: App) -> None:
    async with served(app, TWO) as (server, address, _):
        _, idle = await asyncio.open_connection(*address.split(":"))
        async with connect(f"ws://{address}/"):
            check_refused(await get(address), "2 connections")
        idle.close()
        await idle.wait_closed()
        await eventually(lambda: server.places.taken == 0)


async def test_one_address_cannot_take_the_places_of_others(app: App) -> None:
    options = ServerOptions(max_connections=8)
    async with served(app, options) as (_, address, refused):
        greedy = [await asyncio.open_connection(*address.split(":"), local_addr=("127.0.0.2", 0)) for _ in range(2)]
        check_refused(await get(address, source="127.0.0.2"), "2 connections of one address")
        assert (await get(address)).text == "ok"
        assert refused == {RequestLimit.CONNECTIONS_PER_ADDRESS: 1}
        for _, writer in greedy:
            writer.close()


async def test_trusted_proxies_have_no_bound_of_their_own(app: App) -> None:
    options = ServerOptions(Http(max_connections_per_address=1), max_connections=10, trusted_proxies=("127.0.0.2",))
    async with served(app, options) as (_, address, refused):
        many = [await asyncio.open_connection(*address.split(":"), local_addr=("127.0.0.2", 0)) for _ in range(5)]
        assert (await get(address)).text == "ok"
        assert not refused
        for _, writer in many:
            writer.close()


async def test_a_tls_handshake_that_does_not_come_gives_its_place_back(
    app: App, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    issued = authority.issue("server", "127.0.0.1")
    options = ServerOptions(
        Http(head_deadline_s=0.5, max_connections_per_address=2),
        max_connections=2,
        tls=ServerTls(OwnCertificate(issued.cert, issued.key)),
    )
    context = ssl.create_default_context(cafile=authority.ca)
    async with served(app, options) as (server, address, refused):
        silent = [await asyncio.open_connection(*address.split(":")) for _ in range(2)]
        await eventually(lambda: server.places.taken == 2)
        await eventually(lambda: server.places.taken == 0)
        assert refused == {RequestLimit.TLS_DEADLINE: 2}
        async with httpx.AsyncClient(verify=context) as client:
            assert (await client.get(f"https://{address}/")).text == "ok"
        for _, writer in silent:
            writer.close()


async def test_plain_requests_to_a_tls_port_cost_their_own_connection_only(
    app: App, tmp_path_factory: pytest.TempPathFactory
) -> None:
    issued = Authority(tmp_path_factory.mktemp("authority")).issue("server", "127.0.0.1")
    async with served(app, ServerOptions(tls=ServerTls(OwnCertificate(issued.cert, issued.key)))) as (
        server,
        address,
        refused,
    ):
        with pytest.raises(httpx.TransportError):
            await get(address)
        await eventually(lambda: server.places.taken == 0 and refused[RequestLimit.TLS_DEADLINE] == 1)


@pytest.mark.parametrize("other", ["2001:db8::1", "2001:db8::ffff:1"])
def test_one_network_of_ipv6_counts_as_one_address(other: str) -> None:
    places = Places(10, 1, TrustedProxies(()))
    assert places.take("2001:db8::2") is None
    assert places.take(other) is RequestLimit.CONNECTIONS_PER_ADDRESS
    assert places.take("2001:db8:0:1::1") is None
    places.release("2001:db8::2")
    assert places.take(other) is None


async def test_a_stopping_server_makes_each_answer_the_last_of_its_connection(app: App) -> None:
    async with served(app, TWO) as (server, address, _), httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert "connection" not in (await client.get("/")).headers
        server.is_stopping = True
        for _ in range(3):
            assert (await client.get("/")).headers["connection"] == "close"
