"""Clients that open a connection and then take their time."""

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from parts.system import System, embedded_system

DEADLINE_S = 1.0
ALICE = "Basic " + b64encode(b"alice:demo").decode()
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]}
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(
        tmp_path_factory.mktemp("impatient"),
        CALLTAG_BODY_DEADLINE_S=str(DEADLINE_S),
        CALLTAG_NOTIFIER__SOCKET_DEADLINE_S=str(DEADLINE_S),
    ) as running:
        yield running


@dataclass
class Answered:
    head: str
    body: str
    took_s: float


async def begin_body(system: System, path: str, length: str, part: bytes) -> Answered:
    """Send a head and a part of the body, and read until the server closes the connection."""
    url = httpx.URL(system.gateway_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: {ALICE}", "Content-Type: application/json", length]
    began = time.monotonic()
    writer.write("\r\n".join([*head, "", ""]).encode() + part)
    async with asyncio.timeout(DEADLINE_S + 10):
        answer = await reader.read()
    writer.close()
    start, _, body = answer.decode().partition("\r\n\r\n")
    return Answered(start, body, time.monotonic() - began)


SLOW = pytest.mark.parametrize(
    ("length", "part"), [("Content-Length: 10", b"{"), ("Content-Length: 10", b""), (CHUNKED, b"2\r\n{ \r\n")]
)


@SLOW
@pytest.mark.parametrize("path", ["/api/v2/me", "/api/v2/me/calls/x"])
async def test_the_gateway_waits_so_long_for_a_body(impatient: System, path: str, length: str, part: bytes) -> None:
    answered = await begin_body(impatient, path, length, part)
    assert answered.head.startswith("HTTP/1.1 408 ")
    told = json.loads(answered.body)
    assert told["statusCode"] == 10
    assert "did not come within 1 s (CALLTAG_BODY_DEADLINE_S)" in told["statusMessage"]
    assert answered.took_s >= DEADLINE_S


@SLOW
async def test_cometd_waits_so_long_for_a_body(impatient: System, length: str, part: bytes) -> None:
    answered = await begin_body(impatient, "/genesys/cometd", length, part)
    assert answered.head.startswith("HTTP/1.1 400 ")
    assert "content-type: text/plain" in answered.head
    assert "did not come within 1 s (CALLTAG_BODY_DEADLINE_S)" in answered.body
    assert answered.took_s >= DEADLINE_S


async def exchange(socket: ClientConnection, message: dict[str, Any]) -> dict[str, Any]:
    await socket.send(json.dumps([message]))
    answer: list[dict[str, Any]] = json.loads(await socket.recv())
    return answer[-1]


@asynccontextmanager
async def opened(system: System) -> AsyncIterator[ClientConnection]:
    url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    async with connect(url, additional_headers={"Authorization": ALICE}) as socket:
        yield socket


async def check_closed(socket: ClientConnection) -> None:
    async with asyncio.timeout(DEADLINE_S + 10):
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert closed.value.rcvd.reason == "no session was connected within 1 s (CALLTAG_NOTIFIER__SOCKET_DEADLINE_S)"


async def test_a_websocket_without_a_session_is_closed(impatient: System) -> None:
    began = time.monotonic()
    async with opened(impatient) as socket:
        await check_closed(socket)
    assert time.monotonic() - began >= DEADLINE_S


async def test_a_handshake_alone_connects_no_session(impatient: System) -> None:
    async with opened(impatient) as socket:
        assert (await exchange(socket, HELLO))["successful"]
        await check_closed(socket)


async def test_a_websocket_with_a_session_stays_open(impatient: System) -> None:
    async with opened(impatient) as socket:
        hello = await exchange(socket, HELLO)
        message = {"channel": "/meta/connect", "clientId": hello["clientId"], "connectionType": "websocket"}
        assert (await exchange(socket, message))["successful"]
        async with opened(impatient) as other:
            await check_closed(other)
        leave = {"channel": "/meta/disconnect", "clientId": hello["clientId"]}
        assert (await exchange(socket, leave))["successful"]


async def test_a_websocket_whose_session_has_ended_is_closed(impatient: System) -> None:
    async with opened(impatient) as socket:
        for _ in range(2):
            hello = await exchange(socket, HELLO)
            session = {"clientId": hello["clientId"]}
            connect_now = {"channel": "/meta/connect", "connectionType": "websocket", "advice": {"timeout": 0}}
            assert (await exchange(socket, connect_now | session))["successful"]
            assert (await exchange(socket, {"channel": "/meta/disconnect"} | session))["successful"]
        await check_closed(socket)
