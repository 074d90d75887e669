"""Bounds and deadlines of a connection: heads, bodies, clients that do not read, pipelined requests."""

import asyncio
import contextlib
import gc
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import ref

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from calltag.core.http.request_parser import RequestLimit
from calltag.core.http.server import Server, ServerOptions, bound_socket, serving
from calltag.core.process.tls import OwnCertificate, ServerTls
from calltag.core.settings.sections import Http
from parts.certificates import Authority
from parts.eventually import eventually

DEADLINE_S = 0.4
IMPATIENT = ServerOptions(Http(head_deadline_s=DEADLINE_S))
MAX_HEAD_BYTES = Http().max_head_bytes
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
    async with serving(held, listener, drain_timeout_s=1, options=IMPATIENT) as port:
        yield port


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\n"])
async def test_a_head_without_end_is_refused(connection: Connection, start: bytes) -> None:
    await connection.send(start)
    filler = FILLER if not start.endswith(b"\n") else b"A: %b\r\n" % (b"x" * 1_000)
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
        assert status.startswith(b"HTTP/1.1 431")


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


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Sized:
    """Answers with a body of `size` bytes, and counts the requests that it was given."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.served = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.served += 1
        await self.go.wait()
        await PlainTextResponse(b"x" * self.size)(scope, receive, send)


@asynccontextmanager
async def counted(app: ASGIApp, **bounds: float) -> AsyncIterator[tuple[Server, int, Counter[RequestLimit]]]:
    """A server with these bounds, its port, and how often it refused for each limit."""
    refused: Counter[RequestLimit] = Counter()
    options = ServerOptions(Http.model_validate(bounds), body_deadline_s=bounds.get("head_deadline_s", 10.0))
    server = Server(app, options, lambda limit: refused.update([limit]))
    async with server.serving(bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port:
        yield server, port, refused


def parked_bytes(server: Server) -> int:
    """Bytes that the connections of the server hold unparsed."""
    return sum(each.unparsed for each in server.connections)


async def test_requests_behind_the_one_that_is_served_wait_unparsed_and_bounded() -> None:
    app = Sized(2)
    app.go.clear()
    many = 8_000
    async with counted(app) as (server, port, _), connected(port) as connection:
        sending = asyncio.create_task(connection.send(GET * many))
        await eventually(lambda: app.served == 1 and parked_bytes(server) >= 65_536)
        assert parked_bytes(server) <= 2 * 65_536
        app.go.set()
        for _ in range(many):
            assert (await connection.answer())[0] == b"HTTP/1.1 200 OK"
        await sending
        assert app.served == many


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async with counted(Sized(50_000_000), write_stall_s=0.3) as (_, port, refused):
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            deaf.setblocking(False)
            await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", port))
            await asyncio.get_running_loop().sock_sendall(deaf, GET)
            await eventually(lambda: refused[RequestLimit.WRITE_STALL] == 1)


async def test_requests_of_a_client_that_reads_nothing_wait_for_its_reading() -> None:
    app = Sized(1_000)
    many = 50_000
    async with counted(app) as (server, port, _):
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            deaf.setblocking(False)
            await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", port))
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(deaf, GET * many))
            await eventually(lambda: any(not each.is_writable for each in server.connections))
            # Answers that are on their way may still be written.
            for _ in range(100):
                await asyncio.sleep(0)
            (connection,) = server.connections
            assert connection.transport.get_write_buffer_size() < 2 * 65_536
            assert app.served < many
            sending.cancel()


async def test_a_client_that_reads_slowly_is_served_to_the_end() -> None:
    size = 3_000_000
    async with counted(Sized(size), write_stall_s=0.5) as (_, port, refused):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4_096)
        writer.write(GET.replace(b"Host", b"Connection: close\r\nHost"))
        read = 0
        while part := await reader.read(65_536):
            read += len(part)
            await asyncio.sleep(0.02)
        assert read > size
        assert not refused
        writer.close()


async def test_an_answer_that_nobody_reads_does_not_keep_a_closed_connection() -> None:
    async with counted(Sized(50_000), close_deadline_s=0.3) as (server, port, _):
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            deaf.setblocking(False)
            await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", port))
            request = GET.replace(b"Host", b"Connection: close\r\nHost")
            await asyncio.get_running_loop().sock_sendall(deaf, request)
            await eventually(lambda: server.places.taken == 0)


@pytest.mark.parametrize("body", [b"", b"12345"])
async def test_a_client_that_has_closed_its_sending_side_gets_its_answers(connection: Connection, body: bytes) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    await connection.send(2 * (request + body))
    connection.writer.write_eof()
    for _ in range(2):
        assert (await connection.answer())[1] == b"%d" % len(body)
    await connection.closed()


async def test_an_offered_upgrade_leaves_body_and_connection_in_step(connection: Connection) -> None:
    await connection.send(
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n"
    )
    await connection.send(b"12345" + GET)
    assert (await connection.answer())[1] == b"5"
    assert (await connection.answer())[1] == b"0"


@pytest.mark.parametrize("filling", [b"a: b\r\n", b"a:" + b"x" * 10_000])
async def test_trailers_are_bounded(connection: Connection, filling: bytes) -> None:
    await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(200_000 // len(filling)):
            await connection.send(filling)
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        assert (await connection.answer())[0] == b"HTTP/1.1 400 Bad Request"


async def unread(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("no", 401)(scope, receive, send)


async def test_a_small_body_that_nobody_read_is_dropped_and_the_connection_goes_on() -> None:
    async with counted(unread) as (_, port, _), connected(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n")
        assert (await connection.answer())[0] == b"HTTP/1.1 401 Unauthorized"
        await connection.send(b"x" * 30_000 + GET)
        assert (await connection.answer())[0] == b"HTTP/1.1 401 Unauthorized"


async def test_a_large_body_that_nobody_read_ends_the_connection_after_the_answer() -> None:
    async with counted(unread) as (_, port, _), connected(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1_000)
        assert (await connection.answer())[0] == b"HTTP/1.1 401 Unauthorized"
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                await connection.send(b"x" * 10_000)
        assert connection.writer.is_closing() or connection.reader.at_eof()


async def test_a_body_that_nobody_read_and_that_does_not_come_is_not_waited_for() -> None:
    async with counted(unread, head_deadline_s=0.3) as (_, port, refused), connected(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        assert (await connection.answer())[0] == b"HTTP/1.1 401 Unauthorized"
        await connection.closed()
        assert refused == {RequestLimit.BODY_DEADLINE: 1}


async def test_a_body_is_asked_for_when_it_is_read(connection: Connection) -> None:
    await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.send(b"123")
    assert (await connection.answer())[1] == b"3"


async def test_a_body_that_was_not_asked_for_ends_the_connection() -> None:
    async with counted(unread) as (_, port, _), connected(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in head


async def test_a_malformed_chunk_ends_the_request_that_it_belongs_to() -> None:
    asked = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        await count(scope, receive, send)

    async with counted(app) as (_, port, refused), connected(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n")
        await asked.wait()
        await connection.send(b"abcd\r\n")
        assert (await connection.answer())[0] == b"HTTP/1.1 400 Bad Request"
        await connection.closed()
        assert refused == {RequestLimit.MALFORMED: 1}


@pytest.mark.parametrize("error", [RuntimeError("broken"), None])
async def test_an_application_that_fails_is_answered_for(error: Exception | None) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if error is not None:
            raise error

    async with counted(app) as (_, port, _), connected(port) as connection:
        await connection.send(GET)
        assert (await connection.answer())[0] == b"HTTP/1.1 500 Internal Server Error"
        await connection.closed()


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: b", b"a\nb"])
async def test_an_answer_with_a_line_end_in_a_field_is_not_sent(value: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", value)]})
        await send({"type": "http.response.body", "body": b""})

    async with counted(app) as (_, port, _), connected(port) as connection:
        await connection.send(GET)
        assert (await connection.answer())[0] == b"HTTP/1.1 500 Internal Server Error"


async def parts(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (b"a", b"", b"bc"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        (b"GET / HTTP/1.1", b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
        (b"GET / HTTP/1.0", b"abc"),
        (b"HEAD / HTTP/1.1", b""),
    ],
)
async def test_a_body_of_unknown_length_is_framed_by_the_version(request_line: bytes, expected: bytes) -> None:
    async with counted(parts) as (_, port, _), connected(port) as connection:
        await connection.send(request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(10):
            head, _, body = (await connection.reader.read()).partition(b"\r\n\r\n")
    assert body == expected
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")


def kept() -> int:
    """Parsers and exchanges in this process; tracebacks that other tests logged may keep some."""
    kinds = {"HeadParser", "HttpRequestParser", "AsgiExchange", "DirectRequest"}
    return sum(type(each).__name__ in kinds for each in gc.get_objects())


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET], ids=["nothing", "half a head", "a request"])
@pytest.mark.parametrize("by_tls", [False, True])
async def test_what_has_ended_leaves_nothing_to_the_garbage_collector(
    sent: bytes, tmp_path: Path, *, by_tls: bool
) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("server", "127.0.0.1")
    options = ServerOptions(tls=ServerTls(OwnCertificate(issued.cert, issued.key)) if by_tls else None)
    trusted = ssl.create_default_context(cafile=authority.ca) if by_tls else None
    server = Server(count, options)
    async with server.serving(bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port:
        gc.collect()
        before = kept()
        gc.disable()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
            writer.write(sent)
            if sent == GET:
                await reader.readuntil(b"\r\n\r\n")
            await eventually(lambda: len(server.connections) == 1)
            ended = ref(next(iter(server.connections)))
            writer.close()
            await eventually(lambda: ended() is None)
            assert kept() == before
        finally:
            gc.enable()


async def test_a_client_that_goes_away_is_noticed() -> None:
    gone = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        gone.set()

    async with counted(app) as (_, port, _):
        async with connected(port) as connection:
            await connection.send(GET)
        async with asyncio.timeout(10):
            await gone.wait()


def posted(body: bytes, *fields: bytes) -> bytes:
    head = [b"POST / HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@pytest.mark.parametrize("size", [1_000, 65_536, 70_000, 100_000, 131_072])
async def test_a_request_behind_a_body_that_nobody_read_is_answered_or_seen_not_to_be(size: int) -> None:
    async with counted(unread) as (_, port, _), connected(port) as connection:
        await connection.send(posted(b"x" * size))
        head = (await connection.reader.readuntil(b"\r\n\r\n")).lower()
        assert await connection.reader.readexactly(2) == b"no"
        if b"connection: close" not in head:
            await connection.send(GET)
            assert (await connection.answer())[0] == b"HTTP/1.1 401 Unauthorized"


@pytest.mark.parametrize("size", [70_000, 250_000])
async def test_a_large_body_before_a_half_close_is_read_whole(connection: Connection, size: int) -> None:
    connection.writer.write(posted(b"x" * size))
    connection.writer.write_eof()
    assert (await connection.answer())[1] == b"%d" % size
    await connection.closed()


async def test_a_body_that_ends_with_its_connection_is_not_waited_for() -> None:
    outcomes: list[type[Exception]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await Request(scope, receive).body()
        except ClientDisconnect as error:
            outcomes.append(type(error))

    async with counted(app) as (_, port, _), connected(port) as connection:
        await connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5")
        connection.writer.write_eof()
        await eventually(lambda: outcomes == [ClientDisconnect])


async def test_the_last_answer_of_a_connection_is_sent_for_as_long_as_it_is_read() -> None:
    size = 200_000
    async with counted(Sized(size), close_deadline_s=0.3) as (_, port, refused):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2_048)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        writer.write(GET.replace(b"Host", b"Connection: close\r\nHost"))
        read = 0
        while part := await reader.read(10_000):
            read += len(part)
            await asyncio.sleep(0.02)
        assert read > size
        assert not refused
        writer.close()


async def test_what_all_connections_hold_together_is_bounded() -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await count(scope, receive, send)

    async with counted(app, max_received_bytes=1_048_576) as (server, port, refused):
        writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(20)]
        for writer in writers:
            writer.write(posted(b"x" * 200_000)[:100_000])
        await eventually(lambda: refused[RequestLimit.RECEIVED_BYTES] > 0)
        async with connected(port) as small:
            await small.send(posted(b"x" * 100))
            go.set()
            assert (await small.answer())[1] == b"100"
        for writer in writers:
            writer.close()
        await eventually(lambda: server.places.taken == 0)
        assert server.hold(0)
        assert server._held_bytes == 0


async def test_an_answer_to_head_has_no_body_whoever_writes_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    async with counted(app) as (_, port, _), connected(port) as connection:
        await connection.send(GET.replace(b"GET", b"HEAD"))
        async with asyncio.timeout(10):
            answer = await connection.reader.read()
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert answer.endswith(b"\r\n\r\n")
