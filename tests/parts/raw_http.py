"""A raw HTTP/1.1 client: sends any bytes, however malformed, and parses the answers strictly."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

CRLF: Final = b"\r\n"
REQUEST_ID: Final = "x-request-id"
HEAD: Final = "head"
"""Answers to requests whose id begins so have no body, whatever their fields say."""
_BODILESS: Final = frozenset({204, 304})
_REFUSALS: Final = frozenset({400, 408, 413, 414, 431, 501, 503, 505})


class NotHttp(AssertionError):
    """The server sent bytes that are not an HTTP/1.1 response."""


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a server; `source` is the local address to connect from."""

    port: int
    host: str = "127.0.0.1"
    source: str | None = None
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; the names of its fields are in lower case."""

    status: int
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def id(self) -> str:
        return self.fields.get(REQUEST_ID, "")

    @property
    def is_refusal(self) -> bool:
        """Whether the server itself refused the request and closes."""
        return self.status in _REFUSALS and self.fields.get("connection", "").lower() == "close"

    @property
    def is_final(self) -> bool:
        return self.status >= 200

    def __str__(self) -> str:
        return f"{self.status} (id {self.id!r}, {self.body[:60]!r})"


def head(*lines: str | bytes) -> bytes:
    """A request line and fields, each ended by CRLF, and the empty line after them."""
    return b"".join((line.encode() if isinstance(line, str) else line) + CRLF for line in (*lines, ""))


def get(request_id: str, *fields: str, target: str = "/nowhere", method: str = "GET") -> bytes:
    """A valid request without a body."""
    return head(f"{method} {target} HTTP/1.1", "Host: a", f"X-Request-Id: {request_id}", *fields)


def chunked(*chunks: bytes) -> bytes:
    """A body in these chunks, with the last one."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def cut(data: bytes, size: int) -> list[bytes]:
    """The data in pieces of that size."""
    return [data[start : start + size] for start in range(0, len(data), size)]


class Connection:
    """One connection; reads while it sends, so that an early answer or close ends the sending."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.answers: list[Answer] = []
        self.closed = False
        self.reset = False
        """Whether the close was a reset."""
        self._reader = reader
        self._buffer = bytearray()
        self._moved = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Send each piece by itself until the server closes."""
        with contextlib.suppress(OSError, ssl.SSLError):
            for piece in pieces:
                if self.closed:
                    return
                self.writer.write(piece)
                await self.writer.drain()
                # The loop turns, so that each piece is a packet and early answers are seen.
                await asyncio.sleep(0)

    async def final(self, count: int, within_s: float) -> list[Answer]:
        """Wait for that many final answers, the close or the timeout; return all final answers so far."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not self.closed and len(self._finals()) < count:
                    await self._moves()
        return self._finals()

    async def statuses(self, count: int, within_s: float) -> list[int]:
        """Wait for that many answers, interim ones too, or the close; return the statuses so far."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not self.closed and len(self.answers) < count:
                    await self._moves()
        return [each.status for each in self.answers]

    async def closes(self, within_s: float) -> bool:
        """Whether the server closes within that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not self.closed:
                    await self._moves()
        return self.closed

    async def close(self) -> None:
        """Close this side."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self.writer.close()
        # By TLS, a server that is gone has not taken leave.
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()

    async def _moves(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _finals(self) -> list[Answer]:
        return [each for each in self.answers if each.is_final]

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(65_536):
                self._buffer += data
                while (answer := _next_answer(self._buffer)) is not None:
                    self.answers.append(answer)
                    self._moved.set()
        except (OSError, ssl.SSLError):
            self.reset = True
        except NotHttp as error:
            self.answers.append(Answer(999, {}, str(error).encode()))
        finally:
            if self._buffer:
                self.answers.append(Answer(998, {}, b"cut off: " + bytes(self._buffer[:200])))
            self.closed = True
            self._moved.set()


@asynccontextmanager
async def connection(address: Address) -> AsyncIterator[Connection]:
    """Connect, and close at the end."""
    source = (address.source, 0) if address.source else None
    reader, writer = await asyncio.open_connection(
        address.host,
        address.port,
        ssl=address.tls,
        local_addr=source,
        server_hostname="localhost" if address.tls else None,
    )
    opened = Connection(reader, writer)
    try:
        yield opened
    finally:
        await opened.close()


def _next_answer(buffer: bytearray) -> Answer | None:
    """Take the next whole response off the buffer. Raises NotHttp."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    status, fields = _head(bytes(buffer[:end]))
    start = end + 4
    if status < 200 or status in _BODILESS or fields.get(REQUEST_ID, "").startswith(HEAD):
        body, end = b"", start
    elif fields.get("transfer-encoding", "") == "chunked":
        found = _chunked_body(buffer, start)
        if found is None:
            return None
        body, end = found
    elif "content-length" in fields:
        end = start + int(fields["content-length"])
        if len(buffer) < end:
            return None
        body = bytes(buffer[start:end])
    else:
        raise NotHttp(f"a response that only the close ends: {bytes(buffer[:200])!r}")
    del buffer[:end]
    return Answer(status, fields, body)


def _head(text: bytes) -> tuple[int, dict[str, str]]:
    line, *lines = text.split(CRLF)
    version, _, rest = line.partition(b" ")
    if version != b"HTTP/1.1" or not rest[:3].isdigit() or rest[3:4] not in {b" ", b""}:
        raise NotHttp(f"no status line: {line[:200]!r}")
    fields: dict[str, str] = {}
    for each in lines:
        name, colon, value = each.partition(b":")
        if not colon or not name or name != name.strip():
            raise NotHttp(f"no field: {each[:200]!r}")
        fields[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
    return int(rest[:3]), fields


def _chunked_body(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    body = b""
    while (end := buffer.find(CRLF, start)) >= 0:
        size = int(buffer[start:end], 16)
        if len(buffer) < end + 4 + size:
            return None
        body += bytes(buffer[end + 2 : end + 2 + size])
        start = end + 4 + size
        if size == 0:
            return body, start
    return None
