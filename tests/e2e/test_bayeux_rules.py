"""The rules of Bayeux 1.0, and what CometD's own server makes of its choices, message by message over bare HTTP."""

import asyncio
import json
import re
import time
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect

from parts.agent import Agent, agent
from parts.system import System

SYSTEMS = ("one-process", "three-notifiers-behind-haproxy")
CALLS = "/v2/me/calls"
JSON = dict[str, Any]
HELLO: JSON = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
ERROR = re.compile(r"\d{3}:[^:]*:[^:]+")
LOGIN = {"ext": {"authentication": {"user": "carol", "password": "demo"}}}


def of(client: Agent, channel: str, **more: Any) -> JSON:
    return {"channel": channel, "clientId": client.client_id, **more}


def connect_of(client: Agent, **more: Any) -> JSON:
    return of(client, "/meta/connect", connectionType="long-polling", **more)


async def shake_hands(client: Agent, **more: Any) -> JSON:
    [shaken] = await client.bayeux(HELLO | more)
    client.client_id = shaken.get("clientId", "")
    return shaken


async def start(switch: Agent, call: str) -> None:
    facts = {"eventId": call, "eventType": "CallStarted", "id": call,
             "parties": [{"phoneNumber": "15002", "state": "Established"}]}  # fmt: skip
    assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}


def of_call(messages: list[JSON], call: str) -> list[JSON]:
    return [each for each in messages if "data" in each and each["data"]["call"]["id"] == call]


# -- the envelope ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", ["1", "abcXYZ9", 7])
async def test_a_reply_repeats_channel_and_id(system: System, identity: object) -> None:
    async with agent(system, "carol") as carol:
        assert (await shake_hands(carol, id=identity))["id"] == identity
        messages = [
            connect_of(carol),
            of(carol, "/meta/subscribe", subscription=CALLS),
            of(carol, "/service/any", data=1),
            of(carol, "/meta/unsubscribe", subscription=CALLS),
            of(carol, "/meta/disconnect"),
        ]
        for message in messages:
            reply = (await carol.bayeux(message | {"id": identity}))[-1]
            assert (reply["channel"], reply["id"]) == (message["channel"], identity)
            assert reply["successful"]


async def test_a_reply_has_no_id_where_there_was_none(system: System) -> None:
    async with agent(system, "carol") as carol:
        assert "id" not in await shake_hands(carol)
        assert "id" not in (await carol.bayeux(connect_of(carol)))[-1]


async def test_client_ids_cannot_be_guessed(system: System) -> None:
    async with agent(system, "carol") as carol:
        first, second = [(await shake_hands(carol))["clientId"] for _ in range(2)]
        assert first.isalnum()
        different = [number for number, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
        # 128 bits are at least 22 characters out of 62, of which a few are the same by chance.
        assert len(different) >= 15


async def test_a_message_that_cannot_be_read_spoils_no_other(system: System) -> None:
    async with agent(system, "carol", CALLS) as carol:
        wrong: list[Any] = [7, {}, {"channel": ""}, {"channel": 1}, of(carol, "no-slash"), of(carol, "/meta/other")]
        replies = await carol.bayeux(*wrong, of(carol, "/meta/subscribe", subscription="/v2/me/devices", id="9"))
        assert [each["successful"] for each in replies] == [False] * len(wrong) + [True]
        assert all(ERROR.fullmatch(each["error"]) for each in replies[:-1])
        assert replies[-1]["id"] == "9"


async def test_content_types(system: System) -> None:
    async with agent(system, "carol") as carol:
        for kind in ("application/json", "application/json;charset=UTF-8", "application/json; charset=utf-8"):
            answer = await carol.http.post(
                f"{carol.cometd_url}/genesys/cometd", content=json.dumps([HELLO]), headers={"Content-Type": kind}
            )
            assert answer.json()[0]["successful"]
            assert answer.headers["content-type"] == "application/json;charset=UTF-8"
            assert "no-store" in answer.headers["cache-control"]


# -- the handshake -----------------------------------------------------------------------------------------------------


async def test_a_handshake_goes_alone(system: System) -> None:
    async with agent(system, "carol", CALLS) as carol:
        [shaken] = await carol.bayeux(of(carol, "/meta/disconnect"), HELLO, of(carol, "/service/any", data=1))
        assert (shaken["channel"], shaken["successful"]) == ("/meta/handshake", True)
        # What came with it was not carried out either.
        assert (await carol.bayeux(connect_of(carol, advice={"timeout": 0})))[-1]["successful"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"supportedConnectionTypes": ["iframe"]}, "301"),
        ({"supportedConnectionTypes": []}, "301"),
        ({"supportedConnectionTypes": None}, "400"),
        ({"version": None}, "400"),
        ({"version": "2.0"}, "300"),
    ],
)
async def test_a_handshake_that_cannot_succeed(system: System, change: JSON, error: str) -> None:
    async with agent(system, "carol") as carol:
        [reply] = await carol.bayeux(HELLO | change)
        assert (reply["successful"], reply["error"][:3], reply["advice"]["reconnect"]) == (False, error, "none")
        assert ERROR.fullmatch(reply["error"])
        assert "clientId" not in reply


