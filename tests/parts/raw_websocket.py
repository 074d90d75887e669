"""A raw WebSocket client: sends any frame, however malformed, and parses the server's frames strictly."""

import asyncio
import base64
import contextlib
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from parts.raw_http import CRLF, Address, head

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
KEY: Final = base64.b64encode(bytes(range(16))).decode()
RESET: Final = -1
"""In place of a close code: the connection ended without a close frame."""
OPEN: Final = -2
"""In place of a close code: the connection was left open."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of the server."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """The code of a close; 1005 if it has none."""
        return int(struct.unpack("!H", self.payload[:2])[0]) if len(self.payload) >= 2 else 1_005


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """A frame of a client; `reserved` are the bits RSV1 (4) to RSV3 (1)."""
    first = (0x80 if final else 0) | (reserved << 4) | opcode
    mask_bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        sized = bytes([first, mask_bit | size])
    elif size < 65_536:
        sized = bytes([first, mask_bit | 126]) + struct.pack("!H", size)
    else:
        sized = bytes([first, mask_bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return sized + payload
    mask = b"\x11\x22\x33\x44"
    repeated = mask * (size // 4 + 1)
    return sized + mask + bytes(a ^ b for a, b in zip(payload, repeated, strict=False))


def upgrade(path: str, *fields: str, version: str | None = "13", key: str | None = KEY, method: str = "GET") -> bytes:
    """The opening handshake; the fields come after those that it takes."""
    lines = ["Host: a", "X-Request-Id: a", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [] if version is None else [f"Sec-WebSocket-Version: {version}"]
    lines += [] if key is None else [f"Sec-WebSocket-Key: {key}"]
    return head(f"{method} {path} HTTP/1.1", *lines, *fields)


class WebSocket:
    """An open WebSocket; reads while it sends, so that a reset does not hide the close frame before it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._buffer = bytearray()
        self._closed = False
        self._moved = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def send(self, frames: Iterable[bytes]) -> None:
        """Send until the server closes."""
        with contextlib.suppress(OSError):
            for each in frames:
                if self._closed:
                    return
                self.writer.write(each)
                await self.writer.drain()
                await asyncio.sleep(0)

    async def next_frame(self, within_s: float) -> Frame | None:
        """The next frame; None where the connection ends. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while (got := _next_frame(self._buffer)) is None and not self._closed:
                self._moved.clear()
                await self._moved.wait()
        return got

    async def stop_reading(self) -> None:
        """Read nothing more."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(65_536):
                self._buffer += data
                self._moved.set()
        except OSError:
            pass
        finally:
            self._closed = True
            self._moved.set()

    async def close_code(self, within_s: float) -> int:
        """The code by which the server closes, RESET or OPEN; frames before the close are skipped."""
        try:
            async with asyncio.timeout(within_s):
                while (got := await self.next_frame(within_s)) is not None:
                    if got.opcode == CLOSE:
                        return got.code
        except TimeoutError:
            return OPEN
        return RESET

    async def is_closed(self, within_s: float) -> bool:
        """Whether the TCP connection ends."""
        try:
            while await self.next_frame(within_s) is not None:
                pass
        except TimeoutError:
            return False
        return True


def _next_frame(buffer: bytearray) -> Frame | None:
    """Take the next whole frame off the buffer."""
    start = 2
    if len(buffer) < start:
        return None
    assert buffer[0] & 0x80, "the server sends fragments"
    assert not buffer[1] & 0x80, "the server masks"
    size = buffer[1] & 0x7F
    if size >= 126:
        start += 2 if size == 126 else 8
        size = int.from_bytes(buffer[2:start])
    if len(buffer) < start + size:
        return None
    got = Frame(buffer[0] & 0x0F, bytes(buffer[start : start + size]))
    del buffer[: start + size]
    return got


@asynccontextmanager
async def websocket(address: Address, path: str, *fields: str) -> AsyncIterator[WebSocket]:
    """Open a WebSocket, and drop it at the end."""
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=address.tls, server_hostname="localhost" if address.tls else None
    )
    try:
        writer.write(upgrade(path, *fields))
        answer = await reader.readuntil(CRLF + CRLF)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        opened = WebSocket(reader, writer)
        yield opened
        await opened.stop_reading()
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
