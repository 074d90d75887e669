"""How sessions end, on the wire: by inactivity, and with the login that proves them, over both transports."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect

from calltag.core.store.client_ids import handle_of
from parts.eventually import eventually
from parts.system import System, embedded_system

HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling", "websocket"]}
CREDENTIALS = {"ext": {"authentication": {"user": "alice", "password": "demo"}}}
TIMEOUT = {"CALLTAG_NOTIFIER__TIMEOUT_S": "2.5"}
TRANSPORTS = pytest.mark.parametrize("transport", ["long-polling", "websocket"])


class Link(Protocol):
    """One request after another, over either transport; returns the answer that ends with the reply."""

    async def ask(self, *messages: dict[str, Any]) -> list[dict[str, Any]]: ...


class Posts:
    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self.http, self.url = http, url

    async def ask(self, *messages: dict[str, Any]) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = (await self.http.post(self.url, json=list(messages), timeout=20)).json()
        return answer


class Frames:
    def __init__(self, socket: Any) -> None:
        self.socket = socket

    async def ask(self, *messages: dict[str, Any]) -> list[dict[str, Any]]:
        await self.socket.send(json.dumps(messages))
        frame: list[dict[str, Any]] = json.loads(await self.socket.recv())
        return frame


@asynccontextmanager
async def link(system: System, transport: str, cookie: str = "") -> AsyncIterator[Link]:
    url = f"{system.cometd_url}/genesys/cometd"
    headers = {"Cookie": cookie} if cookie else {}
    if transport == "websocket":
        async with websocket_connect(url.replace("http://", "ws://"), additional_headers=headers) as socket:
            yield Frames(socket)
    else:
        async with httpx.AsyncClient(headers=headers) as http:
            yield Posts(http, url)


async def signed_in(system: System) -> str:
    """A login of its own, as the cookie that shows it."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{system.gateway_url}/api/v2/me", auth=("alice", "demo"))
        return f"JSESSIONID={answer.cookies['JSESSIONID']}"


async def begin(through: Link, transport: str, **more: Any) -> dict[str, Any]:
    """A session that was connected once; returns its next connects."""
    [hello] = await through.ask(HELLO | more)
    assert hello["successful"], hello
    connect = {"channel": "/meta/connect", "connectionType": transport, "clientId": hello["clientId"]}
    assert (await through.ask(connect))[-1]["successful"]
    return connect


def running(factory: pytest.TempPathFactory, name: str, **settings: str) -> Iterator[System]:
    with embedded_system(factory.mktemp(name), **TIMEOUT, **settings) as system:
        yield system


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    checked = {"CALLTAG_NOTIFIER__CREDENTIAL_RECHECK_S": "0.5"}
    yield from running(tmp_path_factory, "idle", CALLTAG_SESSION__IDLE_S="1", **checked)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    yield from running(tmp_path_factory, "short", CALLTAG_SESSION__LIFETIME_S="3")


@pytest.fixture(scope="module")
def active(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    yield from running(tmp_path_factory, "active", CALLTAG_NOTIFIER__ACTIVITY_S="1",
                       CALLTAG_NOTIFIER__HANDSHAKE_RECONNECT="true")  # fmt: skip


def is_told(system: System, reason: str, client_id: str) -> bool:
    """Whether the log tells of the end of the session, as operators name it."""
    line = re.compile(rf'"session": ?"{handle_of(client_id)}"')
    lines = [each for each in system.logs().splitlines() if "cometd_session_ended" in each and line.search(each)]
    assert client_id not in system.logs()
    return any(f'"{reason}"' in each for each in lines)


@TRANSPORTS
async def test_a_session_by_cookie_ends_with_a_login_that_was_idle(idle: System, transport: str) -> None:
    async with link(idle, transport, await signed_in(idle)) as through:
        connect = await begin(through, transport)
        assert (await through.ask(connect))[-1]["successful"], "it is held for longer than the login may be idle"
        reply = (await through.ask(connect))[-1]
        assert (reply["error"], reply["advice"]["reconnect"]) == ("402::Unknown client", "handshake")
        await eventually(lambda: is_told(idle, "login_ended", connect["clientId"]))


@TRANSPORTS
@pytest.mark.parametrize("by_cookie", [True, False])
async def test_a_session_ends_with_the_lifetime_of_its_login(short: System, transport: str, by_cookie: bool) -> None:
    cookie = await signed_in(short) if by_cookie else ""
    async with link(short, transport, cookie) as through:
        connect = await begin(through, transport, **({} if by_cookie else CREDENTIALS))
        replies: list[dict[str, Any]] = []

        async def is_over() -> bool:
            replies.append((await through.ask(connect | {"advice": {"timeout": 200}}))[-1])
            return not replies[-1]["successful"]

        await eventually(is_over)
        assert len(replies) > 3, "it lives for a while"
        assert (replies[-1]["error"], replies[-1]["advice"]["reconnect"]) == ("402::Unknown client", "handshake")
        await eventually(lambda: is_told(short, "login_ended", connect["clientId"]))


@TRANSPORTS
async def test_a_client_that_only_connects_is_disconnected(active: System, transport: str) -> None:
    async with link(active, transport, await signed_in(active)) as through:
        connect = await begin(through, transport)
        first = (await through.ask(connect))[-1]
        assert (first["successful"], first["advice"]["maxInterval"]) == (True, 10_000)
        assert (await through.ask({"channel": "/service/x", "clientId": connect["clientId"]}))[0]["successful"]
        assert (await through.ask(connect))[-1]["successful"], "it was active"
        farewell, reply = await through.ask(connect)
        assert (farewell["channel"], farewell["successful"]) == ("/meta/disconnect", True)
        assert (reply["successful"], reply["advice"]["reconnect"]) == (True, "none")
        await eventually(lambda: is_told(active, "inactive", connect["clientId"]))
        assert not (await through.ask(connect))[-1]["successful"]