@pytest.mark.parametrize("minimum", ["0.9", "1.0beta", "1.0"])
async def test_old_clients_are_taken(system: System, minimum: str) -> None:
    async with agent(system, "carol") as carol:
        shaken = await shake_hands(carol, minimumVersion=minimum)
        assert (shaken["successful"], shaken["version"]) == (True, "1.0")
        assert "long-polling" in shaken["supportedConnectionTypes"]


async def test_advice_is_always_whole(system: System) -> None:
    async with agent(system, "carol") as carol:
        shaken = await shake_hands(carol)
        connected = (await carol.bayeux(connect_of(carol)))[-1]
        [unknown] = await carol.bayeux(connect_of(carol) | {"clientId": "x" * 30})
        for reply in (shaken, connected, unknown):
            assert set(reply["advice"]) >= {"reconnect", "interval", "timeout"}


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_an_unknown_session_is_told_what_to_do_by_its_connect(system: System) -> None:
    async with agent(system, "carol") as carol:
        carol.client_id = "x" * 30
        messages = [
            connect_of(carol), of(carol, "/meta/subscribe", subscription=CALLS), of(carol, "/service/any", data=1),
            of(carol, "/meta/disconnect"),
        ]  # fmt: skip
        replies = await carol.bayeux(*messages)
        assert [each["error"] for each in replies] == ["402::Unknown client"] * 4
        assert (replies[0]["advice"]["reconnect"], replies[0]["advice"]["interval"]) == ("handshake", 0)


@pytest.mark.parametrize("channel", ["/meta/connect", "/meta/subscribe", "/meta/disconnect", "/service/any", "/any"])
async def test_all_but_a_handshake_need_a_client_id(system: System, channel: str) -> None:
    async with agent(system, "carol") as carol:
        [reply] = await carol.bayeux({"channel": channel, "connectionType": "long-polling", "data": 1})
        assert (reply["successful"], reply["error"]) == (False, "402::Unknown client")


async def test_a_session_that_was_left_is_unknown(system: System) -> None:
    async with agent(system, "carol", CALLS) as carol:
        assert (await carol.bayeux(of(carol, "/meta/disconnect")))[0]["successful"]
        assert (await carol.bayeux(connect_of(carol)))[0]["error"] == "402::Unknown client"


async def test_a_session_goes_on_when_its_socket_is_closed(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "carol") as carol:
        carol.about = call_id
        async with socket_of(system) as socket:
            carol.client_id = (await exchange(socket, HELLO | LOGIN))[0]["clientId"]
            await exchange(socket, of(carol, "/meta/subscribe", subscription=CALLS))
            await exchange(socket, of(carol, "/meta/connect", connectionType="websocket"))
        await start(switch, call_id)
        assert (await carol.next_message())["data"]["call"]["id"] == call_id


# -- connects ----------------------------------------------------------------------------------------------------------


