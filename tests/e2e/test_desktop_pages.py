"""Desktops in a browser, with the official client as desktops for Web Services have it: sign-in to sign-out."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

from parts.agent import agent
from parts.chromium import Chromium, Page
from parts.eventually import eventually
from parts.pages import Pages
from parts.system import System

SYSTEMS = ("one-process", "three-notifiers-behind-haproxy")
JSON = dict[str, Any]
PAIRS = pytest.mark.parametrize(
    ("first", "second"), [("workspace", "widget"), ("widget", "mobile"), ("mobile", "workspace")]
)


class Desktop:
    """A page, and the calls that it shows."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def open(self, pages: Pages, system: System, kind: str, user: str) -> None:
        settings = {"kind": kind, "url": system.gateway_url, "user": user, "password": "demo"}
        await self._page.open(f"{pages.origin}/desktop.html?{urlencode(settings)}")
        signed_in = await self._page.next("signed-in")
        # Web Services answers a script with 403, so that the browser asks for no password of its own.
        assert (signed_in["before"], signed_in["features"] > 0) == (403, True)

        async def is_ready() -> bool:
            return bool(await self._page.evaluate("desktop.state()") == "Ready")

        await eventually(is_ready)

    async def sees(self, call: str, state: str, **data: Any) -> JSON:
        """The next message about the call in that state, with at least this data."""
        while True:
            told = await self._page.next("call")
            if (told["id"], told["state"]) == (call, state) and data.items() <= told["data"].items():
                return told

    async def does(self, call: str, operation: str, **parameters: Any) -> None:
        given = ", ".join(map(json.dumps, (call, operation, parameters)))
        assert (await self._page.evaluate(f"desktop.call({given})"))["statusCode"] == 0

    async def consult_of(self, call: str) -> str:
        """The id of the consult call, once the page knows it."""
        while not (found := await self._page.evaluate(f"desktop.consultOf({json.dumps(call)})")):
            await self._page.next("call")
        return str(found)

    async def evaluate(self, expression: str) -> Any:
        return await self._page.evaluate(expression)

    def errors(self) -> list[str]:
        return [each["message"]["text"] for each in self._page.told if each["what"] == "error"]


@asynccontextmanager
async def desktops(
    system: System, pages: Pages, chromium: Chromium, first: str, second: str
) -> AsyncIterator[tuple[Desktop, Desktop]]:
    """The desktops of alice and bob, of these kinds; they sign out at the end, and have shown no error."""
    async with chromium.page() as one, chromium.page() as two:
        alice, bob = Desktop(one), Desktop(two)
        await alice.open(pages, system, first, "alice")
        await bob.open(pages, system, second, "bob")
        yield alice, bob
        assert [await each.evaluate("desktop.signOut()") for each in (alice, bob)] == [403, 403]
        assert alice.errors() + bob.errors() == []


async def comes_in(system: System, call: str) -> None:
    """Let a call of a customer ring at the phone of alice."""
    parties = [{"phoneNumber": "+4989555", "state": "Established"}, {"phoneNumber": "15000", "state": "Ringing"}]
    begun = {"eventId": call, "eventType": "CallStarted", "id": call, "callType": "Inbound",
             "parties": parties, "userData": {"account": "12345"}}  # fmt: skip
    async with agent(system, "switch") as switch:
        assert (await switch.post("/switch/events", begun)).json() == {"statusCode": 0}


@PAIRS
async def test_a_call_comes_in_and_is_transferred_with_its_data(
    system: System, pages: Pages, chromium: Chromium, call_id: str, first: str, second: str
) -> None:
    async with desktops(system, pages, chromium, first, second) as (alice, bob):
        await comes_in(system, call_id)
        introduced = await alice.sees(call_id, "Ringing", WWE_PARTY_15000={"username": "alice", "path": "/users/alice"})
        assert {"Answer", "ClearCall", "UpdateUserData"} <= set(introduced["can"])
        await alice.does(call_id, "Answer")
        await alice.sees(call_id, "Established")
        await alice.does(call_id, "AttachUserData", userData={"reason": "billing"})
        await alice.sees(call_id, "Established", reason="billing")

        await alice.does(call_id, "InitiateTransfer", destination={"phoneNumber": "15001"}, userData={"why": "expert"})
        held = await alice.sees(call_id, "Held")
        assert "SwapCalls" in held["can"]
        consult = await alice.consult_of(call_id)
        ringing = await bob.sees(consult, "Ringing", account="12345", reason="billing", why="expert")
        assert (ringing["parent"], ringing["others"]) == ("", ["15000"])
        await bob.does(consult, "Answer")
        await bob.does(consult, "UpdateUserData", userData={"account": "67890"})
        await alice.sees(consult, "Established", account="67890")
        await alice.does(consult, "CompleteTransfer")
        assert (await alice.sees(call_id, "Released"))["can"] == []
        kept = await bob.sees(call_id, "Established", account="67890", reason="billing", why="expert")
        assert kept["others"] == ["+4989555"]
        assert {"WWE_PARTY_15000", "WWE_PARTY_15001"} <= kept["data"].keys()

        await bob.does(call_id, "Hangup")
        await bob.sees(call_id, "Released")
        assert (await bob.evaluate(f"desktop.dispose({json.dumps(call_id)})"))["statusCode"] == 0


@PAIRS
async def test_a_conference_of_desktops(
    system: System, pages: Pages, chromium: Chromium, call_id: str, first: str, second: str
) -> None:
    async with desktops(system, pages, chromium, first, second) as (alice, bob):
        await comes_in(system, call_id)
        await alice.sees(call_id, "Ringing")
        await alice.does(call_id, "Answer")
        await alice.sees(call_id, "Established")
        await alice.does(call_id, "InitiateConference", destination={"phoneNumber": "15001"})
        consult = await alice.consult_of(call_id)
        await bob.sees(consult, "Ringing")
        await bob.does(consult, "Answer")
        await alice.sees(consult, "Established")
        # Mobile clients swap where others hold and retrieve.
        await alice.does(call_id, "SwapCalls", otherCallUri=f"/calls/{consult}")
        await alice.sees(consult, "Held")
        await alice.does(call_id, "CompleteConference")
        joined = await bob.sees(call_id, "Established")
        assert sorted(joined["others"]) == ["+4989555", "15000"]
        await bob.does(call_id, "AttachUserData", userData={"note": "three of us"})
        await alice.sees(call_id, "Established", note="three of us")
        await alice.does(call_id, "ClearCall")
        await bob.sees(call_id, "Released")
