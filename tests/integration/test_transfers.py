"""Consult calls, transfers and conferences through gateway, worker and store; crashes and redeliveries between."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from parts.in_process import InProcess, ended, in_process, started

JSON = dict[str, Any]
ALICE = "15000"
BOB = {"destination": {"phoneNumber": "15001"}}
CAROL = {"destination": {"phoneNumber": "15002"}}


@pytest.fixture
async def busy(tmp_path: Path) -> Any:
    """Alice has a call of a customer."""
    async with in_process(tmp_path) as gateway, gateway.working():
        await gateway.send_facts(started("C", ALICE, "0891234", userData={"account": 1}))
        yield gateway


async def consult(gateway: InProcess, user: str, call: str, **parameters: Any) -> str:
    """Begin a consult call; return its id."""
    answer = await gateway.operate(user, call, "InitiateTransfer", **parameters)
    assert answer["statusCode"] == 0, answer
    listed = (await gateway.request(user, "GET", "/me/calls?fields=*")).json()["calls"]
    [found] = [each["id"] for each in listed if each.get("parentCallUri", "").endswith(f"/{call}")]
    return str(found)


async def shown(gateway: InProcess, user: str, call: str) -> JSON:
    answer: JSON = (await gateway.request(user, "GET", f"/me/calls/{call}")).json()
    found: JSON = answer.get("call", answer)
    return found


async def test_a_transfer_keeps_the_call_and_its_data(busy: InProcess) -> None:
    second = await consult(busy, "alice", "C", **BOB, userData={"reason": "question"})
    held = await shown(busy, "alice", "C")
    assert (held["state"], "SwapCalls" in held["capabilities"]) == ("Held", True)
    asked = await shown(busy, "bob", second)
    assert (asked["state"], asked["callType"], asked["userData"]) == (
        "Ringing", "Consult", {"account": 1, "reason": "question"},
    )  # fmt: skip
    assert (await busy.operate("bob", second, "Answer"))["statusCode"] == 0
    assert (await busy.operate("bob", second, "UpdateUserData", userData={"account": 2}))["statusCode"] == 0
    uri = (await shown(busy, "alice", second))["uri"]
    answer = await busy.operate("alice", "C", "CompleteTransfer", consultCallUri=uri)
    assert (answer["statusCode"], answer["call"]["state"]) == (0, "Released")
    after = await shown(busy, "bob", "C")
    assert (after["state"], after["userData"]) == ("Established", {"account": 2, "reason": "question"})
    assert [each["phoneNumber"] for each in after["participants"]] == ["0891234"]
    assert (await shown(busy, "bob", second))["state"] == "Released"
    assert (await busy.request("alice", "GET", "/me/calls/C")).status_code == 403


async def test_a_conference_from_the_consult_call(busy: InProcess) -> None:
    second = await consult(busy, "alice", "C", **BOB)
    await busy.operate("bob", second, "Answer")
    assert (await busy.operate("alice", second, "CompleteConference"))["call"]["state"] == "Released"
    for user in ("alice", "bob"):
        assert len((await shown(busy, user, "C"))["participants"]) == 2
    third = await consult(busy, "bob", "C", **CAROL)
    await busy.operate("bob", third, "CompleteTransfer")
    assert (await shown(busy, "carol", "C"))["state"] == "Ringing"
    removed = await busy.operate("alice", "C", "RemoveParticipantFromConference", participant="15002")
    assert removed["statusCode"] == 0
    there = (await shown(busy, "alice", "C"))["participants"]
    assert [each["phoneNumber"] for each in there] == ["0891234"]


async def test_what_the_switch_says_of_calls_that_belong_together(busy: InProcess) -> None:
    parties = [{"phoneNumber": ALICE, "state": "Dialing"}, {"phoneNumber": "15001", "state": "Ringing"}]
    begun = {
        "eventId": "s2", "eventType": "CallStarted", "id": "second", "partOf": "C", "parentId": "C",
        "callType": "Consult", "parties": parties,
    }  # fmt: skip
    over = {
        "eventId": "m", "eventType": "CallsMerged", "id": "C", "mergedId": "second",
        "parties": [{"phoneNumber": ALICE, "state": "Released"}],
    }  # fmt: skip
    for fact in (begun, begun, over, over):
        assert (await busy.send_facts(fact)).json() == {"statusCode": 0}, "the same event again takes no effect"
    after = await shown(busy, "bob", "C")
    assert (after["state"], after["userData"]) == ("Ringing", {"account": 1})
    listed = (await busy.request("bob", "GET", "/me/calls?fields=id")).json()["calls"]
    assert listed == [{"id": "C"}]


async def test_operations_on_related_calls_are_applied_in_the_order_of_sending(busy: InProcess) -> None:
    """Also without waiting, and however they meet in batches."""
    second = await consult(busy, "alice", "C", **BOB)
    await busy.operate("bob", second, "Answer")
    for number in range(20):
        on_main = busy.operate("alice", "C", "AttachUserData", prefer="", userData={"main": number})
        on_second = busy.operate("bob", second, "AttachUserData", prefer="", userData={"second": number})
        assert [each["statusCode"] for each in await asyncio.gather(on_main, on_second)] == [0, 0]
    done = await busy.operate("alice", second, "CompleteTransfer")
    assert done["statusCode"] == 0
    data = (await shown(busy, "bob", "C"))["userData"]
    assert data == {"account": 1, "main": list(range(20)), "second": list(range(20))}


async def test_a_disposition_is_taken_from_the_device_and_after_the_end(busy: InProcess) -> None:
    [device] = (await busy.request("alice", "GET", "/me/devices?fields=id")).json()["devices"]
    await busy.send_facts(ended("C"))
    body = {"operationName": "SetCallDisposition", "callUuid": "C", "disposition": "sold", "dispositionKey": "how"}
    answer = await busy.request("alice", "POST", f"/me/devices/{device['id']}", body, Prefer="wait=10")
    assert answer.json()["statusCode"] == 0, answer.text
    assert (await shown(busy, "alice", "C"))["userData"] == {"account": 1, "how": "sold"}
    body.pop("callUuid")
    refused = await busy.request("alice", "POST", f"/me/devices/{device['id']}", body)
    assert (refused.status_code, refused.json()["statusCode"]) == (400, 1)


@pytest.mark.parametrize("rule", ["inherited", "separate", "joint"])
async def test_the_rule_for_user_data_is_a_setting(tmp_path: Path, rule: str) -> None:
    async with in_process(tmp_path, worker={"consult_user_data": rule}) as gateway, gateway.working():
        await gateway.send_facts(started("C", ALICE, "0891234", userData={"account": 1}))
        second = await consult(gateway, "alice", "C", **BOB)
        assert (await shown(gateway, "bob", second)).get("userData") == (None if rule == "separate" else {"account": 1})
        await gateway.operate("bob", second, "Answer")
        await gateway.operate("bob", second, "AttachUserData", userData={"found": True})
        main = (await shown(gateway, "alice", "C"))["userData"]
        assert main == ({"account": 1, "found": True} if rule == "joint" else {"account": 1})
        await gateway.operate("alice", "C", "CompleteTransfer")
        assert (await shown(gateway, "bob", "C"))["userData"] == {"account": 1, "found": True}


async def test_too_many_consult_calls_are_refused(busy: InProcess) -> None:
    answers = [await busy.operate("alice", "C", "InitiateTransfer", destination={"phoneNumber": f"0{n}"})
               for n in range(9)]  # fmt: skip
    assert [each["statusCode"] for each in answers] == [0] * 8 + [2]
