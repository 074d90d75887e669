"""The proxy that end-to-end tests put before several nodes does what they count on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from parts.eventually import eventually
from parts.round_robin import RoundRobin


class Upstream:
    """A server that answers every request with its name and the body it got; at /held, never."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gone = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = b""
        if "content-length: " in head:
            body = await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
        elif "chunked" in head:
            body = await reader.readuntil(b"0\r\n\r\n")
        if "/held" in head:
            await reader.read()
            self.gone += 1
        else:
            text = self.name.encode() + b" " + body
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        writer.close()


@asynccontextmanager
async def running(*upstreams: Upstream) -> AsyncIterator[list[int]]:
    async with AsyncExitStack() as stack:
        servers = [await asyncio.start_server(each.serve, "127.0.0.1", 0) for each in upstreams]
        for server in servers:
            await stack.enter_async_context(server)
        yield [server.sockets[0].getsockname()[1] for server in servers]


async def test_requests_of_one_connection_go_to_one_after_the_other() -> None:
    async with running(Upstream("a"), Upstream("b"), Upstream("c")) as [a, b, c]:
        with RoundRobin({"": [a, b], "/comet": [c]}) as front:
            limits = httpx.Limits(max_connections=1)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.port}", limits=limits) as http:
                answers = [(await http.post("/x", content=str(number))).text for number in range(4)]
                assert answers == ["a 0", "b 1", "a 2", "b 3"]
                assert (await http.get("/comet/x")).text == "c "
        assert front.served == {a: 2, b: 2, c: 1}


async def test_a_body_in_chunks_goes_through() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"hello"
        yield b"you"

    async with running(Upstream("a")) as [port]:
        with RoundRobin({"": [port]}) as front:
            async with httpx.AsyncClient() as http:
                answer = await http.post(f"http://127.0.0.1:{front.port}/", content=chunks())
                assert answer.text == "a 5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n"


async def test_a_client_that_goes_away_is_gone_upstream() -> None:
    upstream = Upstream("a")
    async with running(upstream) as [port]:
        with RoundRobin({"": [port]}) as front:
            async with httpx.AsyncClient() as http:
                with pytest.raises(httpx.ReadTimeout):
                    await http.get(f"http://127.0.0.1:{front.port}/held", timeout=0.3)
            await eventually(lambda: upstream.gone == 1)


async def test_a_websocket_stays_with_one() -> None:
    async def echo(socket: ServerConnection) -> None:
        async for text in socket:
            await socket.send(text)

    async with serve(echo, "127.0.0.1", 0) as server:
        with RoundRobin({"": [server.sockets[0].getsockname()[1]]}) as front:
            async with connect(f"ws://127.0.0.1:{front.port}/") as socket:
                for text in ("one", "two"):
                    await socket.send(text)
                    assert await socket.recv() == text