async def test_the_first_connect_is_answered_at_once_and_the_next_one_held(system: System) -> None:
    async with agent(system, "carol") as carol:
        await shake_hands(carol)
        began = time.monotonic()
        assert (await carol.bayeux(connect_of(carol)))[-1]["successful"]
        assert time.monotonic() - began < 5
        with pytest.raises(httpx.ReadTimeout):
            await carol.http.post(f"{carol.cometd_url}/genesys/cometd", json=[connect_of(carol)], timeout=0.5)


async def test_a_timeout_that_the_client_asks_for_holds_for_one_connect(system: System) -> None:
    async with agent(system, "carol", "/v2/me/devices") as carol:
        began = time.monotonic()
        assert (await carol.bayeux(connect_of(carol, advice={"timeout": 300})))[-1]["successful"]
        assert 0.25 < time.monotonic() - began < 5
        with pytest.raises(httpx.ReadTimeout):
            await carol.http.post(f"{carol.cometd_url}/genesys/cometd", json=[connect_of(carol)], timeout=0.8)


async def test_a_connect_that_is_not_alone_is_not_held(system: System) -> None:
    async with agent(system, "carol", CALLS) as carol:
        began = time.monotonic()
        replies = await carol.bayeux(of(carol, "/meta/subscribe", subscription="/v2/me/devices"), connect_of(carol))
        assert [(each["channel"], each["successful"]) for each in replies] == [
            ("/meta/subscribe", True),
            ("/meta/connect", True),
        ]
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("connection_type", [None, "iframe", 1])
async def test_a_connect_names_its_connection_type(system: System, connection_type: object) -> None:
    async with agent(system, "carol", CALLS) as carol:
        [reply] = await carol.bayeux(of(carol, "/meta/connect", connectionType=connection_type))
        assert (reply["successful"], reply["error"][:3]) == (False, "400")


async def test_events_come_before_the_reply_and_bear_no_client_id(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "carol", CALLS) as carol:
        await start(switch, call_id)
        events: list[JSON] = []
        while not of_call(events, call_id):
            *events, reply = await carol.bayeux(connect_of(carol))
            assert (reply["channel"], reply["successful"]) == ("/meta/connect", True)
        for event in events:
            assert event["channel"] == CALLS
            assert not {"clientId", "successful"} & set(event)


# -- subscriptions -----------------------------------------------------------------------------------------------------


async def test_a_subscription_is_repeated_as_it_was_sent(system: System) -> None:
    async with agent(system, "carol") as carol:
        await shake_hands(carol)
        for given in (CALLS, [CALLS], [CALLS, "/v2/me/*"], "/v2/me/**"):
            for channel in ("/meta/subscribe", "/meta/unsubscribe"):
                # A second time is a success without effect.
                for _ in range(2):
                    [reply] = await carol.bayeux(of(carol, channel, subscription=given))
                    assert (reply["successful"], reply["subscription"]) == (True, given)


async def test_a_list_of_subscriptions_is_all_or_nothing(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "carol", "/v2/me/devices") as carol:
        given = [CALLS, "/meta/connect"]
        [reply] = await carol.bayeux(of(carol, "/meta/subscribe", subscription=given))
        assert (reply["successful"], reply["error"][:3], reply["subscription"]) == (False, "403", given)
        await start(switch, call_id)
        answer = await carol.bayeux(connect_of(carol, advice={"timeout": 500}))
        assert of_call(answer, call_id) == []


@pytest.mark.parametrize("given", [None, "", [], [1], {"a": 1}, "no-slash", "/a/**/b", "/a/*/b", "/other", "/meta/*"])
async def test_a_subscription_that_is_refused(system: System, given: object) -> None:
    async with agent(system, "carol") as carol:
        await shake_hands(carol)
        [reply] = await carol.bayeux(of(carol, "/meta/subscribe", subscription=given))
        assert (reply["successful"], reply["error"][:3]) == (False, "403")
        assert ERROR.fullmatch(reply["error"])


