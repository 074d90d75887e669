"""What every answer gets, whatever the application does; and which requests go straight to the operations."""

import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from calltag.core.http.metrics import HttpMetrics
from calltag.core.telemetry.metrics import Metrics
from calltag.gateway.middleware import Direct, Finishing, route_of
from calltag.gateway.resources import answer


class Broken(Exception):
    """Something that nobody foresaw."""


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    scope["state"]["set_cookie"] = "JSESSIONID=1"
    scope["state"]["headers"]["X-CSRF-TOKEN"] = "2"
    await answer({"statusCode": 0})(scope, receive, send)


async def raising(scope: Scope, receive: Receive, send: Send) -> None:
    raise Broken


async def raising_half_way(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise Broken


async def raising_at_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    await answer({"statusCode": 4}, 500)(scope, receive, send)
    raise Broken


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://calltag")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def finished(metrics: Metrics) -> Callable[[ASGIApp], ASGIApp]:
    return lambda app: Finishing(app, HttpMetrics(metrics))


Finished = Callable[[ASGIApp], ASGIApp]


async def test_an_answer_gets_the_cookie_and_the_token_of_its_session(finished: Finished) -> None:
    async with client(finished(fine)) as http:
        got = await http.get("/")
    assert (got.headers["set-cookie"], got.headers["x-csrf-token"]) == ("JSESSIONID=1", "2")


async def test_what_nobody_foresaw_is_answered_in_the_form_of_the_api(finished: Finished, metrics: Metrics) -> None:
    async with client(finished(raising)) as http:
        got = await http.get("/")
    assert (got.status_code, got.json()) == (500, {"statusCode": 4, "statusMessage": "internal error"})
    assert metrics.registry.get_sample_value("calltag_http_requests_total", {"route": "none", "status": "500"}) == 1


async def test_an_answer_that_has_begun_is_cut_off(finished: Finished) -> None:
    async with client(finished(raising_half_way)) as http:
        with pytest.raises(Broken):
            await http.get("/")


async def test_an_answer_that_is_complete_stays(finished: Finished) -> None:
    async with client(finished(raising_at_the_end)) as http:
        assert (await http.get("/")).status_code == 500


@pytest.mark.parametrize(("app", "usual", "all_told"), [(fine, [], ["debug"]), (raising, ["info"], ["info"])])
@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
async def test_only_what_went_wrong_has_a_line_each_in_the_usual_log(
    finished: Finished,
    app: ASGIApp,
    usual: list[str],
    all_told: list[str],
    level: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(level)
    with structlog.testing.capture_logs() as lines:
        async with client(finished(app)) as http:
            await http.get("/")
    assert [line["log_level"] for line in lines if line["event"] == "request"] == (
        usual if level == logging.INFO else all_told
    )


def direct(seen: list[str]) -> ASGIApp:
    app = FastAPI(redirect_slashes=False)

    @app.post("/api/v2/me/calls/{call_id}")
    async def framework(call_id: str) -> Response:
        return PlainTextResponse(f"framework {call_id}")

    @app.get("/{path:path}")
    async def anything(path: str) -> Response:
        return PlainTextResponse("framework")

    async def operate(request: Request, call_id: str) -> Response:
        seen.append(route_of(request.scope))
        if call_id == "refused":
            raise Broken
        return PlainTextResponse(f"direct {call_id}")

    async def refuse(request: Request, error: Exception) -> Response:
        return PlainTextResponse(type(error).__name__, 400)

    return Direct(app, operate, refuse, (Broken,))


@pytest.mark.parametrize(
    ("method", "path", "answered"),
    [
        ("POST", "/api/v2/me/calls/C1", "direct C1"),
        ("POST", "/api/v2/me/calls/C1?a=b", "direct C1"),
        ("POST", "/api/v2/me/calls/C%201", "direct C 1"),
        ("POST", "/api/v2/me/calls/refused", "Broken"),
        ("GET", "/api/v2/me/calls/C1", "framework"),
        ("GET", "/api/v2/me/calls", "framework"),
    ],
)
async def test_operations_on_calls_go_straight_and_all_else_does_not(method: str, path: str, answered: str) -> None:
    async with client(direct([])) as http:
        assert (await http.request(method, path)).text == answered


@pytest.mark.parametrize("end", ["calls/", "calls/a/b", "calls", "callsC1"])
async def test_other_addresses_are_the_frameworks(end: str) -> None:
    seen: list[str] = []
    async with client(direct(seen)) as http:
        assert (await http.post(f"/api/v2/me/{end}")).status_code in {404, 405}
    assert seen == []


@pytest.mark.parametrize(
    ("method", "path", "served"),
    [
        ("GET", "/api/v2/me/", "GET /api/v2/me"),
        ("HEAD", "/api/v2/me", "GET /api/v2/me"),
        ("HEAD", "/api/v2/me/", "GET /api/v2/me"),
        ("HEAD", "/", "GET /"),
        ("POST", "/", "POST /"),
        ("POST", "/api/v2/me/calls/C/", "POST /api/v2/me/calls/C"),
        ("GET", "/api/v2/me//", "GET /api/v2/me/"),
        ("OPTIONS", "/api/v2/me", "OPTIONS /api/v2/me"),
    ],
)
async def test_head_is_get_and_a_slash_at_the_end_is_none(
    finished: Finished, method: str, path: str, served: str
) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(f"{scope['method']} {Request(scope).url.path}")
        await answer({"statusCode": 0})(scope, receive, send)

    async with client(finished(app)) as http:
        await http.request(method, path)
    assert seen == [served]


async def test_a_direct_request_is_counted_under_its_route() -> None:
    seen: list[Any] = []
    async with client(direct(seen)) as http:
        await http.post("/api/v2/me/calls/C1")
    assert seen == ["/api/v2/me/calls/{call_id}"]
