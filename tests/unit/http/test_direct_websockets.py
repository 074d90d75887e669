"""WebSockets on the direct path: each message is served as it comes, under the same bounds as for an application."""

import asyncio
import gc
import logging
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any
from weakref import ref

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect

from calltag.core.http.direct import DirectWebSocket, Refusal, SocketHandler
from calltag.core.http.request_parser import RequestLimit
from calltag.core.http.server import Server, ServerOptions, bound_socket
from calltag.core.http.websocket import text_frame
from calltag.core.settings.sections import Http
from parts.direct_handlers import Answering, Echo
from parts.direct_handlers import application as answer
from parts.eventually import eventually, turns
from parts.frame_table import CLOSES, MAX_FRAMES
from parts.raw_http import Address, connection, cut, get
from parts.raw_websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    OPEN,
    PING,
    PONG,
    RESET,
    TEXT,
    WebSocket,
    frame,
    upgrade,
    websocket,
)

WITHIN_S = 15.0
CLOSE_1000 = frame(CLOSE, b"\x03\xe8")


async def accepting(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that accepts WebSockets, and says so."""
    if scope["type"] == "http":
        await answer(scope, receive, send)
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-by", b"asgi")]})
        while (await receive())["type"] != "websocket.disconnect":
            continue


@asynccontextmanager
async def served(
    handler: Answering, options: ServerOptions | None = None, **bounds: float
) -> AsyncIterator[tuple[Server, Address, Counter[RequestLimit]]]:
    refused: Counter[RequestLimit] = Counter()
    options = options or ServerOptions(Http.model_validate(bounds))
    server = Server(accepting, options, lambda limit: refused.update([limit]), handler)
    async with server.serving(bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=0) as port:
        yield server, Address(port), refused


def served_by(make: Callable[[], SocketHandler | Refusal | None]) -> Answering:
    return Answering(lambda _: False, make)


@asynccontextmanager
async def opened_with(
    echo: Echo, options: ServerOptions | None = None, **bounds: float
) -> AsyncIterator[tuple[WebSocket, DirectWebSocket, Server, Counter[RequestLimit]]]:
    """One WebSocket that is served by the handler."""
    async with (
        served(served_by(lambda: echo), options, **bounds) as (server, address, refused),
        websocket(address, "/") as opened,
    ):
        assert echo.socket is not None
        yield opened, echo.socket, server, refused


async def texts(opened: WebSocket, count: int) -> list[bytes]:
    """The payloads of so many further frames."""
    found = [await opened.next_frame(WITHIN_S) for _ in range(count)]
    return [each.payload for each in found if each is not None and each.opcode == TEXT]


@pytest.fixture
def echo() -> Echo:
    return Echo()


# Frames


@pytest.mark.parametrize("name", CLOSES)
async def test_invalid_frames_close_with_the_code_for_them(name: str) -> None:
    frames, right = CLOSES[name]
    codes = right if isinstance(right, tuple) else (right,)
    for pieces in ([b"".join(frames)], cut(b"".join(frames), 1 if len(frames) < 5 and len(frames[0]) < 200 else 1_009)):
        echo = Echo()
        async with opened_with(echo) as (opened, _, __, refused):
            await opened.send(pieces)
            code = await opened.close_code(WITHIN_S)
            assert code in codes, f"{name}, in {len(pieces)} packets: closed by {code} instead of {right}"
            await opened.send([frame(CLOSE, codes[0].to_bytes(2))])
            assert await opened.is_closed(WITHIN_S), "the connection is left open after the close"
            await eventually(lambda ends=echo.ends: bool(ends))  # type: ignore[misc]
            assert echo.ends == [name == "a close"]
            assert sum(refused.values()) == (name != "a close")


async def test_fragments_are_one_message_and_control_frames_may_come_between(echo: Echo) -> None:
    async with opened_with(echo) as (opened, _, __, ___):
        await opened.send(cut(frame(TEXT, b"whole") + frame(BINARY, b"\xff\xfe"), 1))
        await opened.send([frame(TEXT, b"fi", final=False), frame(PING, b"here"), frame(CONTINUATION, b"rst")])
        middle = [frame(CONTINUATION, b"" if number % 2 else b"x", final=False) for number in range(MAX_FRAMES - 10)]
        await opened.send([frame(TEXT, b"", final=False), *middle, frame(CONTINUATION, b"end")])
        found = [await opened.next_frame(WITHIN_S) for _ in range(5)]
        assert Counter(each.opcode for each in found if each is not None) == {TEXT: 4, PONG: 1}
        assert echo.messages == [b"whole", b"\xff\xfe", b"first", b"x" * (MAX_FRAMES // 2 - 5) + b"end"]


@pytest.mark.parametrize("size", [0, 125, 126, 65_535])
async def test_messages_of_any_size_are_sent_back(echo: Echo, size: int) -> None:
    async with opened_with(echo) as (opened, _, __, ___):
        await opened.send([frame(TEXT, b"x" * size)])
        assert await texts(opened, 1) == [b"x" * size]


async def test_characters_may_be_cut_by_frames(echo: Echo) -> None:
    async with opened_with(echo) as (opened, _, __, ___):
        await opened.send([frame(TEXT, b"\xc3", final=False), frame(CONTINUATION, b"\xa9")])
        assert await texts(opened, 1) == ["é".encode()]


async def test_what_comes_with_the_handshake_is_served(echo: Echo) -> None:
    async with served(served_by(lambda: echo)) as (_, address, __):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(get("first") + upgrade("/") + frame(TEXT, b"early"))
        await eventually(lambda: echo.messages == [b"early"])
        await reader.readuntil(text_frame(b"early"))
        writer.close()


# The handshake


async def test_the_handshake_has_the_fields_of_the_handler() -> None:
    handler = served_by(Echo)
    options = ServerOptions(trusted_proxies=("127.0.0.1",))
    async with served(handler, options) as (_, address, __):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(upgrade("/", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https"))
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nx-a: b\r\n" in answer
        writer.close()
    assert handler.clients == [(("192.0.2.1", 0), "https")]


async def test_a_handler_may_refuse_and_may_leave_it_to_the_application() -> None:
    made: list[SocketHandler | Refusal | None] = [None, Refusal(403, "not from there")]
    handler = served_by(made.pop)
    async with served(handler) as (_, address, __):
        async with connection(address) as opened:
            await opened.send([upgrade("/")])
            [answer] = await opened.final(1, WITHIN_S)
            assert (answer.status, b"not from there" in answer.body) == (403, True)
            assert await opened.closes(WITHIN_S)
        async with connection(address) as opened:
            await opened.send([upgrade("/")])
            assert await opened.statuses(1, WITHIN_S) == [101]
            assert opened.answers[0].fields["x-by"] == "asgi"


async def test_an_invalid_handshake_is_no_matter_of_the_handler() -> None:
    handler = served_by(Echo)
    async with served(handler) as (_, address, refused), connection(address) as opened:
        await opened.send([upgrade("/", version="12")])
        [answer] = await opened.final(1, WITHIN_S)
        assert answer.status == 426
        assert not handler.clients
        assert refused == {RequestLimit.MALFORMED: 1}


class Failing(Echo):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def _fail(self, where: str) -> None:
        if where == self._where:
            raise RuntimeError("broken")

    def handshake_fields(self) -> list[tuple[bytes, bytes]]:
        self._fail("handshake_fields")
        return []

    def opened(self, socket: DirectWebSocket) -> None:
        super().opened(socket)
        self._fail("opened")

    def message(self, data: bytes) -> bool:
        self._fail("message")
        return super().message(data)

    def closed(self, is_clean: bool) -> None:
        super().closed(is_clean)
        self._fail("closed")


@pytest.mark.parametrize("where", ["open_socket", "handshake_fields"])
async def test_a_handler_that_fails_before_the_handshake_is_answered_for(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    def make() -> SocketHandler:
        if where == "open_socket":
            raise RuntimeError("broken")
        return Failing(where)

    async with served(served_by(make)) as (_, address, __), connection(address) as opened:
        await opened.send([upgrade("/")])
        assert [each.status for each in await opened.final(1, WITHIN_S)] == [500]
        assert await opened.closes(WITHIN_S)


@pytest.mark.parametrize(("where", "code"), [("opened", 1011), ("message", 1011), ("closed", 1000)])
async def test_a_handler_that_fails_closes_its_websocket(
    where: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    failing = Failing(where)
    async with served(served_by(lambda: failing)) as (server, address, _):
        async with websocket(address, "/") as opened:
            await opened.send([frame(TEXT, b"a"), CLOSE_1000] if where == "closed" else [frame(TEXT, b"a")])
            assert await opened.close_code(WITHIN_S) == code
            await opened.send([CLOSE_1000])
            assert await opened.is_closed(WITHIN_S)
        await eventually(lambda: failing.ends == [True] and not server.connections)


# Keeping pace


async def test_a_busy_handler_is_given_no_message_and_its_client_is_read_only_for_some(echo: Echo) -> None:
    many, busy_after = 4_000, 3
    echo.busy_after = busy_after
    async with opened_with(echo) as (opened, direct, server, _):
        sending = asyncio.create_task(opened.send([frame(TEXT, b"%0100d" % number) for number in range(many)]))
        (each,) = server.connections
        await eventually(lambda: not each.is_reading)
        assert len(echo.messages) == busy_after
        # Beyond the queue there may be the frames of one slice.
        assert direct.held_bytes <= 16 * 100 + 1_024
        assert each.unparsed <= 2 * 65_536
        assert server._held_bytes == each.unparsed + direct.held_bytes
        echo.busy_after = None
        direct.ready()
        assert await texts(opened, many) == [b"%0100d" % number for number in range(many)]
        await sending
        assert server._held_bytes == 0


async def test_messages_that_wait_are_bounded_by_their_bytes(echo: Echo) -> None:
    echo.busy_after = 1
    async with opened_with(echo) as (opened, direct, server, _):
        sending = asyncio.create_task(opened.send([frame(TEXT, b"x" * 60_000)] * 20))
        (each,) = server.connections
        await eventually(lambda: not each.is_reading and each.unparsed >= 65_536)
        assert 65_536 <= direct.held_bytes <= 65_536 + 60_000
        echo.busy_after = None
        direct.ready()
        await texts(opened, 20)
        await sending


async def test_a_handler_may_be_ready_within_the_call(echo: Echo) -> None:
    class Ready(Echo):
        def message(self, data: bytes) -> bool:
            super().message(data)
            assert self.socket is not None
            self.socket.ready()
            return False

    async with opened_with(Ready()) as (opened, _, __, ___):
        await opened.send([frame(TEXT, b"%d" % number) for number in range(100)])
        assert await texts(opened, 100) == [b"%d" % number for number in range(100)]


async def test_other_connections_have_their_turn_after_some_messages(echo: Echo) -> None:
    turn = 0
    per_turn: Counter[int] = Counter()

    class Counting(Echo):
        def message(self, data: bytes) -> bool:  # noqa: ARG002 - the interface's
            per_turn[turn] += 1
            return True

    def count() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(count)

    loop = asyncio.get_running_loop()
    many = 2_000
    async with opened_with(Counting()) as (opened, _, __, ___):
        count()
        await opened.send([frame(TEXT, b"x") * many])
        await eventually(lambda: sum(per_turn.values()) == many)
        assert max(per_turn.values()) == 16


async def test_a_client_that_does_not_read_is_noticed_and_read_no_further(echo: Echo) -> None:
    loop = asyncio.get_running_loop()
    async with served(served_by(lambda: echo)) as (server, address, _):
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            deaf.setblocking(False)
            await loop.sock_connect(deaf, (address.host, address.port))
            await loop.sock_sendall(deaf, upgrade("/"))
            await eventually(lambda: echo.socket is not None)
            direct, (each,) = echo.socket, server.connections
            assert direct is not None
            sent, part = 0, b"x" * 100_000
            while direct.is_writable:
                assert direct.send_text(part)
                sent += 1
                await turns()
            assert not direct.send_frame(text_frame(b"no"))
            await loop.sock_sendall(deaf, frame(TEXT, b"question"))
            await turns()
            assert (each.is_reading, echo.messages, echo.writable_again) == (False, [], 0)
            read = bytearray()
            while not read.endswith(text_frame(b"question")):
                read += await loop.sock_recv(deaf, 1_000_000)
            assert read.count(text_frame(part)) == sent
            assert echo.writable_again > 0
            assert direct.send_frame(text_frame(b"yes"), one_of_many=True)
            assert await loop.sock_recv(deaf, 100) == text_frame(b"yes")


async def test_a_silent_client_is_pinged_and_given_up(echo: Echo) -> None:
    async with opened_with(echo, ping_interval_s=0.1, pong_deadline_s=0.1) as (opened, _, __, refused):
        ping = await opened.next_frame(WITHIN_S)
        assert ping is not None
        assert ping.opcode == PING
        assert await opened.close_code(WITHIN_S) == 1011
        await eventually(lambda: echo.ends == [False])
        assert refused == {RequestLimit.PONG_DEADLINE: 1}


async def test_a_client_is_not_taken_for_dead_while_the_handler_is_busy(echo: Echo) -> None:
    echo.busy_after = 1
    async with opened_with(echo, ping_interval_s=0.1, pong_deadline_s=0.1) as (opened, direct, server, refused):
        await opened.send([frame(TEXT, b"x")] * 40)
        async with connection(Address(server.address[1])) as other:
            await other.send([b"GET"])
            # Some intervals pass.
            for _ in range(20):
                await asyncio.sleep(0.05)
        echo.busy_after = None
        direct.ready()
        await eventually(lambda: len(echo.messages) == 40)
        assert not refused


# Compression


async def test_with_compression_frames_are_made_by_the_protocol(echo: Echo) -> None:
    options = ServerOptions(permessage_deflate=True)
    async with (
        served(served_by(lambda: echo), options) as (_, address, __),
        connect(f"ws://127.0.0.1:{address.port}/", compression="deflate") as client,
    ):
        await client.send("x" * 10_000)
        assert await client.recv() == "x" * 10_000
        assert echo.socket is not None
        assert not echo.socket.send_frame(text_frame(b"no"))
        assert echo.socket.send_text("é".encode())
        assert await client.recv() == "é"


# The end


async def test_a_close_of_the_client_is_clean(echo: Echo) -> None:
    async with opened_with(echo) as (opened, direct, _, __):
        await opened.send([frame(TEXT, b"last"), CLOSE_1000])
        assert await opened.close_code(WITHIN_S) == 1000
        await eventually(lambda: echo.ends == [True])
        assert echo.messages == [b"last"]
        assert not direct.is_open
        assert not direct.send_text(b"no")
        assert not direct.send_frame(text_frame(b"no"))
        direct.close()
        direct.ready()


async def test_a_close_of_the_handler_is_clean_when_the_client_answers_it(echo: Echo) -> None:
    async with opened_with(echo, close_deadline_s=60) as (opened, direct, _, __):
        direct.close(1001, "away")
        assert not direct.is_open
        assert not direct.send_text(b"no")
        got = await opened.next_frame(WITHIN_S)
        assert got is not None
        assert (got.code, got.payload[2:]) == (1001, b"away")
        await turns()
        assert not echo.ends
        await opened.send([frame(TEXT, b"too late"), frame(CLOSE, b"\x03\xe9")])
        await eventually(lambda: echo.ends == [True])
        assert not echo.messages
        assert await opened.is_closed(WITHIN_S)


@pytest.mark.parametrize("answers", ["nothing", "end", "reset"])
async def test_a_close_that_is_not_answered_is_not_clean(echo: Echo, answers: str) -> None:
    async with opened_with(echo, close_deadline_s=0.2) as (opened, direct, server, _):
        direct.close()
        assert await opened.close_code(WITHIN_S) == 1000
        if answers == "end":
            opened.writer.write_eof()
        elif answers == "reset":
            _reset(opened)
        await eventually(lambda: echo.ends == [False])
        await eventually(lambda: not server.connections)
    assert echo.ends == [False]


def _reset(opened: WebSocket) -> None:
    opened.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.writer.transport.abort()


@pytest.mark.parametrize("ending", ["end", "reset"])
async def test_a_client_that_is_gone_is_noticed(echo: Echo, ending: str) -> None:
    broken: list[int] = []
    async with opened_with(echo) as (opened, direct, server, _):
        server.on_broken = broken.append
        number = direct.connection_id
        if ending == "end":
            opened.writer.write_eof()
        else:
            _reset(opened)
        await eventually(lambda: echo.ends == [False])
        await eventually(lambda: not server.connections)
        assert broken == ([number] if ending == "reset" else [])


class Closing(Echo):
    """Closes with its answer, and notes what it was told of the end meanwhile."""

    def message(self, data: bytes) -> bool:
        assert self.socket is not None
        self.socket.close(1001)
        self.messages.append(data)
        self.sent = [*self.ends]
        return True


@pytest.mark.parametrize("behind", [CLOSE_1000, b""], ids=["close", "nothing"])
async def test_a_handler_that_closes_within_a_message_is_told_of_the_end_afterwards(behind: bytes) -> None:
    closing = Closing()
    async with opened_with(closing, close_deadline_s=1) as (opened, _, __, ___):
        await opened.send([frame(TEXT, b"x") + behind])
        assert await opened.close_code(WITHIN_S) == (1000 if behind else 1001)
        await opened.send([CLOSE_1000])
        await eventually(lambda: closing.ends == [True])
        assert (closing.messages, closing.sent) == ([b"x"], [])


async def test_an_answer_to_a_message_before_a_close_may_be_compressed(echo: Echo) -> None:
    async with opened_with(echo, ServerOptions(permessage_deflate=True)) as (_, __, server, ___):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.address[1])
        writer.write(upgrade("/", "Sec-WebSocket-Extensions: permessage-deflate"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(TEXT, b"x") + CLOSE_1000)
        assert (await reader.read())[-4:] == b"\x88\x02\x03\xe8"
        assert echo.sent == [False]
        await eventually(lambda: echo.ends == [True])
        writer.close()


@pytest.mark.parametrize("ending", [CLOSE_1000, b""], ids=["close", "end"])
async def test_messages_before_the_end_are_handed_on_before_it(echo: Echo, ending: bytes) -> None:
    echo.busy_after = 1
    seen: list[int] = []

    class Ordered(Echo):
        def closed(self, is_clean: bool) -> None:
            seen.append(len(self.messages))
            super().closed(is_clean)

    ordered = Ordered(busy_after=1)
    async with opened_with(ordered) as (opened, direct, _, __):
        await opened.send([frame(TEXT, b"x") * 5 + ending])
        if not ending:
            opened.writer.write_eof()
        assert await opened.is_closed(WITHIN_S)
        await turns()
        assert (len(ordered.messages), ordered.ends) == (1, [])
        ordered.busy_after = 3
        direct.ready()
        await eventually(lambda: len(ordered.messages) == 3)
        await turns()
        assert not ordered.ends
        ordered.busy_after = None
        direct.ready()
        await eventually(lambda: ordered.ends == [bool(ending)])
        assert (seen, len(ordered.messages)) == ([5], 5)


async def test_a_busy_handler_for_which_nothing_waits_hears_of_the_end_at_once(echo: Echo) -> None:
    echo.busy_after = 1
    async with opened_with(echo) as (opened, _, __, ___):
        await opened.send([frame(TEXT, b"x"), CLOSE_1000])
        await eventually(lambda: echo.ends == [True])


async def test_a_server_that_stops_asks_clients_to_come_back(echo: Echo) -> None:
    async with served(served_by(lambda: echo), close_deadline_s=1) as (server, address, _):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(upgrade("/"))
        await reader.readuntil(b"\r\n\r\n")
        opened = WebSocket(reader, writer)
        server.drain_within(30)
        stopping = asyncio.create_task(server._stop())
        assert await opened.close_code(WITHIN_S) == 1012
        assert not echo.ends
        await opened.send([frame(CLOSE, b"\x03\xf4")])
        await stopping
        assert echo.ends == [True]
        await opened.stop_reading()
        writer.close()


async def test_a_client_that_does_not_answer_holds_a_server_that_stops_no_longer_than_its_time(echo: Echo) -> None:
    async with served(served_by(lambda: echo), close_deadline_s=60) as (_, address, __):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(upgrade("/"))
        await reader.readuntil(b"\r\n\r\n")
        await eventually(lambda: echo.socket is not None)
    assert echo.ends == [False]
    writer.close()


async def test_a_websocket_that_holds_too_much_is_turned_away() -> None:
    handler = served_by(lambda: Echo(busy_after=0))
    async with served(handler, max_received_bytes=1_048_576) as (server, address, refused):
        opened = []
        sendings = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(upgrade("/"))
            await reader.readuntil(b"\r\n\r\n")
            opened.append(WebSocket(reader, writer))
            sendings.append(asyncio.create_task(opened[-1].send([frame(TEXT, b"x" * 30_000)] * 10)))
        await eventually(lambda: refused[RequestLimit.RECEIVED_BYTES] > 0)

        async def codes() -> list[int]:
            return [await each.close_code(0.05) for each in opened]

        assert 1013 in await codes()
        assert set(await codes()) <= {1013, OPEN, RESET}
        for sending in sendings:
            sending.cancel()
        for each in opened:
            await each.stop_reading()
            each.writer.transport.abort()
        for made in handler.opened:
            assert isinstance(made, Echo)
            made.busy_after = None
            if made.socket is not None:
                made.socket.ready()
        await eventually(lambda: not server.connections)
        assert server._held_bytes == 0


# Memory


@pytest.mark.parametrize("ending", ["close", "end", "reset", "busy", "error"])
async def test_what_has_ended_leaves_nothing_to_the_garbage_collector(echo: Echo, ending: str) -> None:
    gc.collect()
    gc.disable()
    try:
        async with served(served_by(lambda: echo)) as (server, address, _):
            async with websocket(address, "/") as opened:
                (each,) = server.connections
                assert isinstance(each.protocol, DirectWebSocket)
                kept: list[Any] = [ref(each), ref(each.protocol._protocol)]
                del each
                echo.busy_after = 1 if ending == "busy" else None
                await opened.send([frame(TEXT, b"x")] * 3)
                await eventually(lambda: bool(echo.messages))
                if ending in {"close", "error"}:
                    await opened.send([CLOSE_1000 if ending == "close" else frame(3)])
                    assert await opened.is_closed(WITHIN_S)
                elif ending == "reset":
                    _reset(opened)
            await eventually(lambda: not server.connections)
            if ending == "busy":
                assert echo.socket is not None
                echo.busy_after = None
                echo.socket.ready()
            await eventually(lambda: bool(echo.ends) and all(one() is None for one in kept))
    finally:
        gc.enable()


def _kept_of(kind: type) -> int:
    # By type: to ask a weak proxy for its class fails where its object has gone.
    return sum(issubclass(type(each), kind) for each in gc.get_objects())


async def test_an_idle_websocket_has_no_task_future_or_timer() -> None:
    many, few = 50, 5
    handler = served_by(Echo)
    async with served(handler) as (_, address, __):
        await turns()
        before = len(asyncio.all_tasks()), _kept_of(asyncio.Future), _kept_of(asyncio.TimerHandle)
        with ExitStack() as sockets:
            for _ in range(many):
                opened = sockets.enter_context(socket.create_connection((address.host, address.port)))
                opened.sendall(upgrade("/") + frame(TEXT, b"x"))
            await eventually(
                lambda: sum(isinstance(one, Echo) and bool(one.messages) for one in handler.opened) == many
            )
            await turns()
            gc.collect()
            assert len(asyncio.all_tasks()) - before[0] < few
            assert _kept_of(asyncio.Future) - before[1] < few
            assert _kept_of(asyncio.TimerHandle) - before[2] < few
        await eventually(lambda: all(isinstance(one, Echo) and one.ends == [False] for one in handler.opened))
