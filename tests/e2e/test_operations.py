"""Operations by HTTP that the page of AttachUserData does not speak of: what is answered, and what is told."""

from typing import Any

import pytest

from parts.agent import Agent, agent
from parts.system import System

ALICES, BOBS = "631608b3-ceb1-472b-ba05-2ae39555b0d1", "7d1f6a52-9c0b-4c62-8c5e-0f3a6b1d2e01"


def fact(kind: str, call: str, *parties: tuple[str, str]) -> dict[str, Any]:
    told = {"eventId": f"{kind}-{call}", "eventType": kind, "id": call}
    return told | {"parties": [{"phoneNumber": number, "state": state} for number, state in parties]}


def started(call: str) -> dict[str, Any]:
    return fact("CallStarted", call, ("15000", "Established"), ("15001", "Established"))


async def tell(switch: Agent, *facts: dict[str, Any], prefer: str = "wait=10") -> dict[str, Any]:
    headers = {"Prefer": prefer} if prefer else {}
    answer: dict[str, Any] = (await switch.post("/switch/events", list(facts), **headers)).json()
    return answer


async def test_an_outcome_that_is_not_waited_for_long_enough_is_told_later(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        alice.about = call_id
        await tell(switch, started(call_id))
        body = {"operationName": "AttachUserData", "userData": {"a": 1}}
        answer = await alice.post(f"/me/calls/{call_id}", body, Prefer="wait=0")
        assert (answer.status_code, answer.json()["statusCode"]) == (202, 9)
        assert "accepted" in answer.json()["statusMessage"]
        told = [await alice.next_message() for _ in range(2)]
        assert told[1]["data"]["call"]["userData"] == {"a": 1}


async def test_the_switch_changes_and_ends_a_call(system: System, call_id: str) -> None:
    async with (
        agent(system, "switch") as switch,
        agent(system, "alice", "/v2/me/calls") as alice,
        agent(system, "carol", "/v2/me/calls") as carol,
    ):
        alice.about = carol.about = call_id
        joined = fact("PartyChanged", call_id, ("15000", "Held"), ("15002", "Ringing"))
        assert await tell(switch, started(call_id), joined) == {"statusCode": 0}
        assert await tell(switch, fact("CallEnded", call_id)) == {"statusCode": 0}
        told = [(await alice.next_message())["data"] for _ in range(3)]
        assert [(each["notificationType"], each["call"]["state"]) for each in told] == [
            ("StatusChange", "Established"),
            ("ParticipantsUpdated", "Held"),
            ("StatusChange", "Released"),
        ]
        assert [each["phoneNumber"] for each in told[1]["call"]["participants"]] == ["15001", "15002"]
        seen = [(await carol.next_message())["data"]["call"]["state"] for _ in range(2)]
        assert seen == ["Ringing", "Released"]


async def test_the_switch_need_not_wait(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        alice.about = call_id
        assert await tell(switch, started(call_id), fact("CallEnded", call_id), prefer="") == {"statusCode": 0}
        states = [(await alice.next_message())["data"]["call"]["state"] for _ in range(2)]
        assert states == ["Established", "Released"]


async def test_a_list_of_the_switch_is_bounded(system: System, call_id: str) -> None:
    facts = [fact("CallStarted", f"{call_id}-{number}", ("15000", "Held")) for number in range(1_001)]
    async with agent(system, "switch") as switch, agent(system, "admin") as admin:
        answer = await tell(switch, *facts)
        assert answer["statusCode"] == 10
        assert "1001 events; a request may carry 1000" in answer["statusMessage"]
        assert (await admin.http.get(f"/api/v2/me/calls/{call_id}-0")).status_code == 404


async def test_a_device_is_shown_to_its_user_and_to_administrators(system: System) -> None:
    async with agent(system, "alice") as alice, agent(system, "admin") as admin:
        own = (await alice.http.get(f"/api/v2/me/devices/{ALICES}")).json()
        assert (own["statusCode"], own["device"]["id"], own["device"]["phoneNumber"]) == (0, ALICES, "15000")
        others = await alice.http.get(f"/api/v2/me/devices/{BOBS}")
        assert (others.status_code, others.json()["statusCode"]) == (403, 5)
        for each in (alice, admin):
            unknown = await each.http.get("/api/v2/me/devices/none")
            assert (unknown.status_code, unknown.json()["statusCode"]) == (404, 6)
        assert (await admin.http.get(f"/api/v2/me/devices/{BOBS}")).json()["device"]["phoneNumber"] == "15001"


async def test_tones_are_told_to_all_parties(system: System, call_id: str) -> None:
    async with (
        agent(system, "switch") as switch,
        agent(system, "alice", "/v2/me/calls") as alice,
        agent(system, "bob", "/v2/me/calls") as bob,
    ):
        alice.about = bob.about = call_id
        await tell(switch, started(call_id))
        assert (await alice.operate(call_id, "SendDtmf", prefer="wait=10", digits="42#"))["statusCode"] == 0
        for each in (alice, bob):
            kinds = [(await each.next_message())["data"]["notificationType"] for _ in range(2)]
            assert kinds == ["StatusChange", "DtmfSent"]


@pytest.mark.parametrize(
    ("destination", "code", "word"),
    [
        ({"phoneNumber": "no;number"}, 10, "not a phone number"),
        ({"phoneNumber": "15000"}, 10, "dialing device itself"),
        ({"phoneNumber": " 15000 "}, 10, "dialing device itself"),
        ({}, 1, "phoneNumber is missing"),
        (None, 1, "destination is missing"),
    ],
)
async def test_what_cannot_be_dialed_begins_no_call(system: System, destination: Any, code: int, word: str) -> None:
    async with agent(system, "alice") as alice:
        before = (await alice.http.get("/api/v2/me/calls")).json()
        body = {"operationName": "Dial", "destination": destination}
        answer = await alice.post(f"/me/devices/{ALICES}/calls", body)
        assert (answer.status_code, answer.json()["statusCode"]) == (400, code)
        assert word in answer.json()["statusMessage"]
        assert (await alice.http.get("/api/v2/me/calls")).json() == before


async def test_a_call_may_hold_so_many_bytes(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        alice.about = call_id
        await tell(switch, started(call_id))
        for key in ("a", "b"):
            full = await alice.operate(call_id, "AttachUserData", prefer="wait=10", userData={key: "x" * 32_000})
            assert full["statusCode"] == 0
        refused = await alice.operate(call_id, "AttachUserData", prefer="wait=10", userData={"c": "x" * 2_000})
        assert refused["statusCode"] == 10
        assert "66009 bytes of user data; a call may hold 65536" in refused["statusMessage"]
        told = [(await alice.next_message())["data"] for _ in range(4)]
        assert [each["messageType"] for each in told[2:]] == ["CallStateChangeMessage", "ErrorMessage"]
        assert set((await alice.http.get(f"/api/v2/me/calls/{call_id}")).json()["call"]["userData"]) == {"a", "b"}
