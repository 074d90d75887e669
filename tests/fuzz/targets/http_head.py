"""HTTP as it comes: bytes in pieces, given to the server's protocol without a socket."""

import asyncio
from typing import Any

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from calltag.core.runtime.bounded_http import MAX_HEAD_BYTES, bounded_http
from fuzz.target import LOOP, Target

WORDS = [
    b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\x00", b":", b" ",
    b"Content-Length: 3\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n",
    b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"HTTP/1.0", b"x" * 4_000, b"\xff",
    b"%", b"http://a:b/", b"Host: [\r\n",
]  # fmt: skip
SEEDS = [
    b"\xffGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x07POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
    b"\x40POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"\xffGET / HTTP/1.1\r\n" + b"X: " + b"y" * 5_000,
    b"\xffGET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEAD_BYTES // 6 + 100),
]


class Wire(asyncio.Transport):
    """What the server writes, and whether it has closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Application:
    """Answers with the size of the body, and remembers what it could not answer."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        try:
            await PlainTextResponse(str(len(body)))(scope, receive, send)
        except Exception as error:
            self.failures.append(error)
            raise


def one_input(data: bytes) -> None:
    """The first byte is the size of a piece; what the server says is HTTP, and a head has a largest size."""
    LOOP.run(_serve(data[1:], 1 + (data[0] if data else 0)))


async def _serve(data: bytes, piece: int) -> None:
    application, wire = Application(), Wire()
    config = uvicorn.Config(application, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    protocol = bounded_http(60.0)(config, ServerState(), {})
    protocol.connection_made(wire)
    heads = 0
    for start in range(0, len(data), piece):
        if wire.closed:
            break
        protocol.data_received(data[start : start + piece])
        heads = protocol._head_bytes or 0
        assert heads <= MAX_HEAD_BYTES + piece or wire.closed
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    if protocol.tasks:
        await asyncio.wait(set(protocol.tasks))
    assert not application.failures
    assert not wire.written or wire.written.startswith(b"HTTP/1.1 ")
    assert len(wire.written) <= 256 * (1 + data.count(b"\n"))


TARGET = Target("http_head", one_input, SEEDS, WORDS, max_bytes=100_000)
