"""Users whom a proxy has authenticated: the header counts from the proxy's address, and from no other."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect

from parts.agent import Agent
from parts.system import System, embedded_system

PROXY, OTHER = "127.0.0.2", "127.0.0.1"
ME = "/api/v2/me"
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling", "websocket"]}


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {
        "CALLTAG_LOGIN__USER_HEADER": "X-Remote-User",
        "CALLTAG_LOGIN__USER_HEADER_PROXIES": f"{PROXY}/32",
        "CALLTAG_SESSION__CSRF_PROTECTION": "true",
    }
    with embedded_system(tmp_path_factory.mktemp("proxy"), **settings) as running:
        yield running


@asynccontextmanager
async def sender(centre: System, address: str, *users: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client at that address, whose requests name the users."""
    headers = [("Accept", "application/json"), *(("X-Remote-User", each) for each in users)]
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(base_url=centre.gateway_url, headers=headers, transport=transport, timeout=20) as http:
        yield http


async def test_the_proxy_names_the_user(centre: System) -> None:
    async with sender(centre, PROXY, "alice") as http:
        for _ in range(2):
            answer = await http.get(ME)
            assert answer.json()["user"]["userName"] == "alice"
        assert "JSESSIONID" in http.cookies


async def test_nobody_else_does(centre: System) -> None:
    async with sender(centre, OTHER, "alice") as http:
        assert (await http.get(ME)).status_code == 403
        assert (await http.get(ME, auth=("bob", "demo"))).json()["user"]["userName"] == "bob"


@pytest.mark.parametrize("users", [("nobody",), ("alice", "bob"), ("alice, bob",), ("",)])
async def test_a_name_that_is_no_user_is_refused(centre: System, users: tuple[str, ...]) -> None:
    async with sender(centre, PROXY, *users) as http:
        assert (await http.get(ME)).status_code == 403


async def test_the_user_of_the_proxy_wins_over_the_cookie_of_another(centre: System) -> None:
    async with sender(centre, PROXY, "alice") as alices, sender(centre, PROXY, "bob") as bobs:
        await alices.get(ME)
        bobs.cookies = alices.cookies
        assert (await bobs.get(ME)).json()["user"]["userName"] == "bob"


async def test_other_sites_cannot_act_for_the_user(centre: System) -> None:
    """The proxy adds the header to whatever the browser sends: such a request needs the token, as one with a cookie."""
    start = {"operationName": "StartContactCenterSession"}
    async with sender(centre, PROXY, "alice") as http:
        refused = await http.post(ME, json=start)
        assert refused.status_code == 403
        assert "Csrf" in refused.json()["statusMessage"]
        token = (await http.get(ME)).headers["X-CSRF-TOKEN"]
        allowed = await http.post(ME, json=start | {"channels": ["voice"]}, headers={"X-CSRF-TOKEN": token})
        assert allowed.status_code == 200, allowed.text


async def test_cometd_knows_the_user_too(centre: System) -> None:
    async with sender(centre, PROXY, "alice") as http, sender(centre, OTHER, "alice") as other:
        http.headers["X-CSRF-TOKEN"] = (await http.get(ME)).headers["X-CSRF-TOKEN"]
        alice = Agent(http, centre.cometd_url)
        await alice.subscribe("/v2/me/calls")
        [refused] = (await other.post("/genesys/cometd", json=[HELLO])).json()
        assert not refused["successful"]


@pytest.mark.parametrize(("address", "is_known"), [(PROXY, True), (OTHER, False)])
async def test_a_websocket_knows_the_user_too(centre: System, address: str, is_known: bool) -> None:
    url = centre.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    headers = {"X-Remote-User": "alice"}
    async with websocket_connect(url, additional_headers=headers, local_addr=(address, 0)) as socket:
        await socket.send(httpx.Request("POST", url, json=[HELLO]).content.decode())
        assert (f'"successful":{str(is_known).lower()}' in str(await socket.recv())) is True
