"""Addresses and methods by RFC 9110: HEAD, OPTIONS, Allow, a slash too many, and what every answer has."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from calltag.core import VERSION
from parts.system import System

ALICE = ("alice", "demo")
DEVICE = "631608b3-ceb1-472b-ba05-2ae39555b0d1"
HELLO = [{"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}]
READ = (
    "/",
    "/docs",
    "/docs/files/swagger-ui.css",
    "/openapi.json",
    "/api/v2/me",
    "/api/v2/me/calls",
    f"/api/v2/me/devices/{DEVICE}",
    f"/api/v2/devices/{DEVICE}",
    "/api/v2/diagnostics/version",
)
METHODS = {
    **dict.fromkeys(READ, "GET, HEAD, OPTIONS"),
    "/api/v2/me": "GET, HEAD, OPTIONS, POST",
    "/api/v2/me/calls/C": "GET, HEAD, OPTIONS, POST",
    f"/api/v2/me/devices/{DEVICE}": "GET, HEAD, OPTIONS, POST",
    f"/api/v2/devices/{DEVICE}": "GET, HEAD, OPTIONS, POST",
    f"/api/v2/me/devices/{DEVICE}/calls": "OPTIONS, POST",
    "/api/v2/switch/events": "OPTIONS, POST",
}
COMETD = ("/genesys/cometd", "/genesys/cometd/", "/api/v2/notifications", "/api/v2/notifications/connect")
CHANGES = f"/api/v2/me/devices/{DEVICE}/calls"
DIAL = {"operationName": "Dial", "destination": {"phoneNumber": "15001"}}


@pytest.fixture
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=system.gateway_url, auth=ALICE, timeout=20) as client:
        yield client


@pytest.fixture
async def cometd(system: System) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=system.cometd_url, auth=ALICE, timeout=20) as client:
        yield client


def steady(headers: httpx.Headers) -> dict[str, str]:
    """The headers that do not differ from one answer to the next."""
    return {name: value for name, value in headers.items() if name not in {"date", "x-request-id", "set-cookie"}}


def timeless(content: bytes) -> bytes:
    """The content without the time that calls have lasted."""
    return re.sub(rb'"duration":"[0-9]+"', b"", content)


@pytest.mark.parametrize("path", [*READ, "/api/v2/nothing", "/docs/files/nothing"])
async def test_head_is_served_wherever_get_is(http: httpx.AsyncClient, path: str) -> None:
    got, head = await http.get(path), await http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert steady(head.headers) == steady(got.headers)
    assert int(head.headers["content-length"]) == len(got.content)


async def test_head_of_a_missing_login_and_of_an_unknown_call(http: httpx.AsyncClient) -> None:
    assert (await http.head("/api/v2/me/calls/unknown")).status_code == 404
    assert (await http.head("/api/v2/me", auth=("alice", "wrong"))).status_code == 401


@pytest.mark.parametrize(("path", "methods"), METHODS.items())
async def test_all_methods_of_an_address_are_named(http: httpx.AsyncClient, path: str, methods: str) -> None:
    for method in ("PUT", "DELETE", "PATCH", "TRACE"):
        refused = await http.request(method, path)
        assert (refused.status_code, refused.headers["allow"]) == (405, methods)
        assert refused.json() == {"statusCode": 10, "statusMessage": "this method is not served here"}
    asked = await http.request("OPTIONS", path, auth=None)
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, methods, b"")
    assert ("POST" in methods) is ((await http.post(path, json={})).status_code != 405)
    assert ("GET" in methods) is ((await http.get(path)).status_code != 405)


@pytest.mark.parametrize("path", ["/nothing", "/api/v2/nothing", "/api/v2/me/nothing"])
async def test_an_address_that_is_not_there_has_no_methods(http: httpx.AsyncClient, path: str) -> None:
    for method in ("OPTIONS", "PUT", "HEAD"):
        refused = await http.request(method, path)
        assert (refused.status_code, "allow" in refused.headers) == (404, False)


@pytest.mark.parametrize("path", COMETD)
async def test_cometd_names_the_same_methods_whatever_was_asked(cometd: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH"):
        refused = await cometd.request(method, path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "OPTIONS, POST")
    asked = await cometd.options(path)
    assert (asked.status_code, asked.headers["allow"]) == (204, "OPTIONS, POST")


@pytest.mark.parametrize("path", [path for path in READ if path != "/"])
async def test_a_slash_at_the_end_changes_nothing(http: httpx.AsyncClient, path: str) -> None:
    plain, slashed = await http.get(f"{path}?fields=*"), await http.get(f"{path}/?fields=*")
    assert (slashed.status_code, timeless(slashed.content)) == (200, timeless(plain.content))
    assert (await http.put(f"{path}/")).headers["allow"] == (await http.put(path)).headers["allow"]


async def test_an_operation_with_a_slash_is_the_operation(http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "a slash or none", "Prefer": "wait=10"}
    first = await http.post(f"{CHANGES}/", json=DIAL, headers=key)
    again = await http.post(CHANGES, json=DIAL, headers=key)
    call = first.json()["call"]["id"]
    assert (again.json()["call"]["id"], again.headers["idempotent-replayed"]) == (call, "true")
    told = await http.post(f"/api/v2/me/calls/{call}/", json={"operationName": "Hangup"}, headers={"Prefer": "wait=10"})
    assert told.json()["call"]["state"] == "Released"


@pytest.mark.parametrize(
    "path", ["/api/v2/me/", "/api/v2/me//", "//api/v2/me", "/docs/", "/genesys/cometd/", "/genesys"]
)
async def test_nobody_is_sent_to_an_address_made_of_the_request(
    http: httpx.AsyncClient, cometd: httpx.AsyncClient, path: str
) -> None:
    for client in (http, cometd):
        for method in ("GET", "POST", "HEAD"):
            answer = await client.request(method, path, headers={"Host": "evil.example", "X-Forwarded-Proto": "https"})
            assert answer.status_code not in range(300, 400)
            assert "location" not in answer.headers
            assert "evil.example" not in answer.text


async def test_the_root_says_where_everything_is(http: httpx.AsyncClient) -> None:
    root = await http.get("/", auth=None)
    assert (root.status_code, root.json()["name"], root.json()["version"]) == (200, "calltag", VERSION)
    for path in ("documentation", "openapi", "api"):
        assert (await http.get(root.json()["links"][path])).status_code == 200


async def test_the_root_is_a_page_for_people(http: httpx.AsyncClient) -> None:
    page = await http.get("/", auth=None, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = re.findall('href="([^"]+)"', page.text)
    assert links
    for link in links:
        assert (await http.get(link)).status_code == 200


@pytest.mark.parametrize("path", ["/genesys/cometd", "/genesys/cometd/handshake", "/api/v2/notifications"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_the_gateway_names_the_notifier(usual_processes: System, method: str, path: str) -> None:
    async with httpx.AsyncClient(base_url=usual_processes.gateway_url, auth=("alice", "demo")) as client:
        refused = await client.request(method, path)
    assert (refused.status_code, refused.json()["statusCode"]) == (404, 6)
    assert "to a notifier" in refused.json()["statusMessage"]


@pytest.mark.parametrize("path", ["/api/v2/me", "/api/v2/me/calls/x", "/docs", "/", "/genesys/cometdx"])
async def test_the_notifier_names_the_gateway(usual_processes: System, path: str) -> None:
    async with httpx.AsyncClient(base_url=usual_processes.cometd_url) as client:
        for method in ("GET", "POST"):
            refused = await client.request(method, path)
            assert (refused.status_code, refused.json()["statusCode"]) == (404, 6)
            assert "to a gateway" in refused.json()["statusMessage"]


async def test_a_session_that_is_over_is_no_missing_login(http: httpx.AsyncClient) -> None:
    cases: Any = ({}, "send HTTP Basic credentials or"), ({"Cookie": "JSESSIONID=gone"}, "the session is over")
    for headers, text in cases:
        refused = await http.get("/api/v2/me", auth=None, headers=headers)
        assert (refused.status_code, refused.json()["statusCode"]) == (401, 20)
        assert text in refused.json()["statusMessage"]


@pytest.mark.parametrize(
    ("method", "path", "body", "ignored"),
    [
        ("GET", "/me?_=12&fields=*&subresources=*", None, "_"),
        ("GET", "/me/calls?fields=id", None, None),
        ("GET", "/calls?minAge=1&state=Held&min_age=2&state=x", None, "min_age"),
        ("GET", "/calls?" + "&".join(f"p{n}=1" for n in range(40)), None, ", ".join(f"p{n}" for n in range(16))),
        ("GET", "/me?" + "x" * 100, None, "x" * 32),
        ("GET", "/me?a%0d%0aSet-Cookie%3a%20x=1", None, "a%0D%0ASet-Cookie%3A%20x"),
        ("GET", "/me/calls/none?call_id=x&request=1", None, "call_id, request"),
        ("GET", "/nothing?x=1", None, None),
        ("POST", "/me?q=1", {"operationName": "NotReady", "queue": "a", "place": 1}, "queue, place, q"),
        ("POST", "/me/channels/voice", {"operationName": "Ready", "é,x": 1}, "%C3%A9%2Cx"),
        ("POST", "/me/calls/none", {"operationName": "Hold", "userData": {"a": 1}}, "userData"),
        ("POST", "/me/calls/none", {"operationName": "AttachUserData", "userData": {"a": 1}}, None),
        ("POST", "/me/calls/none", {"operationName": "Nothing", "x": 1}, None),
    ],
)
async def test_parameters_without_effect_are_named(
    http: httpx.AsyncClient, method: str, path: str, body: object, ignored: str | None
) -> None:
    answer = await http.request(method, f"/api/v2{path}", json=body)
    assert answer.headers.get("Calltag-Ignored-Parameters") == ignored


async def test_members_of_events_without_effect_are_named(http: httpx.AsyncClient) -> None:
    events = [{"eventId": "e", "eventType": "CallEnded", "id": "none", "cause": 1}, {"x": 1}, 7]
    answer = await http.post("/api/v2/switch/events", json=events, auth=("switch", "demo"))
    assert answer.headers["Calltag-Ignored-Parameters"] == "cause"


async def test_the_version_is_told_as_web_services_does(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v2/diagnostics/version", auth=None)
    assert (answer.status_code, answer.json()) == (200, {"statusCode": 0, "version": VERSION})


@pytest.mark.parametrize("path", ["/api/v2/me", "/api/v2/nothing", "/genesys/cometd", "/genesys/cometd/connect"])
async def test_a_preflight_of_a_foreign_page_names_the_setting(system: System, path: str) -> None:
    asked = {"Origin": "https://foreign.example", "Access-Control-Request-Method": "POST"}
    url = system.cometd_url if "cometd" in path else system.gateway_url
    async with httpx.AsyncClient(base_url=url) as client:
        refused = await client.options(path, headers=asked)
    assert (refused.status_code, refused.json()["statusCode"]) == (403, 3)
    assert "CALLTAG_ALLOWED_ORIGINS" in refused.json()["statusMessage"]
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", path, 200) for path in READ),
        ("GET", "/api/v2/nothing", 404),
        ("PUT", "/api/v2/me", 405),
        ("OPTIONS", "/api/v2/me", 204),
        ("POST", "/api/v2/me", 400),
        ("GET", "/genesys/cometd", 405),
        ("POST", "/genesys/cometd", 400),
    ],
)
async def test_no_answer_is_taken_for_another_type(
    http: httpx.AsyncClient, cometd: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    client = cometd if "cometd" in path else http
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers.get_list("x-content-type-options")) == (status, ["nosniff"])


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("desk.example.com", "https://desk.example.com"),
        ("desk.example.com:443", "https://desk.example.com"),
        ("desk.example.com:80", "http://desk.example.com"),
        ("Desk.Example.com", "https://desk.example.com"),
        ("desk.example.com.:443", "https://desk.example.com."),
        ("[0:0::1]:443", "https://[::1]"),
    ],
)
async def test_pages_of_the_server_itself_use_cometd_however_the_host_is_written(
    cometd: httpx.AsyncClient, host: str, origin: str
) -> None:
    answer = await cometd.post("/genesys/cometd", json=HELLO, headers={"Host": host, "Origin": origin})
    assert answer.status_code == 200, answer.text
    assert answer.json()[0]["successful"]
    foreign = {"Host": host, "Origin": "https://foreign.example"}
    assert (await cometd.post("/genesys/cometd", json=HELLO, headers=foreign)).status_code == 403


async def test_a_websocket_of_a_page_behind_a_proxy_that_writes_the_port(system: System) -> None:
    place = httpx.URL(system.cometd_url)
    uri, origin = "ws://desk.example.com:443/genesys/cometd", "https://desk.example.com"
    async with connect(uri, host=place.host, port=place.port, origin=origin) as socket:  # type: ignore[arg-type]
        await socket.ping()


async def test_pages_of_the_public_address_use_cometd_whatever_a_proxy_makes_of_the_host(
    system: System, cometd: httpx.AsyncClient
) -> None:
    public = system.environment.get("CALLTAG_PUBLIC_URL", system.gateway_url)
    answer = await cometd.post("/genesys/cometd", json=HELLO, headers={"Host": "inside:8081", "Origin": public})
    assert answer.status_code == 200, answer.text