async def test_what_matches_twice_is_sent_once(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "carol", CALLS, "/v2/me/*", "/v2/me/**") as carol:
        await start(switch, call_id)
        events: list[JSON] = []
        while not of_call(events, call_id):
            events += await carol.bayeux(connect_of(carol))
        assert len(of_call(events, call_id)) == 1
        assert of_call(await carol.bayeux(connect_of(carol, advice={"timeout": 300})), call_id) == []


async def test_after_unsubscribing_nothing_more_comes(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "carol", CALLS, "/v2/me/devices") as carol:
        [reply] = await carol.bayeux(of(carol, "/meta/unsubscribe", subscription=CALLS))
        assert reply["successful"]
        await start(switch, call_id)
        answer = await carol.bayeux(connect_of(carol, advice={"timeout": 500}))
        assert of_call(answer, call_id) == []


# -- publishing --------------------------------------------------------------------------------------------------------


async def test_service_channels_are_for_the_server_alone(system: System) -> None:
    async with agent(system, "carol", "/service/chat", CALLS) as carol:
        [reply] = await carol.bayeux(of(carol, "/service/chat", data={"a": 1}, id="5"))
        assert reply == {"channel": "/service/chat", "id": "5", "successful": True}
        answer = await carol.bayeux(connect_of(carol, advice={"timeout": 300}))
        assert all(each["channel"] != "/service/chat" for each in answer)


async def test_nobody_publishes_to_others(system: System) -> None:
    async with agent(system, "carol", CALLS) as carol:
        [reply] = await carol.bayeux(of(carol, CALLS, data={"a": 1}, id="6"))
        assert (reply["successful"], reply["id"], reply["error"][:3]) == (False, "6", "403")


# -- WebSocket ---------------------------------------------------------------------------------------------------------


def socket_of(system: System) -> websocket_connect:
    return websocket_connect(system.cometd_url.replace("http://", "ws://") + "/genesys/cometd")


async def exchange(socket: ClientConnection, *messages: JSON) -> list[JSON]:
    await socket.send(json.dumps(messages))
    return await receive(socket)


async def receive(socket: ClientConnection) -> list[JSON]:
    async with asyncio.timeout(20):
        answer: list[JSON] = json.loads(await socket.recv())
    return answer


@pytest.mark.parametrize("acknowledging", [False, True], ids=["pushed", "with-the-connect"])
async def test_events_on_a_socket_end_the_held_connect_only_where_they_are_acknowledged(
    system: System, acknowledging: bool, call_id: str
) -> None:
    async with agent(system, "switch") as switch, agent(system, "carol") as carol, socket_of(system) as socket:
        hello = HELLO | {"ext": {**LOGIN["ext"], "ack": acknowledging}}
        carol.client_id = (await exchange(socket, hello))[0]["clientId"]
        await exchange(socket, of(carol, "/meta/subscribe", subscription=CALLS))
        await exchange(socket, of(carol, "/meta/connect", connectionType="websocket"))
        held = of(carol, "/meta/connect", connectionType="websocket", id="held", ext={"ack": 0})
        await socket.send(json.dumps([held]))
        await start(switch, call_id)
        told: list[JSON] = []
        while not of_call(told, call_id):
            told += await receive(socket)
        assert ("held" in [each.get("id") for each in told]) == acknowledging
        leaving = told + await exchange(socket, of(carol, "/meta/disconnect", id="bye"))
        while "bye" not in [each.get("id") for each in leaving]:
            leaving += await receive(socket)


async def test_a_socket_is_bound_to_no_session(system: System) -> None:
    async with agent(system, "carol") as carol, socket_of(system) as socket:
        for _ in range(2):
            carol.client_id = (await exchange(socket, HELLO | LOGIN))[0]["clientId"]
            replies = await exchange(
                socket,
                of(carol, "/meta/subscribe", subscription=CALLS, id="1"),
                of(carol, "/meta/connect", connectionType="websocket", id="2"),
            )
            assert [(each["id"], each["successful"]) for each in replies] == [("1", True), ("2", True)]
