"""More clients than a notifier takes: each is told at once, and comes back later, or elsewhere."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed

from clients.js_client import js_client
from parts.samples import sample
from parts.system import System, embedded_system

HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling", "websocket"]}
ALICE = {"Authorization": "Basic " + b64encode(b"alice:demo").decode()}


async def send(system: System, message: dict[str, Any], **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(headers={**ALICE, **headers}, timeout=20) as http:
        return await http.post(f"{system.cometd_url}/genesys/cometd", json=[message])


async def shake(system: System, **headers: str) -> dict[str, Any]:
    reply: dict[str, Any] = (await send(system, HELLO, **headers)).json()[0]
    return reply


def connecting(client_id: str, kind: str) -> dict[str, Any]:
    return {"channel": "/meta/connect", "id": "3", "clientId": client_id, "connectionType": kind}


async def test_a_full_notifier_sends_sessions_elsewhere(tmp_path: Path) -> None:
    with embedded_system(tmp_path, CALLTAG_NOTIFIER__MAX_SESSIONS="1") as system:
        first, second, third = [(await shake(system))["clientId"] for _ in range(3)]
        assert (await send(system, connecting(first, "long-polling"))).json()[0]["successful"]
        answer = await send(system, connecting(second, "long-polling"))
        assert (answer.status_code, "CALLTAG_NOTIFIER__MAX_SESSIONS" in answer.text) == (503, True)
        assert 1 <= int(answer.headers["Retry-After"]) <= 5
        url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
        async with websocket_connect(url, additional_headers=ALICE) as socket:
            await socket.send(json.dumps([connecting(third, "websocket")]))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, "MAX_SESSIONS" in closed.value.rcvd.reason) == (1013, True)
        assert (await shake(system))["error"] == "429:1:too_many_sessions"
        assert await sample(system, "serve", "calltag_cometd_limited_total", limit="max_sessions") == 3
        goodbye = {"channel": "/meta/disconnect", "clientId": first}
        assert (await send(system, goodbye)).json()[0]["successful"]
        assert (await send(system, connecting(second, "long-polling"))).json()[0]["successful"]


@pytest.mark.parametrize("trusted", ["127.0.0.0/8", "10.9.9.9"])
async def test_sessions_are_bounded_for_the_address_that_a_trusted_proxy_tells(tmp_path: Path, trusted: str) -> None:
    limits = {"CALLTAG_NOTIFIER__MAX_SESSIONS_PER_ADDRESS": "2", "CALLTAG_TRUSTED_PROXIES": trusted}
    with embedded_system(tmp_path, **limits) as system:
        replies = [await shake(system, **{"X-Forwarded-For": f"10.0.0.{host}"}) for host in (1, 1, 1, 2)]
        believed = trusted.startswith("127")
        assert [reply["successful"] for reply in replies] == [True, True, False, believed]
        assert replies[2]["error"] == "429:2:too_many_sessions"


async def test_who_shows_no_credentials_takes_no_handshakes_from_others(tmp_path: Path) -> None:
    limits = {"CALLTAG_NOTIFIER__HANDSHAKES_PER_S": "0.001", "CALLTAG_NOTIFIER__HANDSHAKE_BURST": "1"}
    with embedded_system(tmp_path, **limits) as system:
        unrelated = {"Cookie": "BAYEUX_BROWSER=x; other=y"}
        for headers in ({}, unrelated):
            async with httpx.AsyncClient(headers=headers, timeout=20) as http:
                answer = await http.post(f"{system.cometd_url}/genesys/cometd", json=[HELLO])
                assert answer.json()[0]["error"] == "401::Unauthorized"
        assert (await shake(system))["successful"]
        assert (await shake(system))["error"] == "429:0.001:too_many_handshakes"
        assert await sample(system, "serve", "calltag_cometd_refused_total", code="401") == 2


@pytest.mark.parametrize("headers", [{"Cookie": "JSESSIONID=made-up"}, ALICE])
async def test_a_websocket_on_which_handshakes_are_refused_is_closed(tmp_path: Path, headers: dict[str, str]) -> None:
    """Whatever the reason: wrong credentials, or too many handshakes."""
    limits = {
        "CALLTAG_NOTIFIER__HANDSHAKES_PER_S_PER_ADDRESS": "0.001",
        "CALLTAG_NOTIFIER__HANDSHAKE_BURST_PER_ADDRESS": "1",
        "CALLTAG_NOTIFIER__MAX_REFUSED_HANDSHAKES": "3",
    }
    with embedded_system(tmp_path, **limits) as system:
        url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
        async with websocket_connect(url, additional_headers=headers) as socket:
            for _ in range(4 if headers is ALICE else 3):
                await socket.send(json.dumps([HELLO]))
                assert json.loads(await socket.recv())[0]["channel"] == "/meta/handshake"
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, "MAX_REFUSED_HANDSHAKES" in closed.value.rcvd.reason) == (1008, True)
        assert await sample(system, "serve", "calltag_cometd_limited_total", limit="max_refused_handshakes") == 1


@pytest.mark.parametrize("trusted", ["127.0.0.0/8", "10.9.9.9"])
async def test_an_address_takes_no_handshakes_from_others(tmp_path: Path, trusted: str) -> None:
    limits = {"CALLTAG_NOTIFIER__HANDSHAKES_PER_S_PER_ADDRESS": "0.001",
              "CALLTAG_NOTIFIER__HANDSHAKE_BURST_PER_ADDRESS": "2", "CALLTAG_TRUSTED_PROXIES": trusted}  # fmt: skip
    with embedded_system(tmp_path, **limits) as system:
        replies = [await shake(system, **{"X-Forwarded-For": f"10.0.0.{host}"}) for host in (1, 1, 1, 2)]
        believed = trusted.startswith("127")
        assert [reply["successful"] for reply in replies] == [True, True, False, believed]
        assert (replies[2]["error"], replies[2]["advice"]["reconnect"]) == (
            "429:0.001:too_many_handshakes",
            "handshake",
        )
        limit = "handshakes_per_s_per_address"
        assert await sample(system, "serve", "calltag_cometd_limited_total", limit=limit) == (1 if believed else 2)


@pytest.mark.parametrize("version", ["cometd-3", "cometd-9"])
async def test_the_javascript_client_shakes_hands_again_by_itself(tmp_path: Path, version: str) -> None:
    limits = {"CALLTAG_NOTIFIER__HANDSHAKES_PER_S": "1", "CALLTAG_NOTIFIER__HANDSHAKE_BURST": "1"}
    with embedded_system(tmp_path, **limits) as system:
        async with js_client(version) as client:
            assert (await shake(system))["successful"]
            refused = await client.sign_in(system.cometd_url + "/genesys/cometd", "long-polling", "alice")
            assert (refused["successful"], refused["error"]) == (False, "429:1:too_many_handshakes")
            assert (await client.next("handshake"))["successful"]
            assert (await client.next("connect"))["successful"]
        assert await sample(system, "serve", "calltag_cometd_limited_total", limit="handshakes_per_s") == 1
        assert await sample(system, "serve", "calltag_cometd_handshakes_total") == 2


@pytest.mark.parametrize("trusted", ["127.0.0.0/8", "10.9.9.9"])
async def test_operations_have_a_rate_for_the_address_that_a_trusted_proxy_tells(tmp_path: Path, trusted: str) -> None:
    limits = {
        "CALLTAG_GATEWAY__ADDRESS_OPERATIONS_PER_S": "0.05",
        "CALLTAG_GATEWAY__ADDRESS_BURST": "2",
        "CALLTAG_TRUSTED_PROXIES": trusted,
    }
    session = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
    with embedded_system(tmp_path, **limits) as system:
        async with httpx.AsyncClient(base_url=system.gateway_url, headers=ALICE, timeout=20) as http:
            answers = [
                await http.post("/api/v2/me", json=session, headers={"X-Forwarded-For": f"10.0.0.{host}"})
                for host in (1, 1, 1, 2)
            ]
        believed = trusted.startswith("127")
        assert [each.status_code for each in answers] == [200, 200, 429, 200 if believed else 429]
        assert (answers[2].json()["statusCode"], answers[2].headers["Retry-After"]) == (4, "20")
        refused = 1 if believed else 2
        assert (
            await sample(system, "serve", "calltag_requests_limited_total", limit="address_operations_per_s") == refused
        )
