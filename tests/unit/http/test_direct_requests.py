"""Requests on the direct path: responded to at once or later, under the same bounds and deadlines as all others."""

import asyncio
import errno
import gc
import logging
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from starlette.types import Receive, Scope, Send

from calltag.core.http.direct import DirectRequest, RequestHandler, RequestHead, response_lines
from calltag.core.http.request_parser import RequestLimit
from calltag.core.http.server import Server, ServerOptions, bound_socket
from calltag.core.process.tls import OwnCertificate, ServerTls
from calltag.core.settings.sections import Http
from parts.certificates import Authority
from parts.direct_handlers import Answering, Suspending, application
from parts.eventually import eventually, turns
from parts.raw_http import Address, Answer, Connection, chunked, connection, get, head

WITHIN_S = 15.0
GET = get("a")


def post(body: bytes, *fields: str) -> bytes:
    return head("POST /read HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields) + body


@asynccontextmanager
async def served(
    handler: RequestHandler,
    *,
    drain_timeout_s: float = 0,
    options: ServerOptions | None = None,
    **bounds: float,
) -> AsyncIterator[tuple[Server, Address, Counter[RequestLimit]]]:
    """A server with these bounds, and how often it refused for each limit."""
    refused: Counter[RequestLimit] = Counter()
    body_deadline_s = bounds.pop("body_deadline_s", 10.0)
    limits = Http.model_validate(bounds)
    options = options or ServerOptions(limits, body_deadline_s=body_deadline_s)
    server = Server(application, options, lambda limit: refused.update([limit]), handler)
    listener = bound_socket("127.0.0.1", 0, "--port")
    async with server.serving(listener, drain_timeout_s=drain_timeout_s) as port:
        yield server, Address(port), refused


@asynccontextmanager
async def connected(
    handler: RequestHandler, *, options: ServerOptions | None = None, **bounds: float
) -> AsyncIterator[tuple[Connection, Server, Counter[RequestLimit]]]:
    """The same with one connection."""
    async with (
        served(handler, options=options, **bounds) as (server, address, refused),
        connection(address) as opened,
    ):
        yield opened, server, refused


async def one(opened: Connection, count: int = 1) -> Answer:
    """The last of so many answers."""
    found = await opened.final(count, WITHIN_S)
    assert len(found) == count, ", ".join(map(str, found))
    return found[-1]


@pytest.fixture
def handler() -> Suspending:
    return Suspending()


class Calling(Answering):
    """Does with each request what the test says."""

    def __init__(self, handle: Callable[[DirectRequest], object]) -> None:
        super().__init__()
        self._handle = handle

    def handle(self, request: DirectRequest) -> None:
        self._handle(request)


# Suspended


async def test_a_request_is_answered_later_and_the_connection_goes_on(handler: Suspending) -> None:
    async with connected(handler) as (opened, server, _):
        for number in range(1, 4):
            await opened.send([post(b"%d" % number)])
            await eventually(lambda: len(handler.suspended) == 1)
            assert not server.tasks
            assert handler.answer(b"answer")
            answer = await one(opened, number)
            assert (answer.status, answer.body, answer.fields["x-a"]) == (200, b"answer", "b")
            assert {"date", "content-length"} <= answer.fields.keys()
        assert handler.bodies == [b"1", b"2", b"3"]
        assert not handler.gone


async def test_a_request_is_answered_once(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        await opened.send([GET + GET])
        await eventually(lambda: len(handler.suspended) == 1)
        request = handler.suspended[0]
        before, done = request.is_open, handler.answer()
        assert (before, done, request.is_open) == (True, True, False)
        assert not request.respond(200, (), b"again")
        assert not request.respond_prepared(response_lines(200, ()), b"again")
        await eventually(lambda: len(handler.suspended) == 1)
        handler.answer(b"second")
        assert (await one(opened, 2)).body == b"second"


async def test_a_client_that_disconnects_is_noticed(handler: Suspending) -> None:
    async with served(handler) as (server, address, _):
        async with connection(address) as opened:
            await opened.send([GET])
            await eventually(lambda: len(handler.suspended) == 1)
            _reset(opened)
        await eventually(lambda: handler.gone == [True])
        assert not handler.suspended[0].is_open
        assert not handler.answer()
        assert not server.connections


async def test_a_client_that_sends_no_more_still_gets_its_answer(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        await opened.send([GET])
        await eventually(lambda: len(handler.suspended) == 1)
        opened.writer.write_eof()
        await eventually(lambda: handler.gone == [False])
        assert handler.suspended[0].is_half_closed
        assert handler.answer()
        assert (await one(opened)).status == 200
        assert await opened.closes(WITHIN_S)
        assert handler.gone == [False]


async def test_by_tls_a_client_that_sends_no_more_has_disconnected(handler: Suspending, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("server", "localhost")
    options = ServerOptions(tls=ServerTls(OwnCertificate(issued.cert, issued.key)))
    async with served(handler, options=options) as (server, plain, _):
        address = Address(plain.port, tls=ssl.create_default_context(cafile=authority.ca))
        async with connection(address) as opened:
            await opened.send([GET])
            await eventually(lambda: len(handler.suspended) == 1)
            assert handler.suspended[0].scheme == "https"
        await eventually(lambda: handler.gone == [True])
        assert not handler.answer()
        await eventually(lambda: not server.connections)


async def test_a_half_close_that_came_with_the_request_is_noticed(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        opened.writer.write(GET + GET)
        opened.writer.write_eof()
        for _ in range(2):
            await eventually(lambda: len(handler.suspended) == 1 == len(handler.gone))
            assert not handler.gone.pop()
            handler.answer()
        await one(opened, 2)
        assert await opened.closes(WITHIN_S)


async def test_who_waits_on_after_a_half_close_can_notice_the_end(handler: Suspending) -> None:
    async with served(handler) as (_, address, __):
        async with connection(address) as opened:
            await opened.send([GET])
            await eventually(lambda: len(handler.suspended) == 1)
            request = handler.suspended[0]

            def half_closed(is_lost: bool) -> None:
                handler.gone.append(is_lost)
                request.on_gone = handler.gone.append

            request.on_gone = half_closed
            opened.writer.write_eof()
            await eventually(lambda: handler.gone == [False])
            request.keeps_alive = True
            opened.writer.transport.abort()
        # A loop need not look at a socket on which nothing can come, so writing shows it.
        handler.answer(b"x" * 10_000_000)
        await eventually(lambda: not request.is_open)


async def test_what_is_pipelined_waits_unparsed_and_bounded(handler: Suspending) -> None:
    many = 8_000
    async with connected(handler) as (opened, server, _):
        sending = asyncio.create_task(opened.send([GET * many]))
        await eventually(lambda: sum(each.unparsed for each in server.connections) >= 65_536)
        assert sum(each.unparsed for each in server.connections) <= 2 * 65_536
        assert len(handler.bodies) == 1
        handler.suspends = False
        handler.answer()
        await sending
        await one(opened, many)


async def test_a_server_that_stops_answers_suspended_requests_as_the_last_ones(handler: Suspending) -> None:
    async with asyncio.TaskGroup() as group:
        async with served(handler, drain_timeout_s=30) as (server, address, _):
            opened = await group.create_task(_opened(address))
            await opened.send([GET])
            await eventually(lambda: len(handler.suspended) == 1)

            async def answer() -> None:
                await eventually(lambda: server.is_stopping)
                await turns()
                handler.answer()

            group.create_task(answer())
        answer_ = await one(opened)
        assert (answer_.status, answer_.fields["connection"]) == (200, "close")
        await opened.close()


async def _opened(address: Address) -> Connection:
    return Connection(*await asyncio.open_connection(address.host, address.port))


async def test_a_request_that_is_suspended_too_long_is_answered_by_the_server_that_stops(handler: Suspending) -> None:
    async with served(handler, drain_timeout_s=0.01) as (_, address, __):
        opened = await _opened(address)
        await opened.send([GET])
        await eventually(lambda: len(handler.suspended) == 1)
    answer = await one(opened)
    assert (answer.status, answer.fields["retry-after"], answer.fields["connection"]) == (503, "1", "close")
    assert handler.gone == [True]
    assert not handler.answer()
    await opened.close()


async def test_a_connection_that_holds_too_much_is_turned_away(handler: Suspending) -> None:
    async with served(handler, max_received_bytes=1_048_576) as (server, address, refused):
        opened = [await _opened(address) for _ in range(20)]
        sendings = [asyncio.create_task(each.send([GET + b"x" * 120_000])) for each in opened]
        await eventually(lambda: refused[RequestLimit.RECEIVED_BYTES] > 0)
        await eventually(lambda: handler.gone.count(True) == refused[RequestLimit.RECEIVED_BYTES])
        refusals = [each for each in opened if each.answers]
        await eventually(lambda: len([each for each in opened if each.answers]) == refused[RequestLimit.RECEIVED_BYTES])
        assert all(each.answers[0].status == 503 for each in refusals)
        for sending in sendings:
            sending.cancel()
        for each in opened:
            await each.close()
        while handler.suspended:
            handler.answer()
        await eventually(lambda: not server.connections)
        assert server._held_bytes == 0


async def test_what_hears_of_the_end_may_fail(handler: Suspending, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    def fail(is_lost: bool) -> None:
        raise RuntimeError("broken")

    async with served(handler) as (server, address, _):
        async with connection(address) as opened:
            await opened.send([GET])
            await eventually(lambda: len(handler.suspended) == 1)
            handler.suspended[0].on_gone = fail
            _reset(opened)
        await eventually(lambda: not server.connections and server.places.taken == 0)


# Bodies


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("size", [0, 1, 1_000])
async def test_a_body_in_pieces_is_handed_on_whole(handler: Suspending, framing: str, size: int) -> None:
    body = bytes(97 + number % 26 for number in range(size))
    raw = post(body)
    if framing == "chunks":
        raw = head("POST /read HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + chunked(
            *([body[:10], body[10:]] if size > 10 else [body] if size else [])
        )
    async with connected(handler) as (opened, server, _):
        for pieces in ([raw], [raw[start : start + 7] for start in range(0, len(raw), 7)]):
            await opened.send(pieces)
            await eventually(lambda: len(handler.suspended) == 1)
            assert handler.suspended[0].body == body
            assert server._held_bytes == 0
            handler.answer()
        await one(opened, 2)


@pytest.mark.parametrize("size", [1_001, 60_000])
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_that_is_too_large_is_refused_and_dropped(handler: Suspending, size: int, framing: str) -> None:
    body = b"x" * size
    raw = post(body)
    if framing == "chunks":
        raw = head("POST /read HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + chunked(body)
    async with connected(handler) as (opened, server, _):
        await opened.send([raw, GET])
        assert (await one(opened)).status == 413
        await eventually(lambda: len(handler.suspended) == 1)
        assert handler.bodies == [b""]
        assert server._held_bytes == 0
        handler.answer()
        await one(opened, 2)


async def test_a_body_that_is_far_too_large_ends_its_connection(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        await opened.send([head("POST /read HTTP/1.1", "Host: a", "Content-Length: 100000000"), b"x" * 5_000])
        answer = await one(opened)
        assert (answer.status, answer.fields["connection"]) == (413, "close")
        await opened.send(b"x" * 10_000 for _ in range(1_000))
        assert await opened.closes(WITHIN_S)
        assert not handler.bodies


@pytest.mark.parametrize("sent", [b"", b"12"])
async def test_a_body_that_is_late_is_refused(handler: Suspending, sent: bytes) -> None:
    async with connected(handler, body_deadline_s=0.2) as (opened, _, refused):
        await opened.send([head("POST /read HTTP/1.1", "Host: a", "Content-Length: 3") + sent])
        answer = await one(opened)
        assert (answer.status, answer.body, answer.fields["connection"]) == (400, b"too late", "close")
        assert await opened.closes(WITHIN_S)
        assert refused == {RequestLimit.BODY_DEADLINE: 1}
        assert not handler.bodies


async def test_only_bodies_are_hurried(handler: Suspending) -> None:
    async with connected(handler, body_deadline_s=0.5, head_deadline_s=0.5) as (opened, server, refused):
        await opened.send([head("POST /read HTTP/1.1", "Host: a", "Content-Length: 3") + b"1"])
        await eventually(lambda: server._held_bytes == 1)
        await opened.send([b"23"])
        await eventually(lambda: len(handler.suspended) == 1)
        for _ in range(3):
            async with connection(Address(server.address[1])) as silent:
                assert await silent.closes(WITHIN_S)
        handler.answer()
        assert (await one(opened)).status == 200
        assert refused == {RequestLimit.HEAD_DEADLINE: 3}


async def test_a_body_that_ends_with_its_connection_is_refused(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        opened.writer.write(head("POST /read HTTP/1.1", "Host: a", "Content-Length: 3") + b"12")
        opened.writer.write_eof()
        assert (await one(opened)).status == 400
        assert await opened.closes(WITHIN_S)
        assert not handler.bodies


async def test_a_client_that_waits_for_it_is_asked_for_the_body(handler: Suspending) -> None:
    async with connected(handler) as (opened, server, _):
        expecting = head("POST /read HTTP/1.1", "Host: a", "Content-Length: 3", "Expect: 100-continue")
        await opened.send([expecting])
        assert await opened.statuses(1, WITHIN_S) == [100]
        await opened.send([b"123"])
        await eventually(lambda: len(handler.suspended) == 1)
        handler.answer()
        # One that sends it all the same need not be asked.
        await opened.send([expecting + b"456"])
        await eventually(lambda: len(handler.suspended) == 1)
        handler.answer()
        await opened.send([expecting + b"7"])
        await eventually(lambda: server._held_bytes == 1)
        await opened.send([b"89"])
        await eventually(lambda: len(handler.suspended) == 1)
        handler.answer()
        await one(opened, 3)
        assert [each.status for each in opened.answers] == [100, 200, 200, 200]
        assert handler.bodies == [b"123", b"456", b"789"]


async def test_a_body_that_is_not_asked_for_since_it_is_too_large_ends_the_connection(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        await opened.send([head("POST /read HTTP/1.1", "Host: a", "Content-Length: 2000", "Expect: 100-continue")])
        answer = await one(opened)
        assert (answer.status, answer.fields["connection"], len(opened.answers)) == (413, "close", 1)


async def test_a_malformed_chunk_is_refused(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, refused):
        await opened.send([head("POST /read HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"), b"3\r\nabcd\r\n"])
        assert (await one(opened)).status == 400
        assert refused == {RequestLimit.MALFORMED: 1}
        assert not handler.bodies


# Heads


async def test_a_head_that_is_the_same_as_before_is_the_same_object(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        heads: list[RequestHead] = []
        for raw in (
            get("a"),
            get("a"),
            get("b"),
            get("a"),
            get("a", "X: " + "x" * 3_000),
            get("a", "X: " + "x" * 3_000),
        ):
            await opened.send([raw])
            await eventually(lambda: len(handler.suspended) == 1)
            heads.append(handler.suspended[0].head)
            handler.answer()
        await one(opened, len(heads))
        first, second, third, fourth, large, again = heads
        assert first is second
        assert second is not third
        assert third is not fourth
        # Large ones are not kept.
        assert large is not again
        assert [dict(each.headers)[b"x-request-id"] for each in heads] == [b"a", b"a", b"b", b"a", b"a", b"a"]


@pytest.mark.parametrize(
    ("fields", "is_compact"),
    [
        ((), True),
        (("X-A:b", "X-A:  c\t ", "X-Empty:", "HOST2: x: y", "cookie: a=b"), True),
        (("X: " + "x" * 3_000,), False),
    ],
)
async def test_a_head_that_waits_is_small_and_has_the_same_fields(
    handler: Suspending, fields: tuple[str, ...], *, is_compact: bool
) -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    def accepts(head: RequestHead) -> bool:
        seen.append(head.headers)
        return True

    handler._accepts = accepts
    async with connected(handler) as (opened, _, __):
        await opened.send([b"\r\n" + get("a", *fields)])
        await eventually(lambda: len(handler.suspended) == 1)
        waiting = handler.suspended[0].head
        assert (waiting._headers is None) is is_compact
        assert [waiting.headers] == seen
        assert len(seen[0]) == 2 + len(fields)


async def test_a_head_whose_target_names_the_host_keeps_its_fields(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        await opened.send([head("GET http://b/ HTTP/1.1", "Host: a")])
        await eventually(lambda: len(handler.suspended) == 1)
        assert handler.suspended[0].head.headers == [(b"host", b"b")]


async def test_what_a_handler_concludes_from_a_head_lives_as_long_as_the_head(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        for number, raw in enumerate((get("a"), get("a"), get("b")), start=1):
            await opened.send([raw])
            await eventually(lambda: len(handler.suspended) == 1)
            assert handler.suspended[0].head.note == ("noted" if number == 2 else None)
            handler.suspended[0].head.note = "noted"
            handler.answer()
            await one(opened, number)


async def test_a_head_that_begins_as_the_one_before_is_another(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        for number, raw in enumerate((get("a"), get("a", "X-A: b"), get("a"), b"\r\n" + get("a"), get("a")), start=1):
            await opened.send([raw])
            await eventually(lambda: len(handler.suspended) == 1)
            assert len(handler.suspended[0].head.headers) == (3 if b"X-A" in raw else 2)
            handler.answer()
            await one(opened, number)


async def test_a_head_in_pieces_is_parsed_whatever_came_before(handler: Suspending) -> None:
    async with connected(handler) as (opened, _, __):
        for number, size in enumerate((1_000, 3, 1_000, 1), start=1):
            await opened.send([GET[start : start + size] for start in range(0, len(GET), size)])
            await eventually(lambda: len(handler.suspended) == 1)
            handler.answer()
            await one(opened, number)


async def test_the_end_of_a_head_that_came_in_pieces_is_no_head(handler: Suspending) -> None:
    async with connected(handler) as (opened, server, _):
        first, last = GET[:-12], GET[-12:]
        await opened.send([first])
        await eventually(lambda: server._held_bytes == len(first))
        await opened.send([last])
        await eventually(lambda: len(handler.suspended) == 1)
        handler.answer()
        await opened.send([last])
        assert (await one(opened, 2)).status == 400
        assert not handler.suspended


async def test_an_application_may_change_the_fields_that_it_is_given() -> None:
    is_direct = [True, False, True]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"].clear()
        await application(scope, receive, send)

    async with connected(Answering(lambda _: is_direct.pop())) as (opened, server, _):
        server.app = app
        ids: list[str] = []
        for number in (1, 2, 3):
            await opened.send([GET])
            ids.append((await one(opened, number)).id)
        assert ids == ["a", "", "a"]


async def test_the_client_is_who_a_trusted_proxy_says() -> None:
    seen: list[tuple[tuple[str, int], str]] = []

    def handle(request: DirectRequest) -> None:
        seen.append((request.client, request.scheme))
        request.respond(200, (), b"")

    options = ServerOptions(trusted_proxies=("127.0.0.1",))
    async with served(Calling(handle), options=options) as (_, address, __), connection(address) as opened:
        await opened.send([GET, get("b", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")])
        await one(opened, 2)
        port = opened.writer.get_extra_info("sockname")[1]
    assert seen == [(("127.0.0.1", port), "http"), (("192.0.2.1", 0), "https")]


# Responses


@pytest.mark.parametrize("is_prepared", [False, True])
@pytest.mark.parametrize(
    ("raw", "connection_field", "body"),
    [
        (GET, None, b"text"),
        (get("head", method="HEAD"), None, b""),
        (get("a", "Connection: close"), "close", b"text"),
        (head("GET / HTTP/1.0", "Host: a"), "close", b"text"),
        (head("GET / HTTP/1.0", "Host: a", "Connection: keep-alive"), "keep-alive", b"text"),
    ],
    ids=["GET", "HEAD", "close", "1.0", "1.0 keep-alive"],
)
async def test_a_response_fits_its_request(
    raw: bytes, connection_field: str | None, body: bytes, *, is_prepared: bool
) -> None:
    fields = [(b"x-a", b"b"), (b"x-request-id", b"head" if raw.startswith(b"HEAD") else b"a")]

    def handle(request: DirectRequest) -> None:
        if is_prepared:
            request.respond_prepared(response_lines(200, fields), b"text")
        else:
            request.respond(200, fields, b"text")

    async with connected(Calling(handle)) as (opened, _, __):
        await opened.send([raw])
        answer = await one(opened)
        assert (answer.status, answer.body) == (200, body)
        assert (answer.fields["content-length"], answer.fields["x-a"]) == ("4", "b")
        assert answer.fields["date"].endswith(" GMT")
        assert answer.fields.get("connection") == connection_field
        if connection_field == "close":
            assert await opened.closes(WITHIN_S)
        else:
            await opened.send([raw])
            await one(opened, 2)


def _closes_by_field(request: DirectRequest) -> None:
    request.respond(200, [(b"Connection", b"Close")], b"")


def _closes_by_attribute(request: DirectRequest) -> None:
    request.keeps_alive = False
    request.respond_prepared(response_lines(200, ()), b"")


@pytest.mark.parametrize("handle", [_closes_by_field, _closes_by_attribute])
async def test_a_handler_may_end_the_connection(handle: Callable[[DirectRequest], None]) -> None:
    async with connected(Calling(handle)) as (opened, _, __):
        await opened.send([GET + GET])
        assert (await one(opened)).fields["connection"] == "close"
        assert await opened.closes(WITHIN_S)
        assert len(opened.answers) == 1


async def test_a_server_that_is_about_to_stop_ends_its_connections_with_the_next_response(handler: Suspending) -> None:
    async with connected(handler) as (opened, server, _):
        await opened.send([GET])
        await eventually(lambda: len(handler.suspended) == 1)
        server.is_stopping = True
        handler.answer()
        assert (await one(opened)).fields["connection"] == "close"
        assert await opened.closes(WITHIN_S)
        await eventually(lambda: not server.connections)
        assert not handler.gone


async def test_a_response_without_a_body_says_nothing_of_its_length() -> None:
    async with connected(Calling(lambda request: request.respond(204, (), b""))) as (opened, _, __):
        await opened.send([GET + GET])
        answer = await one(opened, 2)
        assert (answer.status, "content-length" in answer.fields) == (204, False)


async def test_framing_that_a_handler_gives_is_not_believed() -> None:
    fields = [(b"Content-Length", b"100"), (b"Transfer-Encoding", b"chunked"), (b"Date", b"today")]
    async with connected(Calling(lambda request: request.respond(200, fields, b"text"))) as (opened, _, __):
        await opened.send([GET + GET])
        answer = await one(opened, 2)
        assert (answer.body, answer.fields["content-length"]) == (b"text", "4")
        assert "transfer-encoding" not in answer.fields


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: b", b"a\nb"])
async def test_a_field_with_a_line_end_is_not_sent(handler: Suspending, value: bytes) -> None:
    async with connected(handler) as (opened, _, __):
        await opened.send([GET])
        await eventually(lambda: len(handler.suspended) == 1)
        with pytest.raises(ValueError, match="line end"):
            handler.suspended[0].respond(200, [(b"x", value)], b"")
        handler.answer()
        assert (await one(opened)).fields.get("set-cookie") is None
        with pytest.raises(ValueError, match="line end"):
            response_lines(200, [(b"x", value)])


class Failing(Answering):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.max_body_bytes = 10
        self._where = where

    def _fail(self, where: str) -> None:
        if where == self._where:
            raise RuntimeError("broken")

    def accepts(self, head: RequestHead) -> bool:  # noqa: ARG002 - the interface's
        self._fail("accepts")
        return True

    def handle(self, request: DirectRequest) -> None:
        self._fail("handle")
        request.respond(200, (), b"")
        self._fail("handle, at its end")

    def refuse_size(self, request: DirectRequest) -> None:  # noqa: ARG002 - the interface's
        self._fail("refuse_size")

    def refuse_late(self, request: DirectRequest) -> None:  # noqa: ARG002 - the interface's
        self._fail("refuse_late")


@pytest.mark.parametrize(
    ("where", "raw", "status"),
    [
        ("accepts", GET, 404),
        ("handle", GET, 500),
        ("handle, at its end", GET, 200),
        ("refuse_size", post(b"x" * 11), 500),
        ("refuses nothing", post(b"x" * 11), 500),
        ("refuse_late", post(b"x" * 10)[:-1], 500),
        ("refuses nothing", post(b"x" * 10)[:-1], 500),
    ],
)
async def test_a_handler_that_fails_is_answered_for(
    where: str, raw: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with connected(Failing(where), body_deadline_s=0.1) as (opened, _, __):
        await opened.send([raw])
        assert (await one(opened)).status == status
        if status == 500:
            assert await opened.closes(WITHIN_S)
        else:
            await opened.send([GET])
            await one(opened, 2)


class Written:
    """A transport that notes what is written at once."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.writes: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "not connected")


async def test_a_reset_that_overtakes_the_close_is_no_error(handler: Suspending) -> None:
    broken: list[int] = []
    async with connected(handler) as (opened, server, _):
        server.on_broken = broken.append
        await opened.send([GET + b"more"])
        await eventually(lambda: len(handler.suspended) == 1)
        (each,) = server.connections
        each.transport = Written(each.transport)  # type: ignore[assignment]
        handler.suspended[0].keeps_alive = False
        assert handler.answer()
        await eventually(lambda: broken == [each.id])


async def test_what_is_answered_within_a_turn_is_written_together_and_the_turn_is_bounded() -> None:
    many = 100
    async with connected(Answering()) as (opened, server, _):
        await eventually(lambda: len(server.connections) == 1)
        (each,) = server.connections
        written = Written(each.transport)
        each.transport = written  # type: ignore[assignment]
        await opened.send([GET * many])
        await one(opened, many)
        answers = [data.count(b"HTTP/1.1 ") for data in written.writes]
        assert sum(answers) == many
        assert 1 < max(answers) <= 16


async def test_what_is_answered_later_is_written_at_once(handler: Suspending) -> None:
    async with connected(handler) as (opened, server, _):
        await opened.send([GET])
        await eventually(lambda: len(handler.suspended) == 1)
        (each,) = server.connections
        written = Written(each.transport)
        each.transport = written  # type: ignore[assignment]
        handler.answer()
        assert len(written.writes) == 1
        await one(opened)


# Ends


async def test_connections_have_ids_of_their_own(handler: Suspending) -> None:
    async with served(handler) as (_, address, __):
        ids: list[int] = []
        for _ in range(3):
            async with connection(address) as opened:
                for number in (1, 2):
                    await opened.send([GET])
                    await eventually(lambda: len(handler.suspended) == 1)
                    ids.append(handler.suspended[0].connection_id)
                    handler.answer()
                    await one(opened, number)
        assert ids[0::2] == ids[1::2]
        assert len(set(ids)) == 3


def _reset(opened: Connection) -> None:
    """Close by a reset."""
    opened.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.writer.transport.abort()


async def test_a_connection_that_is_reset_has_ended_badly(handler: Suspending) -> None:
    broken: list[int] = []
    async with served(handler) as (server, address, _):
        server.on_broken = broken.append
        ids = []
        for is_reset in (True, False):
            async with connection(address) as opened:
                await opened.send([GET])
                await eventually(lambda: len(handler.suspended) == 1)
                ids.append(handler.suspended[0].connection_id)
                handler.answer()
                await one(opened)
                if is_reset:
                    _reset(opened)
            await eventually(lambda: not server.connections)
        assert broken == ids[:1]


@asynccontextmanager
async def _deaf(address: Address) -> AsyncIterator[socket.socket]:
    """A client that reads nothing, and has little room for what it is sent."""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_connect(deaf, (address.host, address.port))
        yield deaf


@pytest.mark.parametrize("bound", ["write_stall_s", "close_deadline_s", "keep_alive_s"])
async def test_a_connection_that_ends_before_all_was_taken_has_ended_badly(handler: Suspending, bound: str) -> None:
    broken: list[int] = []
    bounds = {bound: 0.2}
    async with served(handler, options=None, **bounds) as (server, address, refused), _deaf(address) as deaf:
        server.on_broken = broken.append
        await asyncio.get_running_loop().sock_sendall(deaf, GET)
        await eventually(lambda: len(handler.suspended) == 1)
        number = handler.suspended[0].connection_id
        handler.suspended[0].keeps_alive = bound != "close_deadline_s"
        # The last one fits into the buffers of this system, which knows that the other one has not taken it.
        handler.answer(b"x" * (100_000 if bound == "keep_alive_s" else 20_000_000))
        await eventually(lambda: broken == [number])
        assert refused == ({} if bound == "keep_alive_s" else {RequestLimit(bound): 1})


async def test_a_connection_that_ends_after_all_was_taken_has_not_ended_badly(handler: Suspending) -> None:
    broken: list[int] = []
    async with connected(handler, keep_alive_s=0.2) as (opened, server, _):
        server.on_broken = broken.append
        for closes in (False, True):
            async with connection(Address(server.address[1])) as other:
                await other.send([GET])
                await eventually(lambda: len(handler.suspended) == 1)
                handler.suspended[0].keeps_alive = not closes
                handler.answer(b"x" * 100_000)
                await one(other)
                assert await other.closes(WITHIN_S)
        await opened.close()
        await eventually(lambda: not server.connections)
        assert not broken


async def test_a_client_that_does_not_read_is_asked_for_nothing_more() -> None:
    served_ = 0

    def handle(request: DirectRequest) -> None:
        nonlocal served_
        served_ += 1
        request.respond(200, (), b"x" * 1_000_000)

    async with served(Calling(handle)) as (server, address, _), _deaf(address) as deaf:
        await asyncio.get_running_loop().sock_sendall(deaf, GET * 100)
        await eventually(lambda: any(not each.is_writable for each in server.connections))
        await turns()
        (each,) = server.connections
        assert each.transport.get_write_buffer_size() <= 1_100_000
        assert served_ < 20


def _kept() -> Iterable[object]:
    return [each for each in gc.get_objects() if type(each).__name__ in {"Connection", "Http1", "DirectRequest"}]


@pytest.mark.parametrize("ending", ["answered", "gone", "answered after it was gone", "late body", "refused"])
async def test_what_has_ended_leaves_nothing_to_the_garbage_collector(handler: Suspending, ending: str) -> None:
    async with served(handler, body_deadline_s=0.1) as (server, address, _):
        gc.collect()
        gc.disable()
        try:
            opened = await _opened(address)
            raw = {"late body": post(b"x")[:-1], "refused": post(b"x" * 2_000)}.get(ending, GET)
            await opened.send([raw])
            await eventually(lambda: bool(handler.suspended) or bool(opened.answers))
            ended = ref(next(iter(server.connections))) if server.connections else lambda: None
            if ending == "answered":
                handler.answer()
                await one(opened)
            else:
                _reset(opened)
            await opened.close()
            await eventually(lambda: not server.connections)
            if ending == "answered after it was gone":
                assert not handler.answer()
            handler.suspended.clear()
            await eventually(lambda: ended() is None)
        finally:
            gc.enable()


def _kept_of(kind: type) -> int:
    # By type: to ask a weak proxy for its class fails where its object has gone.
    return sum(issubclass(type(each), kind) for each in gc.get_objects())


def _scheduled() -> int:
    """Timers of the loop, where it shows them."""
    timers = getattr(asyncio.get_running_loop(), "_scheduled", ())
    return sum(not timer.cancelled() for timer in timers)


async def test_a_suspended_request_has_no_task_future_or_timer(handler: Suspending) -> None:
    many, few = 50, 5
    async with served(handler, head_deadline_s=0.1, keep_alive_s=0.1) as (server, address, _):
        await turns()
        before = len(asyncio.all_tasks()), _kept_of(asyncio.Future), _kept_of(asyncio.TimerHandle)
        with ExitStack() as sockets:
            for _ in range(many):
                opened = sockets.enter_context(socket.create_connection((address.host, address.port)))
                opened.sendall(GET)
            await eventually(lambda: len(handler.suspended) == many)
            # Deadlines that were set before the requests came pass unseen.
            await eventually(lambda: _scheduled() == 0)
            gc.collect()
            assert len(asyncio.all_tasks()) - before[0] < few
            assert _kept_of(asyncio.Future) - before[1] < few
            assert _kept_of(asyncio.TimerHandle) - before[2] < few
            assert len(server.connections) == many
        await eventually(lambda: handler.gone == [False] * many)
        while handler.suspended:
            handler.answer()


async def test_a_server_without_requests_has_no_timer(handler: Suspending) -> None:
    async with served(handler) as (server, address, _):
        async with connection(address) as opened:
            await opened.send([GET])
            await eventually(lambda: len(handler.suspended) == 1)
            assert _scheduled() >= (1 if hasattr(asyncio.get_running_loop(), "_scheduled") else 0)
            handler.answer()
            await one(opened)
        await eventually(lambda: not server.connections)
        await eventually(lambda: _scheduled() == 0)
