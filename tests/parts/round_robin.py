"""A reverse proxy that knows no stickiness: each request, even of one connection, goes to the next upstream."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass

from parts.threaded_server import ThreadedServer

_CHUNK = 65_536
_MOST_HEAD = 65_536
_NO_BODY = (204, 304)


@dataclass(frozen=True)
class Head:
    """The first line and the headers of a request or an answer; names of headers are in small letters."""

    first: str
    headers: Sequence[tuple[str, str]]

    def __getitem__(self, name: str) -> str:
        return ", ".join(value for known, value in self.headers if known == name)

    @property
    def upgrades(self) -> bool:
        return "upgrade" in self["connection"].lower()

    def encoded(self, connection: str) -> bytes:
        """The head with `connection` as its only header about the connection."""
        lines = [f"{name}: {value}" for name, value in self.headers if name not in {"connection", "keep-alive"}]
        return "\r\n".join([self.first, *lines, f"connection: {connection}", "", ""]).encode("latin-1")


class RoundRobin(ThreadedServer):
    """Listens on a port of its own; `upstreams` are ports by the beginning of paths, "" for all others."""

    def __init__(self, upstreams: Mapping[str, Sequence[int]], port: int = 0) -> None:
        super().__init__(port)
        self._turns: Mapping[str, Iterator[int]] = {path: itertools.cycle(ports) for path, ports in upstreams.items()}
        self.served: Counter[int] = Counter()
        """How many requests went to each port."""

    def _next(self, path: str) -> int:
        place = max((each for each in self._turns if path.startswith(each)), key=len)
        port = next(self._turns[place])
        self.served[port] += 1
        return port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, request by request."""
        with contextlib.suppress(OSError, EOFError):
            while await self._forward(reader, writer):
                continue

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; returns whether the connection may have another."""
        request = await _head(reader)
        port = self._next(request.first.split()[1])
        there, back = await asyncio.open_connection("127.0.0.1", port, limit=_MOST_HEAD)
        self.writers.add(back)
        try:
            if request.upgrades:
                back.write(request.encoded("Upgrade"))
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
                return False
            back.write(request.encoded("close"))
            await _send(_body(request, reader, else_all=False), back)
            answer = await _unless_gone(_head(there), reader)
            status = int(answer.first.split()[1])
            counted = bool(answer["content-length"] or answer["transfer-encoding"]) or status in _NO_BODY
            writer.write(answer.encoded("keep-alive" if counted else "close"))
            await _send(_body(answer, there, else_all=not counted), writer)
            return counted
        finally:
            self.close(back)


async def _head(reader: asyncio.StreamReader) -> Head:
    """Raises EOFError."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(first, [(name.lower(), value.strip()) for name, _, value in pairs])


async def _body(head: Head, reader: asyncio.StreamReader, *, else_all: bool) -> AsyncIterator[bytes]:
    """The body as it is sent; where its length is not told, nothing, or (`else_all`) all that comes."""
    if "chunked" in head["transfer-encoding"].lower():
        size = 1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
    elif head["content-length"]:
        yield await reader.readexactly(int(head["content-length"]))
    elif else_all:
        yield await reader.read()


async def _send(chunks: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
    async for chunk in chunks:
        writer.write(chunk)
        await writer.drain()


async def _unless_gone(work: Coroutine[object, object, Head], client: asyncio.StreamReader) -> Head:
    """The outcome of the work, unless the client goes away before. Raises EOFError."""
    waiting, gone = asyncio.ensure_future(work), asyncio.ensure_future(client.read(1))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise EOFError
        return waiting.result()
    finally:
        for task in (waiting, gone):
            task.cancel()
        await asyncio.gather(waiting, gone, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
