"""Subscriptions that begin with the present state."""

import asyncio
from typing import Any

import pytest

from clients.js_client import js_client
from parts.agent import Agent, agent
from parts.system import System

SYSTEMS = ("three-notifiers-behind-haproxy",)
JSON = dict[str, Any]
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}


async def begin(switch: Agent, call: str, *numbers: str, **more: Any) -> None:
    parties = [{"phoneNumber": number, "state": "Established"} for number in numbers]
    fact = {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call, "parties": parties, **more}
    assert (await switch.post("/switch/events", fact, Prefer="wait=10")).json() == {"statusCode": 0}


async def snapshot(user: Agent, *channels: str) -> tuple[list[JSON], JSON]:
    """Return the messages that come with a subscription of a new session, and the reply."""
    user.client_id = (await user.bayeux(HELLO))[0]["clientId"]
    message = {
        "channel": "/meta/subscribe", "clientId": user.client_id, "subscription": list(channels),
        "ext": {"calltag": {"snapshot": True}},
    }  # fmt: skip
    *messages, reply = await user.bayeux(message)
    return messages, reply


def calls(messages: list[JSON], channel: str = "/v2/me/calls") -> dict[str, Any]:
    return {each["data"]["call"]["id"]: each["data"]["call"] for each in messages if each["channel"] == channel}


@pytest.mark.parametrize("transport", ["long-polling", "websocket"])
@pytest.mark.parametrize("version", ["cometd-3", "cometd-9"])
async def test_the_official_client_gets_the_state_and_then_changes(
    system: System, version: str, transport: str, call_id: str
) -> None:
    async with agent(system, "switch") as switch, agent(system, "bob") as bob, js_client(version) as client:
        await begin(switch, call_id, "15001", "0891234", userData={"account": 1})
        await client.sign_in(f"{system.cometd_url}/genesys/cometd", transport, "bob")
        await client.do(snapshot="/v2/me/calls")
        while (first := await client.next("event"))["data"]["call"]["id"] != call_id:
            assert first["ext"]["calltag"]["snapshot"]
        assert first["data"]["call"]["userData"] == {"account": 1}
        assert (first["data"]["notificationType"], first["ext"]["calltag"]["version"]) == ("StatusChange", 1)
        assert (await client.next("subscribe"))["ext"]["calltag"] == {"snapshot": True}
        await bob.operate(call_id, "UpdateUserData", userData={"account": 2})
        second = await client.next("event")
        assert (second["ext"]["calltag"]["version"], second["data"]["call"]["userData"]) == (2, {"account": 2})
        assert "snapshot" not in second["ext"]["calltag"]


async def test_the_state_of_which_channels(system: System, call_id: str) -> None:
    session = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
    async with (
        agent(system, "switch") as switch,
        agent(system, "alice") as alice,
        agent(system, "carol") as carol,
        agent(system, "admin") as admin,
        agent(system, "dave") as dave,
    ):
        await begin(switch, call_id, "15000", "15001")
        await begin(switch, f"{call_id}-of-dave", "15003", "0891234")
        assert (await alice.post("/me", session, Prefer="wait=10")).json() == {"statusCode": 0}
        both, reply = await snapshot(alice, "/v2/me/*")
        assert reply["ext"]["calltag"] == {"snapshot": True}
        assert call_id in calls(both)
        [devices] = [each for each in both if each["channel"] == "/v2/me/devices"]
        assert devices["data"]["devices"][0]["userState"]["state"] == "Ready"
        only, _ = await snapshot(alice, "/v2/me/devices")
        assert {each["channel"] for each in only} == {"/v2/me/devices"}
        nothing, reply = await snapshot(alice, "/v2/me/chats")
        assert (nothing, reply["ext"]["calltag"]) == ([], {"snapshot": True})
        own, _ = await snapshot(carol, "/v2/me/calls")
        assert call_id not in calls(own)
        overseen, _ = await snapshot(carol, "/v2/users/alice/calls")
        seen = calls(overseen, "/v2/users/alice/calls")[call_id]
        assert seen["participants"][0]["phoneNumber"] == "15001"
        assert calls(overseen, "/v2/users/bob/calls") == {}
        every, _ = await snapshot(admin, "/v2/calls")
        assert {call_id, f"{call_id}-of-dave"} <= calls(every, "/v2/calls").keys()
        pattern, _ = await snapshot(dave, "/v2/**")
        assert set(calls(pattern)) == {f"{call_id}-of-dave"}
        assert {each["channel"] for each in pattern} == {"/v2/me/calls"}


async def test_a_state_that_is_too_long_is_read_over_http(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "admin") as admin:
        for number in range(10):
            await begin(switch, f"{call_id}-{number}", "15004", userData={"long": "x" * 60_000})
        try:
            messages, reply = await snapshot(admin, "/v2/me/calls")
            assert (messages, reply["successful"]) == ([], True)
            assert reply["ext"]["calltag"] == {"snapshot": False}
        finally:
            ended = [
                {"eventId": f"e-{call_id}-{n}", "eventType": "CallEnded", "id": f"{call_id}-{n}"} for n in range(10)
            ]
            await switch.post("/switch/events", ended, Prefer="wait=10")


async def test_the_snapshots_of_one_answer_share_its_bound(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "admin") as admin:
        for number in range(3):
            await begin(switch, f"{call_id}-{number}", "15004", userData={"long": "x" * 60_000})
        try:
            admin.client_id = (await admin.bayeux(HELLO))[0]["clientId"]
            wish = {"channel": "/meta/subscribe", "clientId": admin.client_id, "subscription": "/v2/me/calls",
                    "ext": {"calltag": {"snapshot": True}}}  # fmt: skip
            answer = await admin.bayeux(wish, wish, wish, wish)
            given = [each["ext"]["calltag"]["snapshot"] for each in answer if each["channel"] == "/meta/subscribe"]
            assert given == [True, True, False, False]
            assert len([each for each in answer if each["channel"] == "/v2/me/calls"]) == 6
        finally:
            ended = [
                {"eventId": f"e-{call_id}-{n}", "eventType": "CallEnded", "id": f"{call_id}-{n}"} for n in range(3)
            ]
            await switch.post("/switch/events", ended, Prefer="wait=10")


_ROUNDS, _CHANGES = 8, 20


async def test_nothing_is_missed_between_the_state_and_the_changes(system: System, call_id: str) -> None:
    """However a subscription meets changes, each version from that of the state on comes, to the last one."""
    async with agent(system, "switch") as switch, agent(system, "alice") as alice, agent(system, "bob") as bob:
        await begin(switch, call_id, "15000", "15001")

        async def change(how: str) -> None:
            for number in range(_CHANGES):
                await bob.operate(call_id, "AttachUserData", userData={"n": f"{how}-{number}"}, prefer="wait=10")

        for round_number in range(_ROUNDS):
            changing = asyncio.create_task(change(f"round-{round_number}"))
            messages, _ = await snapshot(alice, "/v2/me/calls")
            about = [each for each in messages if each["data"]["call"]["id"] == call_id]
            [state] = [each["ext"]["calltag"]["version"] for each in about if each["ext"]["calltag"].get("snapshot")]
            seen = {each["ext"]["calltag"]["version"] for each in about}
            last = 1 + _CHANGES * (round_number + 1)
            while max(seen) < last:
                found = [each["ext"]["calltag"]["version"] for each in await alice.connect()
                         if each["data"]["call"]["id"] == call_id]  # fmt: skip
                seen |= set(found)
            await changing
            assert set(range(state, last + 1)) <= seen, "a change is missing"
