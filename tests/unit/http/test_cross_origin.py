"""Pages of allowed origins may read answers, however the origin is written; others are told which setting it is."""

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from calltag.core.http.cross_origin import CrossOrigin
from calltag.core.http.origin import AllowedOrigins
from calltag.core.telemetry.conditions import forget_conditions

DESK, FOREIGN, OWN = "https://desk.example", "https://foreign.example", "https://own.example"
WAYS = ["https://desk.example", "https://desk.example:443", "https://Desk.Example", "https://desk.example."]


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("served")(scope, receive, send)


async def ask(allowed: list[str], method: str, **headers: str) -> httpx.Response:
    app = CrossOrigin(
        served,
        AllowedOrigins(allowed),
        methods=("GET", "POST"),
        headers=("Prefer",),
        exposed=("Operation-Id",),
        own=AllowedOrigins([OWN]),
    )
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
        return await http.request(method, "/", headers=sent)


@pytest.mark.parametrize("origin", WAYS)
@pytest.mark.parametrize("allowed", WAYS)
async def test_an_allowed_origin_reads_answers(allowed: str, origin: str) -> None:
    answer = await ask([allowed], "GET", Origin=origin)
    assert (answer.text, answer.headers["access-control-allow-origin"]) == ("served", origin)
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "Operation-Id" in answer.headers["access-control-expose-headers"]
    asked = await ask([allowed], "OPTIONS", Origin=origin, Access_Control_Request_Method="POST")
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, origin)
    assert "Prefer" in asked.headers["access-control-allow-headers"]


@pytest.mark.parametrize("allowed", [[], [DESK], ["http://foreign.example"]])
async def test_a_foreign_origin_reads_nothing_and_is_told_the_setting(allowed: list[str]) -> None:
    answer = await ask(allowed, "GET", Origin=FOREIGN)
    assert (answer.text, "access-control-allow-origin" in answer.headers) == ("served", False)
    asked = await ask(allowed, "OPTIONS", Origin=FOREIGN, Access_Control_Request_Method="POST")
    assert (asked.status_code, asked.json()["statusCode"]) == (403, 3)
    assert "CALLTAG_ALLOWED_ORIGINS" in asked.json()["statusMessage"]
    assert "access-control-allow-origin" not in asked.headers


@pytest.mark.parametrize(
    ("allowed", "method", "origin", "is_logged"),
    [
        ([], "GET", FOREIGN, True),
        ([DESK], "POST", FOREIGN, True),
        ([DESK], "OPTIONS", FOREIGN, True),
        ([DESK], "POST", "null", True),
        ([DESK], "POST", DESK, False),
        (["*"], "POST", FOREIGN, False),
        ([], "POST", "http://x", False),
        ([], "POST", OWN, False),
        ([], "POST", None, False),
    ],
)
async def test_a_page_that_is_not_allowed_is_in_the_log_with_the_setting(
    allowed: list[str], method: str, origin: str | None, is_logged: bool
) -> None:
    forget_conditions()
    headers = {} if origin is None else {"Origin": origin}
    with capture_logs() as lines:
        for _ in range(100):
            await ask(allowed, method, **headers, Access_Control_Request_Method="POST")
    assert [each["event"] for each in lines] == ["origin_not_allowed"] * is_logged
    for each in lines:
        assert "CALLTAG_ALLOWED_ORIGINS" in each["cure"]
        assert str(origin) in each["reason"]


async def test_with_any_origin_no_cookies_go_along() -> None:
    answer = await ask(["*"], "GET", Origin=FOREIGN)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_answers_to_no_page_are_as_they_are() -> None:
    plain = await ask([], "GET")
    assert not [name for name in plain.headers if name.startswith("access-control") or name == "vary"]
    assert (await ask([DESK], "GET")).headers["vary"] == "Origin"
    assert (await ask([], "OPTIONS")).text == "served"
