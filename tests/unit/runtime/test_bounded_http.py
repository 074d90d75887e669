"""The head of a request is bounded; bodies and many requests on one connection are not touched by that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from calltag.core.runtime.bounded_http import MAX_HEAD_BYTES
from calltag.core.runtime.server import bound_socket, serving

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

    async def answer(self) -> tuple[bytes, bytes]:
        """Status line and body."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            return head.partition(b"\r\n")[0], await self.reader.readexactly(int(length.partition(b":")[2]))


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    async with serving(count, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield Connection(reader, writer)
        writer.close()


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
