"""HTTP as it comes: bytes in pieces, given to a connection of the server without a socket.

Requests by POST are served directly, every second one of them later; all others by the application.
"""

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from calltag.core.http.direct import DirectRequest
from calltag.core.http.server import Server, ServerOptions
from calltag.core.settings.sections import Http
from fuzz.peer import Peer
from fuzz.target import LOOP, Target
from parts.direct_handlers import Answering

MAX_HEAD_BYTES = Http().max_head_bytes
WORDS = [
    b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\x00", b":", b" ",
    b"Content-Length: 3\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n",
    b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"HTTP/1.0", b"x" * 4_000, b"\xff",
    b"%", b"http://a:b/", b"Host: [\r\n", b"0\r\nA: b\r\n\r\n", b";a=b", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
]  # fmt: skip
SEEDS = [
    b"\xffGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x07POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
    b"\x40POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nA: b\r\n\r\n",
    b"\xffPOST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
    b"\xffGET / HTTP/1.1\r\n" + b"X: " + b"y" * 5_000,
    b"\xffGET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEAD_BYTES // 6 + 100),
]


class Application:
    """Answers with the size of the body, and remembers what it could not answer."""

    def __init__(self) -> None:
        self.served = 0
        self.failures: list[BaseException] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.served += 1
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        try:
            await PlainTextResponse(str(len(body)))(scope, receive, send)
        except Exception as error:
            self.failures.append(error)
            raise


class Direct(Answering):
    """Answers with the size of the body, or with a refusal of it."""

    def __init__(self, application: Application) -> None:
        super().__init__(lambda head: head.method == "POST")
        self.max_body_bytes = 1_000
        self._application = application

    def handle(self, request: DirectRequest) -> None:
        self._application.served += 1
        if self._application.served % 2:
            self._answer(request)
        else:
            asyncio.get_running_loop().call_soon(self._answer, request)

    def _answer(self, request: DirectRequest) -> None:
        request.respond(200, (), b"%d" % len(request.body))

    def refuse_size(self, request: DirectRequest) -> None:
        self._application.served += 1
        super().refuse_size(request)


def one_input(data: bytes) -> None:
    """The first byte is the size of a piece; each answer is HTTP, and there are no more of them than requests."""
    LOOP.run(_serve(data[1:], 1 + (data[0] if data else 0)))


async def _serve(data: bytes, piece: int) -> None:
    application = Application()
    server = Server(application, ServerOptions(), direct=Direct(application))
    peer = Peer(server)
    connection, wire = peer.connection, peer.wire
    await peer.send(data, piece)
    while connection.unparsed and not wire.closed:
        before = connection.unparsed
        await asyncio.sleep(0.001)
        if connection.unparsed == before:
            break
    peer.go()
    if server.tasks:
        await asyncio.wait(set(server.tasks))
    assert not application.failures
    assert not wire.written or wire.written.startswith(b"HTTP/1.1 ")
    answers = wire.written.count(b"HTTP/1.1 ") - wire.written.count(b"HTTP/1.1 100 ")
    assert answers <= application.served + 1
    assert application.served <= data.count(b"\r\n\r\n") + 1


TARGET = Target("http_head", one_input, SEEDS, WORDS, max_bytes=100_000)
