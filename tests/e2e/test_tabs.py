"""Several tabs of one browser by bare HTTP: they share its cookies."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect

from parts.documented import check
from parts.eventually import eventually
from parts.system import System, embedded_system

SYSTEMS = ("one-process", "three-processes")
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling", "websocket"]}
CONNECT = {"channel": "/meta/connect", "connectionType": "long-polling"}
Answer = list[dict[str, Any]]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {
        "CALLTAG_NOTIFIER__MULTI_SESSION_INTERVAL_MS": "0",
        "CALLTAG_SESSION__SECURE_COOKIES": "true",
        "CALLTAG_SESSION__SAME_SITE": "none",
    }
    with embedded_system(tmp_path_factory.mktemp("strict"), **settings) as running:
        yield running


class Browser:
    """Tabs whose requests show the same cookie; each has a session that was connected once."""

    def __init__(self, system: System, http: httpx.AsyncClient) -> None:
        self.url = f"{system.cometd_url}/genesys/cometd"
        self.http = http
        self.cookie = "BAYEUX_BROWSER=of-this-browser"

    async def send(self, *messages: dict[str, Any]) -> Answer:
        headers = {"Cookie": self.cookie, "Authorization": "Basic Y2Fyb2w6ZGVtbw=="}
        answer: Answer = (await self.http.post(self.url, json=list(messages), headers=headers, timeout=40)).json()
        for message in answer:
            check(message)
        return answer

    async def tab(self) -> str:
        client_id = str((await self.send(HELLO))[0]["clientId"])
        assert (await self.send(CONNECT | {"clientId": client_id}))[0]["successful"]
        return client_id

    async def connect(self, client_id: str, **more: Any) -> dict[str, Any]:
        return (await self.send(CONNECT | {"clientId": client_id} | more))[-1]

    async def be_held(self, client_id: str) -> dict[str, Any]:
        """The answer to a connect that was held; tabs before may be in the way for a while."""
        while True:
            reply = await self.connect(client_id)
            if reply["advice"].get("multiple-clients") is not True:
                return reply

    async def leave(self, client_id: str) -> None:
        assert (await self.send({"channel": "/meta/disconnect", "clientId": client_id}))[0]["successful"]


async def test_a_handshake_gives_both_cookies_at_once(system: System) -> None:
    async with httpx.AsyncClient(auth=("carol", "demo")) as http:
        answer = await http.post(f"{system.cometd_url}/genesys/cometd", json=[HELLO])
        cookies = [value.partition("=") for value in answer.headers.get_list("set-cookie")]
        assert sorted(name for name, _, _ in cookies) == ["BAYEUX_BROWSER", "JSESSIONID"]
        assert all(rest.endswith("; Path=/; HttpOnly; SameSite=Lax") for _, _, rest in cookies)
        again = await http.post(f"{system.cometd_url}/genesys/cometd", json=[HELLO])
        assert "BAYEUX_BROWSER" not in str(again.headers.get_list("set-cookie"))
    async with httpx.AsyncClient() as nobody:
        refused = await nobody.post(f"{system.cometd_url}/genesys/cometd", json=[HELLO])
        assert refused.headers.get_list("set-cookie") == []


async def test_a_second_tab_is_not_held_until_the_first_one_is_gone(system: System) -> None:
    async with httpx.AsyncClient() as http:
        browser = Browser(system, http)
        first, second = await browser.tab(), await browser.tab()
        held = asyncio.create_task(browser.be_held(first))
        replies: list[dict[str, Any]] = []

        async def is_told() -> bool:
            # Until the first one is held, the second one is.
            replies.append(await browser.connect(second, advice={"timeout": 50}))
            return "multiple-clients" in replies[-1]["advice"]

        await eventually(is_told)
        assert replies[-1]["successful"]
        assert replies[-1]["advice"] == {
            "reconnect": "retry", "interval": 2_000, "timeout": 30_000, "multiple-clients": True,
        }  # fmt: skip
        await browser.leave(first)
        assert (await held)["advice"]["reconnect"] == "none"
        reply = await browser.connect(second, advice={"timeout": 50})
        assert reply["advice"] == {"reconnect": "retry", "interval": 0, "timeout": 30_000, "multiple-clients": False}
        assert "multiple-clients" not in (await browser.connect(second, advice={"timeout": 50}))["advice"]


async def test_a_session_is_served_whatever_the_browser_shows(system: System) -> None:
    async with httpx.AsyncClient() as http:
        browser = Browser(system, http)
        tab = await browser.tab()
        for cookie in ("BAYEUX_BROWSER=another", "other=x"):
            browser.cookie = cookie
            assert (await browser.connect(tab, advice={"timeout": 50}))["successful"]


async def test_websockets_are_not_counted(system: System) -> None:
    headers = {"Cookie": "BAYEUX_BROWSER=of-this-browser", "Authorization": "Basic Y2Fyb2w6ZGVtbw=="}
    url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    async with httpx.AsyncClient() as http, websocket_connect(url, additional_headers=headers) as socket:
        browser = Browser(system, http)
        first, second = await browser.tab(), await browser.tab()
        held = asyncio.create_task(browser.be_held(first))
        await socket.send(json.dumps([CONNECT | {"clientId": second, "connectionType": "websocket"}]))
        await socket.send(json.dumps([{"channel": "/service/x", "clientId": second, "id": "9"}]))
        assert [reply["id"] for reply in json.loads(await socket.recv())] == ["9"], "the connect is held"
        held.cancel()
        with suppress(asyncio.CancelledError):
            await held


async def test_a_tab_too_many_is_sent_away_where_the_operator_wants_so(strict: System) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{strict.cometd_url}/genesys/cometd", json=[HELLO], auth=("carol", "demo"))
        cookies = answer.headers.get_list("set-cookie")
        assert len(cookies) == 2
        assert all(cookie.endswith("; SameSite=None; Secure") for cookie in cookies)
        browser = Browser(strict, http)
        first, second = await browser.tab(), await browser.tab()
        held = asyncio.create_task(browser.be_held(first))

        async def is_sent_away() -> bool:
            reply = await browser.connect(second, advice={"timeout": 50})
            return (reply["successful"], reply["advice"]["reconnect"]) == (False, "none")

        await eventually(is_sent_away)
        await browser.leave(first)
        await held
