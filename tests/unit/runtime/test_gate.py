"""The gate before an application: shut until there is one, and nobody beyond the connections that are served."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from calltag.core.runtime.gate import Gate
from calltag.core.runtime.server import bound_socket, serving
from parts.eventually import eventually


class App:
    """Answers HTTP requests, and accepts WebSockets, once `go` is set; says when one came in."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.arrived.set()
        await self.go.wait()
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                continue
            return
        head: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        await send(head)
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def gate() -> Gate:
    return Gate(max_connections=2)


@pytest.fixture
async def address(gate: Gate) -> AsyncIterator[str]:
    listener = bound_socket("127.0.0.1", 0, "--port")
    async with serving(gate, listener, drain_timeout_s=1, places=gate.places) as port:
        yield f"127.0.0.1:{port}"


async def get(address: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://{address}/")


def check_refused(answer: httpx.Response, word: str) -> None:
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
    assert set(answer.json()) == {"statusCode", "statusMessage"}
    assert answer.json()["statusCode"] == 4
    assert word in answer.json()["statusMessage"]


async def test_a_shut_gate_refuses_requests_until_it_opens(gate: Gate, address: str) -> None:
    check_refused(await get(address), "store")
    app = App()
    app.go.set()
    gate.app = app
    assert (await get(address)).text == "ok"


async def test_a_shut_gate_refuses_websockets_until_it_opens(gate: Gate, address: str) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        async with connect(f"ws://{address}/"):
            pass
    app = App()
    app.go.set()
    gate.app = app
    async with connect(f"ws://{address}/"):
        pass


async def test_who_comes_beyond_the_connections_served_is_told_at_once(gate: Gate, address: str) -> None:
    gate.app = app = App()
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        served = [group.create_task(get(address)) for _ in range(2)]
        while len(gate.places) < 2:
            await app.arrived.wait()
            await asyncio.sleep(0)
        refused = await get(address)
        check_refused(refused, "2 connections")
        assert refused.headers["Connection"] == "close"
        with pytest.raises(InvalidStatus, match="403"):
            async with connect(f"ws://{address}/"):
                pass
        app.go.set()
        assert [(await each).status_code for each in served] == [200, 200]


async def test_websockets_are_connections_too(gate: Gate, address: str) -> None:
    gate.app = app = App()
    app.go.set()
    async with connect(f"ws://{address}/"), connect(f"ws://{address}/"):
        check_refused(await get(address), "2 connections")


async def test_a_closing_gate_makes_each_answer_the_last_of_its_connection(gate: Gate, address: str) -> None:
    gate.app = app = App()
    app.go.set()
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert "connection" not in (await client.get("/")).headers
        gate.closing = True
        for _ in range(3):
            assert (await client.get("/")).headers["connection"] == "close"


async def test_connections_that_ask_for_nothing_take_no_place_from_older_ones(gate: Gate, address: str) -> None:
    gate.app = app = App()
    app.go.set()
    host, _, port = address.partition(":")
    async with httpx.AsyncClient() as older:
        assert (await older.get(f"http://{address}/")).text == "ok"
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
        await eventually(lambda: len(gate.places) == 2)
        check_refused(await get(address), "2 connections")
        assert (await older.get(f"http://{address}/")).text == "ok"
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        await eventually(lambda: len(gate.places) == 1)
        assert (await get(address)).text == "ok"


async def test_who_waited_without_a_place_gets_one_that_is_given_back(gate: Gate, address: str) -> None:
    gate.app = app = App()
    app.go.set()
    async with connect(f"ws://{address}/"), connect(f"ws://{address}/"):
        reader, writer = await asyncio.open_connection(*address.split(":"))
        check_refused(await get(address), "2 connections")
    await eventually(lambda: len(gate.places) == 0)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert len(gate.places) == 1
    writer.close()
    await writer.wait_closed()
