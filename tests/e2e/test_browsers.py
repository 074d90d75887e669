"""What protects users from pages of others: CSRF tokens, and origins."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from parts.system import System, embedded_system

DESK = "https://desk.example"
FOREIGN = "https://foreign.example"
ALICE = ("alice", "demo")
HELLO = [{"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}]
READY = {"operationName": "StartContactCenterSession", "channels": ["voice"]}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder: Path = tmp_path_factory.mktemp("guarded")
    with embedded_system(
        folder,
        CALLTAG_SESSION__CSRF_PROTECTION="true",
        CALLTAG_ALLOWED_ORIGINS=DESK,
    ) as running:
        yield running


@pytest.fixture
async def http(guarded: System) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=guarded.gateway_url, timeout=20) as client:
        yield client


async def token(http: httpx.AsyncClient) -> dict[str, str]:
    answer = await http.get("/api/v2/me", auth=ALICE, headers={"Origin": DESK})
    exposed = answer.headers["access-control-expose-headers"]
    assert "X-CSRF-HEADER" in exposed
    assert "X-CSRF-TOKEN" in exposed
    return {answer.headers["X-CSRF-HEADER"]: answer.headers["X-CSRF-TOKEN"]}


REQUESTS = pytest.mark.parametrize(
    ("path", "body"),
    [("/api/v2/me", READY), ("/genesys/cometd", HELLO), ("/api/v2/notifications/handshake", HELLO)],
)


@REQUESTS
async def test_a_change_needs_the_token_of_the_session(http: httpx.AsyncClient, path: str, body: Any) -> None:
    shown = await token(http)
    refused = await http.post(path, json=body)
    assert refused.status_code == 403
    assert "Missing or invalid Csrf token" in refused.text
    assert (await http.post(path, json=body, headers={"X-CSRF-TOKEN": "another"})).status_code == 403
    answer = await http.post(path, json=body, headers=shown)
    assert answer.status_code == 200, answer.text


@REQUESTS
async def test_a_password_alone_does_not_make_up_for_it(http: httpx.AsyncClient, path: str, body: Any) -> None:
    await token(http)
    assert (await http.post(path, json=body, auth=ALICE)).status_code == 403


async def test_a_login_in_the_handshake_needs_no_token_and_makes_no_cookie(http: httpx.AsyncClient) -> None:
    shown = HELLO[0] | {"ext": {"authentication": {"user": "alice", "password": "demo"}}}
    shaken = await http.post("/genesys/cometd", json=[shown])
    [hello] = shaken.json()
    assert hello["successful"]
    assert [name for name, _ in shaken.cookies.items()] == ["BAYEUX_BROWSER"]
    subscription = {"channel": "/meta/subscribe", "clientId": hello["clientId"], "subscription": "/v2/me/calls"}
    subscribed = await http.post("/genesys/cometd", json=[subscription])
    assert subscribed.status_code == 200, subscribed.text
    assert subscribed.json()[0]["successful"]


async def test_a_session_made_by_cookie_needs_the_token_all_along(http: httpx.AsyncClient) -> None:
    shown = await token(http)
    [hello] = (await http.post("/genesys/cometd", json=HELLO, headers=shown)).json()
    subscription = {"channel": "/meta/subscribe", "clientId": hello["clientId"], "subscription": "/v2/me/calls"}
    assert (await http.post("/genesys/cometd", json=[subscription])).status_code == 403
    async with httpx.AsyncClient(base_url=http.base_url) as nobody:
        [unknown] = (await nobody.post("/genesys/cometd", json=[subscription])).json()
        assert unknown["error"] == "402::Unknown client"
    [subscribed] = (await http.post("/genesys/cometd", json=[subscription], headers=shown)).json()
    assert subscribed["successful"]


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null", "http://", ""])
async def test_an_origin_that_is_none_is_foreign(http: httpx.AsyncClient, origin: str) -> None:
    shown = await token(http)
    refused = await http.post("/genesys/cometd", json=HELLO, headers={**shown, "Origin": origin})
    assert (refused.status_code, "ALLOWED_ORIGINS" in refused.text) == (403, True)
    answer = await http.post("/api/v2/me", json=READY, headers={**shown, "Origin": origin})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_pages_of_others_do_not_reach_cometd(http: httpx.AsyncClient, guarded: System) -> None:
    shown = await token(http)
    refused = await http.post("/genesys/cometd", json=HELLO, headers={**shown, "Origin": FOREIGN})
    assert refused.status_code == 403
    assert "ALLOWED_ORIGINS" in refused.text
    url = guarded.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    with pytest.raises(InvalidStatus, match="403"):
        async with connect(url, origin=FOREIGN):  # type: ignore[arg-type]
            pass


async def test_own_pages_and_allowed_ones_do(http: httpx.AsyncClient, guarded: System) -> None:
    shown = await token(http)
    for origin in (DESK, guarded.gateway_url):
        answer = await http.post("/genesys/cometd", json=HELLO, headers={**shown, "Origin": origin})
        assert answer.json()[0]["successful"]
        async with connect(guarded.cometd_url.replace("http://", "ws://") + "/genesys/cometd", origin=origin) as socket:  # type: ignore[arg-type]
            await socket.send("[]")


@pytest.mark.parametrize("path", ["/api/v2/me", "/genesys/cometd", "/genesys/cometd/connect"])
async def test_preflight_requests(http: httpx.AsyncClient, path: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-csrf-token"}
    allowed = await http.options(path, headers={"Origin": DESK, **asked})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == DESK
    assert allowed.headers["access-control-allow-credentials"] == "true"
    refused = await http.options(path, headers={"Origin": FOREIGN, **asked})
    assert "access-control-allow-origin" not in refused.headers
