"""Every request has an id: its own if it is a good one, else a new one."""

import re

import httpx
import pytest
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from calltag.core.http.server import bound_socket, serving
from calltag.core.telemetry.request_ids import RequestIds


async def bound(_: Request) -> Response:
    """Answers with the id that log lines get."""
    return PlainTextResponse(structlog.contextvars.get_contextvars()["request_id"])


async def greet(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(structlog.contextvars.get_contextvars()["request_id"])
    await websocket.close()


APP = RequestIds(Starlette(routes=[Route("/", bound), WebSocketRoute("/socket", greet)]))


async def ask(**headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://x") as client:
        return await client.get("/", headers=headers)


@pytest.mark.parametrize("given", ["a", "A-1._z", "x" * 64])
async def test_a_good_id_is_kept_logged_and_answered(given: str) -> None:
    answer = await ask(**{"X-Request-Id": given})
    assert (answer.headers["X-Request-Id"], answer.text) == (given, given)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", 'a"b', "a,b", "a/b"])
async def test_another_id_is_replaced(given: str) -> None:
    answer = await ask(**{"X-Request-Id": given})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])
    assert answer.text == answer.headers["X-Request-Id"]


async def test_each_request_without_an_id_gets_its_own() -> None:
    assert (await ask()).text != (await ask()).text


async def test_nothing_that_was_bound_before_comes_along() -> None:
    structlog.contextvars.bind_contextvars(user="of the request before")
    seen: list[dict[str, object]] = []

    async def look(_: Request) -> Response:
        seen.append(structlog.contextvars.get_contextvars())
        return Response()

    app = RequestIds(Starlette(routes=[Route("/", look)]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        await client.get("/", headers={"X-Request-Id": "r"})
    assert seen == [{"request_id": "r"}]


async def test_what_is_not_found_has_an_id_too() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://x") as client:
        answer = await client.get("/nothing", headers={"X-Request-Id": "r"})
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (404, "r")


async def test_a_websocket_has_one() -> None:
    headers = {"X-Request-Id": "r"}
    async with (
        serving(APP, bound_socket("127.0.0.1", 0, "--port"), drain_timeout_s=1) as port,
        connect(f"ws://127.0.0.1:{port}/socket", additional_headers=headers) as socket,
    ):
        assert await socket.recv() == "r"
        assert socket.response is not None
        assert socket.response.headers["X-Request-Id"] == "r"
