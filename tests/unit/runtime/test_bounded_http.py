"""The head of a request is bounded; bodies and many requests on one connection are not touched by that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from calltag.core.runtime.bounded_http import MAX_HEAD_BYTES
from calltag.core.runtime.server import ServerLimits, bound_socket, serving
from parts.eventually import eventually

DEADLINE_S = 0.4
IMPATIENT = ServerLimits(head_deadline_s=DEADLINE_S)
FILLER = b"x" * 8_192


async def count(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size of the body."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, part: bytes) -> None:
        self.writer.write(part)
        await self.writer.drain()

    async def closed(self) -> None:
        """Wait until the server has closed the connection without another answer."""
        async with asyncio.timeout(10):
            assert await self.reader.read() == b""

    async def answer(self) -> tuple[bytes, bytes]:
        """Status line and body."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            return head.partition(b"\r\n")[0], await self.reader.readexactly(int(length.partition(b":")[2]))


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    listener = bound_socket("127.0.0.1", 0, "--port")
    async with serving(count, listener, drain_timeout_s=1) as port, connected(port) as made:
        yield made


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


class Held:
    """Answers with the size of the body once `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await echo(WebSocket(scope, receive, send))
        await self.go.wait()
        return await count(scope, receive, send)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
async def impatient(held: Held) -> AsyncIterator[int]:
    """The port of a server that waits no longer than DEADLINE_S for a head."""
    listener = bound_socket("127.0.0.1", 0, "--port")
    async with serving(held, listener, drain_timeout_s=1, limits=IMPATIENT) as port:
        yield port


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\n"])
async def test_a_head_without_end_is_refused(connection: Connection, start: bytes) -> None:
    await connection.send(start)
    filler = FILLER if not start.endswith(b"\n") else b"A: b\r\n" * 1_000
    refused = asyncio.create_task(connection.answer())
    sent = 0
    while not refused.done():
        try:
            await connection.send(filler)
        except ConnectionError:
            break
        sent += len(filler)
        assert sent < 100 * MAX_HEAD_BYTES
        await asyncio.sleep(0)
    assert sent >= MAX_HEAD_BYTES
    # Who goes on sending may find the connection reset before having read the answer.
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        status, _ = await refused
        assert status.startswith(b"HTTP/1.1 400")


async def test_a_large_body_is_none_of_its_business(connection: Connection) -> None:
    size = 5 * MAX_HEAD_BYTES
    await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    for _ in range(size // len(FILLER)):
        await connection.send(FILLER)
    assert await connection.answer() == (b"HTTP/1.1 200 OK", b"%d" % size)


async def test_many_requests_in_pieces_on_one_connection(connection: Connection) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 30_000 + b"\r\nContent-Length: 5\r\n\r\n"
    for _ in range(5):
        for start in range(0, len(head), 10_000):
            await connection.send(head[start : start + 10_000])
        await connection.send(b"12345")
        assert await connection.answer() == (b"HTTP/1.1 200 OK", b"5")


async def test_a_head_may_follow_a_large_body_at_once(connection: Connection) -> None:
    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000
    await connection.send(body + b"GET / HTTP/1.1\r\n")
    assert (await connection.answer())[1] == b"200000"
    await connection.send(b"Host: x\r\n\r\n")
    assert await connection.answer() == (b"HTTP/1.1 200 OK", b"0")


@pytest.mark.parametrize("start", [b"", b"\r\n", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_connection_without_a_whole_head_is_closed(impatient: int, start: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with connected(impatient) as connection:
        began = loop.time()
        await connection.send(start)
        await connection.closed()
        assert loop.time() - began > DEADLINE_S / 2


async def test_a_head_that_comes_drop_by_drop_is_not_waited_for(impatient: int) -> None:
    async with connected(impatient) as connection:
        await connection.send(b"GET / HTTP/1.1\r\nX: ")

        async def closed() -> bool:
            with contextlib.suppress(ConnectionError):
                await connection.send(b"x")
            return connection.reader.at_eof() or connection.reader.exception() is not None

        await eventually(closed, within_s=10)


@pytest.mark.parametrize("start", [b"\r\n", b"GET /"])
async def test_a_later_head_is_waited_for_as_long_as_the_first(impatient: int, held: Held, start: bytes) -> None:
    held.go.set()
    async with connected(impatient) as connection:
        await connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await connection.answer())[0] == b"HTTP/1.1 200 OK"
        await connection.send(start)
        await connection.closed()


async def test_a_kept_connection_may_be_idle_for_longer(impatient: int, held: Held) -> None:
    held.go.set()
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with connected(impatient) as connection, connected(impatient) as silent:
        await connection.send(request)
        assert (await connection.answer())[0] == b"HTTP/1.1 200 OK"
        await silent.closed()
        async with connected(impatient) as another:
            await another.closed()
        await connection.send(request)
        assert (await connection.answer())[0] == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("more", [b"", b"12", b"12345GET / HT"])
async def test_neither_answers_nor_bodies_are_hurried(impatient: int, held: Held, more: bytes) -> None:
    async with connected(impatient) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n" + more)
        for _ in range(2):
            async with connected(impatient) as silent:
                await silent.closed()
        held.go.set()
        if len(more) < 5:
            await connection.send(b"12345"[len(more) :])
        assert await connection.answer() == (b"HTTP/1.1 200 OK", b"5")


async def test_a_websocket_is_no_head_that_is_late(impatient: int) -> None:
    async with connect(f"ws://127.0.0.1:{impatient}/") as socket:
        for _ in range(2):
            async with connected(impatient) as silent:
                await silent.closed()
        await socket.send("still there")
        assert await socket.recv() == "still there"
