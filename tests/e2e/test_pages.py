"""The official JavaScript client in a browser, on a page of another origin."""

import asyncio
import itertools
import json
from urllib.parse import urlencode

from e2e.test_official_clients import TRANSPORTS, VERSIONS, begin, url_for
from parts.agent import Agent, agent
from parts.chromium import Page
from parts.eventually import eventually
from parts.pages import Pages
from parts.system import System

SYSTEMS = ("one-process", "three-notifiers-behind-haproxy")
EXTENSIONS = ("AckExtension", "TimeSyncExtension", "TimeStampExtension", "ReloadExtension")
SIGN_IN = "fetch('{}/api/v2/me', {{credentials: 'include', headers: {{Authorization: 'Basic ' + btoa('bob:demo')}}}})"


def address(origin: str, system: System, version: str, transport: str, **more: str) -> str:
    settings = {"version": version, "url": url_for(version, system), "transport": transport, **more}
    return f"{origin}/page.html?{urlencode({'extensions': ','.join(EXTENSIONS), **settings})}"


async def attach(bob: Agent, call: str, until: asyncio.Event) -> int:
    """Attach data, one operation after another, until told; the version of the call after the last one."""
    for version in itertools.count(2):
        assert await bob.operate(call, "AttachUserData", userData={"n": version}) == {"statusCode": 0}
        if until.is_set():
            return version
    raise AssertionError


async def versions(page: Page) -> list[int]:
    """The versions of the call in the order in which they came; repeats, which have the same event id, left out."""
    seen: dict[str, int] = {}
    for event_id, version in json.loads(await page.evaluate("sessionStorage.getItem('taken')")):
        assert seen.setdefault(event_id, version) == version
    return list(seen.values())


@VERSIONS
@TRANSPORTS
async def test_a_page_goes_on_after_being_reloaded(
    system: System, pages: Pages, page: Page, version: str, transport: str, call_id: str
) -> None:
    login = {"user": "bob", "password": "demo"}
    await page.open(address(pages.origin, system, version, transport, **login))
    shaken = await page.next("handshake")
    assert (shaken["successful"], shaken["ext"]["ack"]) == (True, True)
    assert (await page.next("subscribe"))["successful"]
    async with agent(system, "switch") as switch, agent(system, "bob") as bob, asyncio.TaskGroup() as group:
        await begin(switch, call_id)
        reloaded = asyncio.Event()
        attaching = group.create_task(attach(bob, call_id, reloaded))
        for _ in range(2):
            await page.next("event")
            await page.reload()
            again = await page.next("handshake")
            assert (again["clientId"], again["ext"]["reload"]) == (shaken["clientId"], True)
            # The former page's connect may arrive last, and replace the first one of this page, which asks again.
            while not (await page.next("connect"))["successful"]:
                pass
        reloaded.set()
        last = await attaching
    while last not in await versions(page):
        await page.next("event")
    assert await versions(page) == list(range(1, last + 1))
    assert [message["channel"] for message in page.sent].count("/meta/handshake") == 1
    await page.evaluate("cometd.disconnect()")
    assert (await page.next("disconnect"))["successful"]


@TRANSPORTS
async def test_the_cookie_of_the_api_is_enough_for_cometd(
    system: System, pages: Pages, page: Page, transport: str
) -> None:
    await page.open(f"{pages.origin}/page.html?none")
    assert await page.evaluate(SIGN_IN.format(system.gateway_url) + ".then((answer) => answer.status)") == 200
    [cookie] = (await page.call("Network.getCookies", urls=[system.gateway_url]))["cookies"]
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("JSESSIONID", True, "Lax")
    # Cookies know no ports, so this page has it too, but no script may read it.
    assert await page.evaluate("document.cookie") == ""
    await page.open(address(pages.origin, system, "cometd-9", transport))
    assert (await page.next("handshake"))["successful"]
    assert (await page.next("subscribe"))["successful"]


async def test_the_cookie_of_a_handshake_comes_back(system: System, pages: Pages, page: Page) -> None:
    await page.open(address(pages.origin, system, "cometd-9", "long-polling", user="bob", password="demo"))
    assert (await page.next("subscribe"))["successful"]
    read = f"fetch('{system.gateway_url}/api/v2/me', {{credentials: 'include'}}).then((answer) => answer.json())"
    assert (await page.evaluate(read))["user"]["userName"] == "bob"


@TRANSPORTS
async def test_a_page_of_a_foreign_origin_gets_no_session(
    system: System, pages: Pages, page: Page, transport: str
) -> None:
    login = {"user": "bob", "password": "demo"}
    await page.open(address(pages.foreign_origin, system, "cometd-9", transport, **login))
    refused = await page.next("handshake")
    assert not refused["successful"]
    assert "clientId" not in refused
    if transport == "long-polling":
        # The browser asked first, and sent nothing that the server could have carried out.
        await eventually(lambda: page.cors_errors == ["PreflightMissingAllowOriginHeader"])
    assert (await page.call("Network.getCookies", urls=[system.gateway_url]))["cookies"] == []
