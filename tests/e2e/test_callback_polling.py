"""Callback-polling (JSONP) by bare HTTP."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from parts.agent import agent
from parts.system import System, embedded_system

HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["callback-polling"]}
OWN_PAGE = {"Sec_Fetch_Site": "same-origin"}
CREDENTIALS = {"ext": {"authentication": {"user": "alice", "password": "demo"}}}
CONNECT = {"channel": "/meta/connect", "connectionType": "callback-polling"}
SUBSCRIBE = {"channel": "/meta/subscribe", "subscription": "/v2/me/calls"}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {"CALLTAG_NOTIFIER__CALLBACK_POLLING": "true"}
    with embedded_system(tmp_path_factory.mktemp("scripted"), **settings) as running:
        yield running


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = {"CALLTAG_NOTIFIER__CALLBACK_POLLING": "true", "CALLTAG_SESSION__CSRF_PROTECTION": "true"}
    with embedded_system(tmp_path_factory.mktemp("protected"), **settings) as running:
        yield running


async def get(http: httpx.AsyncClient, system: System, *messages: Any, **headers: str) -> httpx.Response:
    query = {"jsonp": "_cometd_jsonp_3", "message": [json.dumps(message) for message in messages]}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http.get(f"{system.cometd_url}/genesys/cometd/connect", params=query, headers=sent)


def called(answer: httpx.Response) -> list[dict[str, Any]]:
    """What the script gives to the page's function."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].lower() == "text/javascript;charset=utf-8"
    assert answer.headers["content-disposition"] == "attachment; filename=f.txt"
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
    script = re.fullmatch(r"/\*\*/_cometd_jsonp_3\((.*)\);", answer.text)
    assert script is not None
    given: list[dict[str, Any]] = json.loads(script[1])
    return given


async def test_a_page_gets_its_events_by_scripts(scripted: System, call_id: str) -> None:
    async with agent(scripted, "switch") as switch, agent(scripted, "alice") as alice:
        [hello] = called(await get(alice.http, scripted, [HELLO], **OWN_PAGE))
        assert hello["supportedConnectionTypes"] == ["websocket", "long-polling", "callback-polling"]
        mine = {"clientId": hello["clientId"]}
        replies = called(await get(alice.http, scripted, [SUBSCRIBE | mine], CONNECT | mine, **OWN_PAGE))
        assert [reply["successful"] for reply in replies] == [True, True]
        waiting = asyncio.create_task(get(alice.http, scripted, [CONNECT | mine], **OWN_PAGE))
        facts = {"eventId": call_id, "eventType": "CallStarted", "id": call_id,
                 "userData": {"text": "</script>\u2028"},
                 "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).status_code == 200
        answer = await waiting
        *events, reply = called(answer)
        assert (events[0]["data"]["call"]["id"], reply["successful"]) == (call_id, True)
        assert events[0]["data"]["call"]["userData"] == {"text": "</script>\u2028"}
        assert "<" not in answer.text


async def test_a_script_is_bounded_as_it_is_written(scripted: System, call_id: str) -> None:
    """A character that could end the script takes six."""
    async with agent(scripted, "switch") as switch, agent(scripted, "alice") as alice:
        [hello] = called(await get(alice.http, scripted, [HELLO], **OWN_PAGE))
        mine = {"clientId": hello["clientId"]}
        away = {"advice": {"timeout": 0, "interval": 300_000}}
        called(await get(alice.http, scripted, [SUBSCRIBE | mine], CONNECT | mine | away, **OWN_PAGE))
        for number in range(6):
            facts = {"eventId": f"{call_id}-{number}", "eventType": "CallStarted", "id": f"{call_id}-{number}",
                     "userData": {"text": "<" * 30_000},
                     "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
            assert (await switch.post("/switch/events", facts, Prefer="wait=10")).status_code == 200
        got: list[str] = []
        while f"{call_id}-5" not in got:
            answer = await get(alice.http, scripted, [CONNECT | mine], **OWN_PAGE)
            assert len(answer.content) <= 524_288
            got += [each["data"]["call"]["id"] for each in called(answer) if "data" in each]
        assert got == [f"{call_id}-{number}" for number in range(6)]


async def test_a_page_of_another_site_is_served_what_its_messages_prove(scripted: System) -> None:
    foreign = {"Sec_Fetch_Site": "cross-site", "Referer": "http://theirs.example/"}
    async with agent(scripted, "alice", "/v2/me/calls") as alice:
        [hello] = called(await get(alice.http, scripted, [HELLO], **foreign))
        assert (hello["successful"], hello["error"]) == (False, "401::Unauthorized")
        [reply] = called(await get(alice.http, scripted, [CONNECT | {"clientId": alice.client_id}], **foreign))
        assert reply["error"] == "402::Unknown client"
        [hello] = called(await get(alice.http, scripted, [HELLO | CREDENTIALS], **foreign))
        [reply] = called(await get(alice.http, scripted, [CONNECT | {"clientId": hello["clientId"]}], **foreign))
        assert reply["successful"]


async def test_a_cookie_alone_proves_nobody_where_the_page_is_not_told(scripted: System) -> None:
    async with agent(scripted, "alice") as alice:
        assert not called(await get(alice.http, scripted, [HELLO]))[0]["successful"]
        assert called(await get(alice.http, scripted, [HELLO], Authorization="Basic YWxpY2U6ZGVtbw=="))[0]["successful"]


async def test_a_name_that_is_none_is_refused_and_not_repeated(scripted: System) -> None:
    async with httpx.AsyncClient() as http:
        for name in ("alert(1)", "x" * 65):
            query = {"jsonp": name, "message": json.dumps([HELLO])}
            answer = await http.get(f"{scripted.cometd_url}/genesys/cometd", params=query)
            assert (answer.status_code, "CALLBACK" in answer.text.upper()) == (400, True)
            assert name not in answer.text
            assert answer.headers["content-type"].startswith("text/plain")
            assert answer.headers["x-content-type-options"] == "nosniff"
        refused = await http.put(f"{scripted.cometd_url}/genesys/cometd")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, OPTIONS, POST")


async def test_with_csrf_protection_no_cookie_counts(protected: System) -> None:
    async with httpx.AsyncClient() as http:
        signed_in = await http.get(f"{protected.gateway_url}/api/v2/me", auth=("alice", "demo"))
        assert signed_in.status_code == 200
        answer = await get(http, protected, [HELLO], **OWN_PAGE)
        assert (answer.status_code, "Csrf" in answer.text) == (403, True)


async def test_without_the_setting_there_is_no_callback_polling(system: System) -> None:
    async with agent(system, "carol") as carol:
        answer = await get(carol.http, system, [HELLO], **OWN_PAGE)
        assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
        assert "CALLTAG_NOTIFIER__CALLBACK_POLLING" in answer.text
        [hello] = await carol.bayeux(HELLO)
        assert (hello["successful"], hello["supportedConnectionTypes"]) == (False, ["websocket", "long-polling"])
        [hello] = await carol.bayeux(HELLO | {"supportedConnectionTypes": ["long-polling"]})
        [reply] = await carol.bayeux(CONNECT | {"clientId": hello["clientId"]})
        assert reply["error"] == "400::connection_type_unknown"
