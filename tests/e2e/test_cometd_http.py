"""CometD by bare HTTP: what no library sends in a test, and clients send all the same."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed

from parts.agent import Agent, agent
from parts.system import System

SYSTEMS = ("one-process", "three-notifiers-behind-haproxy")
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling", "websocket"]}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def post(client: Agent, path: str, **more: Any) -> httpx.Response:
    return await client.http.post(f"{client.cometd_url}{path}", **more)


@pytest.mark.parametrize(
    "path", ["/genesys/cometd", "/genesys/cometd/handshake", "/api/v2/notifications/", "/api/v2/notifications/connect"]
)
async def test_the_whole_subtree_is_one_endpoint(system: System, path: str) -> None:
    async with agent(system, "carol") as carol:
        [reply] = (await post(carol, path, json=[HELLO])).json()
        assert reply["successful"]


async def test_a_single_message_and_a_form_are_taken(system: System) -> None:
    async with agent(system, "carol") as carol:
        assert (await post(carol, "/genesys/cometd", json=HELLO)).json()[0]["successful"]
        for message in (json.dumps(HELLO), json.dumps([HELLO])):
            assert (await post(carol, "/genesys/cometd", data={"message": message})).json()[0]["successful"]
        assert (await post(carol, "/genesys/cometd", data={"other": "x"})).status_code == 400


@pytest.mark.parametrize(
    "kind", ["application/json", "text/json", "text/json;charset=UTF-8", "TEXT/JSON", "text/plain;charset=UTF-8", None]
)
async def test_a_body_that_is_no_form_is_json_whatever_it_is_called(system: System, kind: str | None) -> None:
    async with agent(system, "carol") as carol:
        headers = {} if kind is None else {"Content-Type": kind}
        answer = await post(
            carol, "/genesys/cometd", content=json.dumps([HELLO | {"id": "é"}]).encode(), headers=headers
        )
        assert (answer.status_code, answer.json()[0]["successful"], answer.json()[0]["id"]) == (200, True, "é")
        assert answer.headers["content-type"].lower() == "application/json;charset=utf-8"


async def test_a_byte_order_mark_is_skipped(system: System) -> None:
    async with agent(system, "carol") as carol:
        marked = "\ufeff" + json.dumps([HELLO])
        assert (await post(carol, "/genesys/cometd", content=marked.encode())).json()[0]["successful"]
        assert (await post(carol, "/genesys/cometd", data={"message": marked})).json()[0]["successful"]


@pytest.mark.parametrize("written", ["é€", "%C3%A9%E2%82%AC"])
async def test_a_form_is_utf_8_written_out_or_not(system: System, written: str) -> None:
    async with agent(system, "carol") as carol:
        form = f"message=[{json.dumps({'channel': '/a', 'clientId': 'x', 'id': 'ID'})}]".replace("ID", written)
        answer = await post(carol, "/genesys/cometd", content=form.encode(), headers=FORM)
        assert (answer.status_code, answer.json()[0]["id"]) == (200, "é€")


@pytest.mark.parametrize(
    ("form", "word"),
    [(b"message=%FF", "UTF-8"), (b"message=\xff", "UTF-8"), (b"&".join([b"message=[]"] * 101), "100 fields")],
)
async def test_what_is_no_form_is_refused(system: System, form: bytes, word: str) -> None:
    async with agent(system, "carol") as carol:
        answer = await post(carol, "/genesys/cometd", content=form, headers=FORM)
        assert answer.status_code == 400
        assert word in answer.text


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"", 400), (b"[" + b" " * 70_000 + b"]", 413)])
async def test_what_is_no_request_is_refused(system: System, body: bytes, status: int) -> None:
    async with agent(system, "carol") as carol:
        answer = await post(carol, "/genesys/cometd", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status
        assert answer.text


async def test_nobody_gets_no_session(system: System) -> None:
    async with httpx.AsyncClient() as http:
        [reply] = (await http.post(f"{system.cometd_url}/genesys/cometd", json=[HELLO])).json()
        assert (reply["successful"], reply["advice"]["reconnect"]) == (False, "none")
        wrong = HELLO | {"ext": {"authentication": {"user": "carol", "password": "wrong"}}}
        [reply] = (await http.post(f"{system.cometd_url}/genesys/cometd", json=[wrong])).json()
        assert not reply["successful"]
        right = HELLO | {"ext": {"authentication": {"userName": "carol", "password": "demo"}}}
        answer = await http.post(f"{system.cometd_url}/genesys/cometd", json=[right])
        assert answer.json()[0]["successful"]
        assert "JSESSIONID" in answer.headers["set-cookie"]


async def test_a_newer_connect_ends_the_older(system: System) -> None:
    async with agent(system, "carol", "/v2/me/calls") as carol:
        message = {"channel": "/meta/connect", "clientId": carol.client_id, "connectionType": "long-polling"}
        both = {asyncio.create_task(post(carol, "/genesys/cometd", json=[message])) for _ in range(2)}
        ended, held = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        leave = {"channel": "/meta/disconnect", "clientId": carol.client_id}
        assert (await post(carol, "/genesys/cometd", json=[leave])).json()[0]["successful"]
        outcomes = [outcome(await each) for each in (*ended, *held)]
        if len(system.upstreams) > 1:
            # Two notifiers may claim the session from each other: a connect that claimed it again brings nothing.
            assert len(ended) >= 1
            assert outcomes.count("ended") <= 1
            assert set(outcomes) <= {"replaced", "empty", "ended"}
        else:
            assert outcomes == ["replaced", "ended"]


def outcome(answer: httpx.Response) -> str:
    """The end of a connect: replaced by a newer one, without an answer, or the end of its session."""
    if answer.status_code == 500:
        return "replaced"
    *_, reply = answer.json()
    return "ended" if reply["advice"]["reconnect"] == "none" else "empty"


async def test_a_client_that_goes_away_loses_nothing(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "carol", "/v2/me/calls") as carol:
        carol.about = call_id
        message = {"channel": "/meta/connect", "clientId": carol.client_id, "connectionType": "long-polling"}
        async with httpx.AsyncClient(cookies=carol.http.cookies) as other:
            with pytest.raises(httpx.ReadTimeout):
                await other.post(f"{carol.cometd_url}/genesys/cometd", json=[message], timeout=0.3)
        facts = {"eventId": call_id, "eventType": "CallStarted", "id": call_id,
                 "parties": [{"phoneNumber": "15002", "state": "Established"}]}  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).status_code == 200
        assert (await carol.next_message())["data"]["call"]["id"] == call_id


async def test_nothing_is_repeated_where_nothing_failed(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "carol", "/v2/me/calls") as carol:
        carol.about = call_id
        facts = {"eventId": call_id, "eventType": "CallStarted", "id": call_id,
                 "parties": [{"phoneNumber": "15002", "state": "Established"}]}  # fmt: skip
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).status_code == 200

        async def attach() -> None:
            for number in range(60):
                assert await carol.operate(call_id, "AttachUserData", userData={"n": number}) == {"statusCode": 0}

        attaching = asyncio.create_task(attach())
        versions = [(await carol.next_message())["ext"]["calltag"]["version"] for _ in range(61)]
        await attaching
        assert versions == list(range(1, 62))


async def test_a_websocket_that_sends_nonsense_is_closed(system: System) -> None:
    url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    for text, code in (("{", 1011), ("[" + " " * 70_000 + "]", 1009)):
        async with websocket_connect(url) as socket:
            await socket.send(text)
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            # Through a front, the reset of a connection with more to read may overtake the frame that says why.
            told = closed.value.rcvd.code if closed.value.rcvd is not None else None
            assert told == code or (told is None and code == 1009)


async def test_other_users_session_is_unknown(system: System) -> None:
    async with agent(system, "carol", "/v2/me/calls") as carol, agent(system, "bob") as bob:
        message = {"channel": "/meta/connect", "clientId": carol.client_id, "connectionType": "long-polling"}
        [reply] = (await post(bob, "/genesys/cometd", json=[message])).json()
        assert (reply["error"], reply["advice"]["reconnect"]) == ("402::Unknown client", "handshake")
