"""Frames of a WebSocket, sent to a server on a socket, with the notifier's own endpoint behind it.

The first byte of an input says how the rest is sent: as the text or the data of one frame, as text in small frames,
or as it is, in place of frames.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.http.server import bound_socket, serving
from calltag.core.store.embedded import embedded_store
from calltag.notifier.cometd.access import Login
from calltag.notifier.cometd.websocket import Socket
from fuzz.target import LOOP, Target
from fuzz.targets import hub
from parts.hubs import Client, Installation

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LAST_ID = b'"the-last-one"'
LAST = b'{"channel":"/meta/subscribe","id":' + LAST_ID + b"}"
CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1013}
SEEDS = [
    *(bytes([how]) + seed for how in range(4) for seed in (hub.CONNECT, b"[]")),
    b"\x00" + hub.HELLO,
    b"\x03\x81\x80\x00\x00\x00\x00",
    b"\x03\x89\x80\x00\x00\x00\x00\x01\x80\x00\x00\x00\x00",
    b"\x03\x88\x82\x00\x00\x00\x00\x03\xe8",
    b"\x03\xc1\x00\xff\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
]
WORDS = [*hub.WORDS, b"\x81\x80", b"\x88\x80", b"\x89\x85", b"\x00\x00\x00\x00", b"\x7f", b"\x7e\x00\x10", b"\xf1"]


class EveryoneIsAlice:
    """Implements Access."""

    def login_of(self, connection: HTTPConnection) -> str:
        return ""

    def shows_credentials(self, connection: HTTPConnection) -> bool:
        return True

    async def of_request(self, connection: HTTPConnection, *, begins: bool) -> Login | None:
        return Login("alice")

    async def of_credentials(self, name: str, password: str, address: str) -> Login | None:
        return None


class Errors(logging.Handler):
    """What the log says went wrong."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


def one_input(data: bytes) -> None:
    """The server says what the protocol allows, ends the connection when the client does, and logs no error."""
    LOOP.run(_talk(data[0] % 4 if data else 3, data[1:]))


@dataclass(slots=True)
class Endpoint:
    """A server that outlives the inputs; each finds it with one session, and nothing that others left behind."""

    installation: Installation
    errors: Errors
    ended: asyncio.Event
    port: int

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        self.ended.clear()
        try:
            yield await Client().begin(self.installation.one)
        finally:
            for client_id in list(self.installation.one.local.sessions):
                self.installation.one.connects.ends.end(client_id)
            await self.installation.settle()
            await self.installation.client.connection.flushall()
            self.errors.records.clear()


ENDPOINTS: list[Endpoint] = []


async def _endpoint() -> Endpoint:
    if not ENDPOINTS:
        ENDPOINTS.append(await LOOP.stack.enter_async_context(_serving()))
        LOOP.stack.callback(ENDPOINTS.clear)
    return ENDPOINTS[0]


@asynccontextmanager
async def _serving() -> AsyncIterator[Endpoint]:
    errors, ended, logger = Errors(), asyncio.Event(), logging.getLogger()
    logger.addHandler(errors)
    try:
        async with embedded_store(None, deadline_s=30) as store:
            installation = Installation(store.client, BayeuxLimits(timeout_ms=1))

            async def socket(websocket: WebSocket) -> None:
                try:
                    await Socket(websocket, installation.one.hub, EveryoneIsAlice(), 60.0).run()
                except Exception as error:
                    errors.records.append(repr(error))
                    raise
                finally:
                    ended.set()

            app = Starlette(routes=[WebSocketRoute("/", socket)])
            async with serving(app, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port:
                yield Endpoint(installation, errors, ended, port)
    finally:
        logger.removeHandler(errors)


async def _talk(how: int, data: bytes) -> None:
    endpoint = await _endpoint()
    async with endpoint.client() as client:
        data = data.replace(b"@", client.client_id.encode()) if how < 3 else data
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        try:
            writer.write(UPGRADE)
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_sent(how, data) + frame(TEXT, LAST))
            frames = await _until_answered(reader) if how < 3 else b""
            with contextlib.suppress(OSError):  # the server has closed already
                writer.write(frame(CLOSE, b"\x03\xe8"))
                writer.write_eof()
                frames += await reader.read()
        finally:
            writer.close()
        await endpoint.ended.wait()
        assert endpoint.errors.records == []
    assert head.startswith(b"HTTP/1.1 101 ")
    _check_frames(frames)
    assert how == 3 or frames, "neither an answer nor a reason to close"


async def _until_answered(reader: asyncio.StreamReader) -> bytes:
    """What the server says up to its answer to the last message, or up to a close."""
    frames = b""
    while LAST_ID not in frames and all(opcode != CLOSE for _, opcode, _ in whole(frames)):
        more = await reader.read(65_536)
        if not more:
            break
        frames += more
    return frames


def _sent(how: int, data: bytes) -> bytes:
    if how == 3:
        return data
    if how == 2:
        return b"".join(frame(TEXT, line) for line in data.split(b"\n"))
    return frame(BINARY if how else TEXT, data)


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame of a client, with a mask of zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 127]) + size.to_bytes(8)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


def whole(frames: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Flags, opcode and payload of each frame of a server that is there to its end."""
    while len(frames) > 1:
        start, size = 2, frames[1]
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(frames[2:start])
        if len(frames) < start + size:
            return
        yield frames[0] >> 4, frames[0] & 15, frames[start : start + size]
        frames = frames[start + size :]


def _check_frames(frames: bytes) -> None:
    """Frames without masks or fragments: arrays of messages, pongs, and at the end a close with a known code."""
    closed = False
    for flags, opcode, payload in whole(frames):
        assert not closed
        assert flags == 8
        assert opcode in {TEXT, CLOSE, PING, PONG}
        closed = opcode == CLOSE
        if opcode == TEXT:
            assert isinstance(orjson.loads(payload), list)
        elif closed and payload:
            assert int.from_bytes(payload[:2]) in CODES
            payload[2:].decode()


TARGET = Target("websocket", one_input, SEEDS, WORDS, slow=True)
