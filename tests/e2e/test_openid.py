"""Sign-in with tokens of a real OpenID provider, at any of several processes."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect

from parts.agent import Agent
from parts.eventually import eventually
from parts.openid import OpenIdServer, sign_in
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, six_processes

HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling", "websocket"]}
ME = "/api/v2/me"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenIdServer]:
    server = OpenIdServer(tmp_path_factory.mktemp("openid"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitMq, provider: OpenIdServer) -> Iterator[System]:
    """Two of each service. The provider starts after them."""
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    redis.start()
    folder, prefix = tmp_path_factory.mktemp("centre"), f"openid{uuid4().hex[:8]}"
    try:
        with six_processes(folder, rabbitmq.url, redis.url, prefix, **provider.settings) as running:
            provider.start(running.gateway_url)
            yield running
    finally:
        redis.process.kill()


@pytest.fixture
async def http(centre: System) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=centre.gateway_url, timeout=30) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def me(http: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await http.get(ME, headers={"Accept": "application/json", **headers})


def changed(token: str, **claims: Any) -> str:
    """The token with other claims, and its signature as it was."""
    head, payload, signature = token.split(".")
    found = json.loads(base64.urlsafe_b64decode(payload + "=="))
    other = base64.urlsafe_b64encode(json.dumps(found | claims).encode()).decode().rstrip("=")
    return f"{head}.{other}.{signature}"


async def test_a_token_signs_in_a_user_of_the_directory(http: httpx.AsyncClient, provider: OpenIdServer) -> None:
    """Roles and features are those of the token."""
    answer = await me(http, **bearer(provider.token("carol")))
    user = answer.json()["user"]
    assert (user["userName"], user["firstName"]) == ("carol", "Carol")
    assert set(user["roles"]) == {"agent", "supervisor"}
    assert "JSESSIONID" in answer.cookies


async def test_a_user_whom_only_tokens_name_works_at_every_process(centre: System, provider: OpenIdServer) -> None:
    """With the cookie alone, at a gateway that never saw the token; with a phone that others reach."""
    async with httpx.AsyncClient(base_url=centre.gateway_url, timeout=30) as signed_in:
        answer = await me(signed_in, **bearer(provider.token("olga")))
        assert answer.json()["user"]["firstName"] == "OLGA"
        for _ in range(4):
            again = await me(signed_in)
            assert again.json()["user"]["userName"] == "olga", again.text
        [device] = (await signed_in.get("/api/v2/me/devices?fields=*")).json()["devices"]
        assert device["phoneNumber"] == "15777"
        olga = Agent(signed_in, centre.cometd_url)
        await olga.subscribe("/v2/me/calls")
        call = f"call-{uuid4().hex[:8]}"
        party = {"phoneNumber": "15777", "state": "Established"}
        started = {"eventId": call, "eventType": "CallStarted", "id": call, "parties": [party]}
        async with httpx.AsyncClient(base_url=centre.gateway_url, auth=("switch", "demo"), timeout=30) as switch:

            async def is_known() -> bool:
                await switch.post("/api/v2/switch/events", json=started, headers={"Prefer": "wait=10"})
                return (await signed_in.get(f"/api/v2/me/calls/{call}")).status_code == 200

            await eventually(is_known)
        assert (await olga.operate(call, "AttachUserData", userData={"A": "1"}))["statusCode"] == 0
        while (await olga.next_message())["data"]["notificationType"] != "AttachedDataChanged":
            continue


@pytest.mark.parametrize("how", ["header", "handshake"])
async def test_cometd_takes_tokens(centre: System, provider: OpenIdServer, how: str) -> None:
    token = provider.token("alice")
    headers = bearer(token) if how == "header" else {}
    async with httpx.AsyncClient(base_url=centre.cometd_url, headers=headers, timeout=30) as http:
        alice = Agent(http, centre.cometd_url)
        ext = {} if how == "header" else {"ext": {"authentication": {"token": token}}}
        [shaken] = await alice.bayeux(HELLO | ext)
        assert shaken["successful"], shaken
        connect = {"channel": "/meta/connect", "connectionType": "long-polling", "advice": {"timeout": 0}}
        for _ in range(3):
            [reply] = await alice.bayeux(connect | {"clientId": shaken["clientId"]})
            assert reply["successful"], reply


@pytest.mark.parametrize("how", ["header", "handshake"])
async def test_websockets_take_tokens(centre: System, provider: OpenIdServer, how: str) -> None:
    token = provider.token("alice")
    url = centre.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    ext = {} if how == "header" else {"ext": {"authentication": {"token": token}}}
    async with websocket_connect(url, additional_headers=bearer(token) if how == "header" else {}) as socket:
        await socket.send(json.dumps([HELLO | ext]))
        [shaken] = json.loads(await socket.recv())
        assert shaken["successful"], shaken


async def test_tokens_that_prove_nothing_are_refused(http: httpx.AsyncClient, provider: OpenIdServer) -> None:
    good = provider.token("alice")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').decode() + good[good.index(".") : good.rindex(".") + 1]
    wrong = {
        "another audience": provider.token("alice", audience="https://other.example.com"),
        "another user": changed(good, preferred_username="bob"),
        "more roles": changed(good, realm_access={"roles": ["calltag-administrator"]}),
        "unsigned": unsigned,
        "no token": "abc",
        "empty": "..",
        "long": "a" * 20_000,
    }
    for name, token in wrong.items():
        answer = await me(http, **bearer(token))
        assert answer.status_code == 403, name
        assert answer.json()["statusCode"] == 20, name
    assert (await me(http, **bearer(good))).status_code == 200


async def test_passwords_still_work(http: httpx.AsyncClient) -> None:
    assert (await http.get(ME, auth=("bob", "demo"))).status_code == 200
    assert (await http.get(ME, auth=("olga", ""))).status_code in {401, 403}


@contextmanager
def browse(
    centre: System, user: str, path: str = "/oidc/login?return_to=/api/v2/me"
) -> Iterator[tuple[httpx.Client, str]]:
    """Sign in with a browser; yield it, and the address to which the provider sends it back."""
    with httpx.Client(timeout=30, headers={"Accept": "application/json"}) as browser:
        yield browser, sign_in(browser, f"{centre.gateway_url}{path}", user, f"{centre.gateway_url}/oidc/callback")


def test_a_browser_signs_in_at_the_provider(centre: System) -> None:
    with browse(centre, "carol") as (browser, callback):
        answer = browser.get(callback)
        assert (answer.status_code, answer.headers["location"]) == (302, "/api/v2/me")
        assert "CALLTAG_SIGN_IN" not in browser.cookies
        user = browser.get(f"{centre.gateway_url}{ME}").json()["user"]
        assert user["userName"] == "carol"
        again = browser.get(callback)
        assert again.status_code == 403
        assert "did not begin the sign-in" in again.json()["statusMessage"]


def test_another_browser_cannot_complete_a_sign_in(centre: System) -> None:
    with browse(centre, "mallory") as (_, callback), httpx.Client() as victim:
        answer = victim.get(callback, headers={"Accept": "application/json"})
        assert answer.status_code == 403
        assert "JSESSIONID" not in victim.cookies


@pytest.mark.parametrize("place", ["//evil.example.com", "https://evil.example.com", "/\\evil.example.com", "", "x"])
def test_a_sign_in_leads_to_this_server_alone(centre: System, place: str) -> None:
    with browse(centre, "bob", str(httpx.URL("/oidc/login", params={"return_to": place}))) as (browser, callback):
        assert browser.get(callback).headers["location"] == "/"


async def test_a_refused_sign_in_says_why(http: httpx.AsyncClient) -> None:
    refused = {"error": "access_denied", "error_description": "not today"}
    answer = await http.get("/oidc/callback", params=refused)
    assert answer.status_code == 403
    assert "access_denied: not today" in answer.json()["statusMessage"]
    answer = await http.get("/oidc/callback", params={"code": "a"})
    assert answer.status_code == 400
    assert "state is missing" in answer.json()["statusMessage"]


async def test_keys_rotate_and_the_provider_may_be_away(centre: System, provider: OpenIdServer) -> None:
    async with httpx.AsyncClient(base_url=centre.gateway_url, timeout=30) as http:
        old = provider.token("alice")
        assert {(await me(http, **bearer(old))).status_code for _ in range(2)} == {200}
        provider.stop()
        http.cookies.clear()
        assert {(await me(http, **bearer(old))).status_code for _ in range(2)} == {200}
        provider.start(centre.gateway_url, key="second")
        new = provider.token("alice")

        async def is_taken() -> bool:
            http.cookies.clear()
            return {(await me(http, **bearer(new))).status_code for _ in range(2)} == {200}

        # A key that is not known is looked for at most every ten seconds.
        await eventually(is_taken, within_s=30)


async def test_sessions_end_with_their_tokens(tmp_path: Path, rabbitmq: RabbitMq) -> None:
    (tmp_path / "redis").mkdir()
    redis = RedisServer(tmp_path / "redis")
    redis.start()
    provider = OpenIdServer(tmp_path / "openid", ttl_s=6)
    settings = provider.settings | {"CALLTAG_OIDC__CLOCK_SKEW_S": "0", "CALLTAG_NOTIFIER__CREDENTIAL_RECHECK_S": "1"}
    prefix = f"ends{uuid4().hex[:8]}"
    try:
        with six_processes(tmp_path / "centre", rabbitmq.url, redis.url, prefix, **settings) as centre:
            provider.start(centre.gateway_url)
            async with httpx.AsyncClient(base_url=centre.gateway_url, timeout=30) as http:
                token = provider.token("alice")
                assert (await me(http, **bearer(token))).status_code == 200
                alice = Agent(http, centre.cometd_url)
                in_handshake = {"ext": {"authentication": {"token": token}}}
                sockets = asyncio.gather(
                    socket_until_the_end(centre, bearer(token), HELLO),
                    socket_until_the_end(centre, {}, HELLO | in_handshake),
                )
                [shaken] = await alice.bayeux(HELLO)
                mine = {"clientId": shaken["clientId"], "connectionType": "long-polling", "advice": {"timeout": 100}}

                async def is_over() -> bool:
                    [reply] = await alice.bayeux({"channel": "/meta/connect"} | mine)
                    return not reply["successful"]

                await eventually(is_over, within_s=30)
                assert (await me(http)).status_code == 403
                assert set(await sockets) == {"402"}
    finally:
        provider.stop()
        redis.process.kill()


async def socket_until_the_end(centre: System, headers: dict[str, str], hello: dict[str, Any]) -> str:
    """Connect on a WebSocket until that is refused; return the code of the error."""
    url = centre.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    async with websocket_connect(url, additional_headers=headers) as socket:
        await socket.send(json.dumps([hello]))
        [shaken] = json.loads(await socket.recv())
        assert shaken["successful"], shaken
        connect = {"channel": "/meta/connect", "clientId": shaken["clientId"], "connectionType": "websocket"}
        while True:
            await socket.send(json.dumps([connect | {"advice": {"timeout": 100}}]))
            [reply] = json.loads(await socket.recv())
            if not reply["successful"]:
                return str(reply["error"])[:3]
