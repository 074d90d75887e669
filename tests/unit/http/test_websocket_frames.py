"""Frames of a WebSocket are bounded by the server, before any application sees them."""

import asyncio
import gc
import logging
import socket as raw

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from calltag.core.http.asgi_websocket import AsgiWebSocket
from calltag.core.http.connection import Connection
from calltag.core.http.server import Server, ServerOptions, bound_socket, serving
from calltag.core.http.websocket import frame_writer_of, text_frame
from calltag.core.settings.sections import Http
from parts.eventually import eventually

MOST = 1_000


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send every frame back."""
    assert scope["type"] == "websocket"
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "text": message["text"]})


async def test_a_frame_beyond_the_limit_ends_the_connection() -> None:
    options = ServerOptions(max_message_bytes=MOST)
    async with serving(echo, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1, options=options) as port:
        async with connect(f"ws://127.0.0.1:{port}/") as socket:
            await socket.send("x" * MOST)
            assert await socket.recv() == "x" * MOST
            await socket.send("x" * (MOST + 1))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize("parts", [[b"\xff"], [b"\xc3", b"\xa9\xff"]])
async def test_text_that_is_not_utf8_ends_the_connection_and_is_no_news(
    caplog: pytest.LogCaptureFixture, parts: list[bytes]
) -> None:
    caplog.set_level(logging.WARNING)
    async with serving(echo, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port:
        for _ in range(3):
            async with connect(f"ws://127.0.0.1:{port}/") as socket:
                await socket.send(parts[0] if len(parts) == 1 else parts, text=True)
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1007
    assert not caplog.records


async def test_characters_may_be_cut_by_frames() -> None:
    async with (
        serving(echo, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port,
        connect(f"ws://127.0.0.1:{port}/") as socket,
    ):
        await socket.send([b"\xc3", b"\xa9"], text=True)
        assert await socket.recv() == "é"


async def test_a_client_that_does_not_read_takes_no_more_frames_even_within_one_turn_of_the_loop() -> None:
    most, written = 4_000, asyncio.get_running_loop().create_future()

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        writer, frame = frame_writer_of(scope), text_frame(b"x" * 10_000)
        assert writer is not None
        written.set_result(sum(writer(frame) for _ in range(most)))

    async with (
        serving(flood, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port,
        connect(f"ws://127.0.0.1:{port}/", max_queue=1, close_timeout=0.2),
    ):
        assert 0 < await written < most


def connections() -> set[object]:
    """Connections and WebSockets of this process, also those that logged tracebacks of other tests keep."""
    return {each for each in gc.get_objects() if type(each) in (AsgiWebSocket, Connection)}


async def test_a_connection_that_is_over_is_gone_without_a_look_for_garbage() -> None:
    before = connections()
    gc.disable()
    try:
        async with serving(echo, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port:
            async with connect(f"ws://127.0.0.1:{port}/") as socket:
                await socket.send("x")
                assert await socket.recv() == "x"
            await eventually(lambda: not connections() - before)
    finally:
        gc.enable()


async def test_text_is_counted_in_the_same_unit_when_it_comes_and_when_it_is_taken() -> None:
    async with (
        serving(echo, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port,
        connect(f"ws://127.0.0.1:{port}/") as socket,
        asyncio.timeout(60),
    ):
        for _ in range(200):
            await socket.send("é" * 1_000)
            assert await socket.recv() == "é" * 1_000


async def test_a_client_is_not_taken_for_dead_while_the_application_is_slow() -> None:
    go = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await go.wait()
        await echo_on(receive, send)

    limits = Http(ping_interval_s=0.1, pong_deadline_s=0.1)
    options = ServerOptions(limits)
    async with (
        serving(slow, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1, options=options) as port,
        connect(f"ws://127.0.0.1:{port}/") as socket,
        asyncio.timeout(60),
    ):
        for _ in range(40):
            await socket.send("x")
        await asyncio.sleep(1)
        go.set()
        for _ in range(40):
            assert await socket.recv() == "x"


async def echo_on(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message["text"]})


async def test_a_client_that_closes_its_sending_side_and_reads_nothing_keeps_no_place() -> None:
    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        writer = frame_writer_of(scope)
        assert writer is not None
        (connection,) = server.connections
        while not connection.transport.get_write_buffer_size():
            writer(text_frame(b"x" * 1_000), one_of_many=True)
        while (await receive())["type"] != "websocket.disconnect":
            continue

    options = ServerOptions(Http(close_deadline_s=0.3, ping_interval_s=0.2, pong_deadline_s=0.2, write_stall_s=600))
    server = Server(flood, options)
    async with server.serving(bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port:
        with raw.socket() as deaf:
            deaf.setsockopt(raw.SOL_SOCKET, raw.SO_RCVBUF, 4_096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, ("127.0.0.1", port))
            await loop.sock_sendall(deaf, UPGRADE + b"\x81\x81\x00\x00\x00\x00x")
            await eventually(lambda: any(each.transport.get_write_buffer_size() for each in server.connections))
            deaf.shutdown(raw.SHUT_WR)
            await eventually(lambda: server.places.taken == 0)


async def test_messages_before_a_close_frame_and_the_end_are_handed_on() -> None:
    got: list[str] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            got.append(message["text"])
            await asyncio.sleep(0)

    async with serving(note, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x81\x81\x00\x00\x00\x00x" * 60 + b"\x88\x82\x00\x00\x00\x00\x03\xe8")
        writer.write_eof()
        await eventually(lambda: len(got) == 60)
        writer.close()


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
