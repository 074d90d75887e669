"""A request made again under its key takes effect once, whatever became of the first try."""

import asyncio
from typing import Any, cast

import httpx
import orjson
import pytest

from parts.eventually import eventually
from parts.in_process import InProcess, ended, started
from parts.store_commands import library

ATTACH = {"operationName": "AttachUserData", "userData": {"a": "MOST-SECRET"}}
HANGUP = {"operationName": "Hangup"}
DIAL = {"operationName": "Dial", "destination": {"phoneNumber": "15001"}}
HOUR_MS = 3_600_000


async def post(
    gateway: InProcess, body: Any, prefer: str = "", path: str = "/me/calls/C", user: str = "alice"
) -> httpx.Response:
    more = {"Prefer": prefer} if prefer else {}
    return await gateway.request(user, "POST", path, body, **{"Idempotency-Key": "key", **more})


async def records(gateway: InProcess) -> dict[str, Any]:
    connection = library(gateway.backends.client)
    names = cast("list[bytes]", await connection.keys("*idempotency*"))
    return {name.decode(): orjson.loads(cast("bytes", await connection.get(name))) for name in names}


async def grow_older(gateway: InProcess, by_ms: int) -> None:
    """Let what was begun have begun so much earlier."""
    for name, record in (await records(gateway)).items():
        record["begun"] -= by_ms
        await library(gateway.backends.client).set(name, orjson.dumps(record))


async def test_a_repeated_hangup_gets_the_outcome_of_the_first(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000", "15001"))
        first = await post(gateway, HANGUP, "wait=0")
        assert (first.status_code, first.json()["statusCode"]) == (202, 9)
        again = await post(gateway, HANGUP, "wait=10")
        assert (again.json()["statusCode"], again.json()["call"]["state"]) == (0, "Released")
        assert again.headers["Preference-Applied"] == "wait=10"
        other = await gateway.operate("alice", "C", "Hangup")
        assert (other["statusCode"], "already released" in other["statusMessage"]) == (2, True)


async def test_who_left_by_the_first_try_gets_the_outcome_without_the_call(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000", "15001", "15002"))
        assert (await post(gateway, HANGUP, "wait=0")).status_code == 202

        async def left() -> bool:
            return (await gateway.request("alice", "GET", "/me/calls/C")).status_code == 403

        await eventually(left)
        # Replies come in order: after bob's, none of the first try is on its way any more.
        assert (await gateway.operate("bob", "C", "AttachUserData", userData={"b": 1}))["statusCode"] == 0
        assert (await post(gateway, HANGUP, "wait=10")).json() == {"statusCode": 0}


async def test_a_call_that_is_gone_by_now_does_not_hide_the_outcome(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000", "15001"))
        assert (await post(gateway, HANGUP, "wait=0")).status_code == 202
        await gateway.send_facts(ended("C"))
        await library(gateway.backends.client).delete(gateway.keys("C").state, gateway.keys("C").data)
        assert (await post(gateway, HANGUP, "wait=10")).json() == {"statusCode": 0}


async def test_a_repeated_request_is_still_of_a_party_only(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000", "15001"))
        assert (await post(gateway, HANGUP, "wait=0")).status_code == 202
        await gateway.send_facts(ended("C"))
        await library(gateway.backends.client).delete(*gateway.keys("C").all())
        await gateway.send_facts(started("C", "15001", eventId="another"))
        refused = await post(gateway, HANGUP)
        assert (refused.status_code, refused.json()["statusCode"]) == (403, 5)


async def test_what_was_refused_at_once_is_judged_anew(gateway: InProcess) -> None:
    for _ in range(2):
        refused = await post(gateway, ATTACH)
        assert (refused.status_code, refused.json()["statusCode"]) == (404, 6)
    assert await records(gateway) == {}
    async with gateway.working():
        await gateway.send_facts(started("C", "15000"))
        assert (await post(gateway, ATTACH, "wait=10")).json()["statusCode"] == 0


async def test_a_first_try_beyond_the_memory_of_operations_is_refused(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000"))
    assert (await post(gateway, ATTACH, "wait=0")).status_code == 202
    await grow_older(gateway, HOUR_MS - 60_000)
    assert (await post(gateway, ATTACH, "wait=0")).status_code == 202
    await grow_older(gateway, 60_000)
    refused = await post(gateway, ATTACH, "wait=0")
    assert (refused.status_code, refused.json()["statusCode"]) == (409, 18)
    assert "has expired" in refused.json()["statusMessage"]
    async with gateway.working():
        after = await gateway.operate("alice", "C", "UpdateUserData", userData={"b": 1})
        assert after["call"]["userData"] == {"a": "MOST-SECRET", "b": 1}


async def test_operations_are_remembered_for_an_hour_on_a_released_call(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000", "15001"))
        await gateway.send_facts(ended("C"))
    connection = library(gateway.backends.client)
    assert await connection.pttl(gateway.keys("C").state) <= 1_800_000
    assert HOUR_MS - 60_000 < await connection.pttl(gateway.keys("C").done) <= HOUR_MS


async def test_an_answer_is_kept_without_the_call_and_shown_with_the_call_as_it_is_now(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000", "15001", "15002"))
        assert (await post(gateway, ATTACH, "wait=10")).json()["call"]["userData"] == {"a": "MOST-SECRET"}
        [record] = (await records(gateway)).values()
        assert (record["status"], record["code"]) == (200, 0)
        assert "MOST-SECRET" not in str(record)
        await gateway.operate("bob", "C", "UpdateUserData", userData={"a": 2})
        again = await post(gateway, ATTACH, "wait=10")
        assert again.json()["call"]["userData"] == {"a": 2}
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (await post(gateway, ATTACH)).json() == {"statusCode": 0}
        await gateway.operate("alice", "C", "Hangup")
        assert (await post(gateway, ATTACH, "wait=10")).json() == {"statusCode": 0}


async def test_who_waits_at_the_second_try_gets_the_outcome(gateway: InProcess) -> None:
    retrieve = {"operationName": "Retrieve"}
    async with gateway.working():
        await gateway.send_facts(started("C", "15000"))
        assert (await post(gateway, retrieve)).json() == {"statusCode": 0}
        outcome = await post(gateway, retrieve, "wait=10")
        assert (outcome.status_code, outcome.json()["statusCode"]) == (400, 2)
        assert (await post(gateway, retrieve)).json() == outcome.json()


async def test_who_waits_gets_the_answer_that_is_kept_when_nobody_knows_the_operation_any_more(
    gateway: InProcess,
) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000"))
        assert (await post(gateway, ATTACH)).json() == {"statusCode": 0}
        await grow_older(gateway, HOUR_MS)
        again = await post(gateway, ATTACH, "wait=10")
        assert (again.json()["statusCode"], again.headers["Idempotent-Replayed"]) == (0, "true")


async def test_dialing_again_shows_the_call_that_was_begun(gateway: InProcess) -> None:
    path = "/me/devices/631608b3-ceb1-472b-ba05-2ae39555b0d1/calls"
    async with gateway.working():
        first = (await post(gateway, DIAL, "wait=10", path)).json()["call"]
        assert (await gateway.operate("bob", first["id"], "Answer"))["statusCode"] == 0
        again = (await post(gateway, DIAL, "wait=10", path)).json()["call"]
        assert (again["id"], again["state"]) == (first["id"], "Established")


async def test_a_refusal_by_the_state_is_answered_again(gateway: InProcess) -> None:
    body = {"operationName": "Retrieve"}
    async with gateway.working():
        await gateway.send_facts(started("C", "15000"))
        first = await post(gateway, body, "wait=10")
        await gateway.operate("alice", "C", "Hold")
        again = await post(gateway, body, "wait=10")
    assert first.headers["Operation-Id"] == again.headers["Operation-Id"]
    assert (first.status_code, first.json()["statusCode"]) == (400, 2)
    assert (again.status_code, again.json()) == (400, first.json())


async def test_a_list_refused_in_part_applies_when_it_is_sent_again_under_its_key(gateway: InProcess) -> None:
    facts = [started("C", "15000"), ended("D")]
    async with gateway.working():
        codes = [(await post(gateway, facts, "wait=10", "/switch/events", "switch")).json()["statusCode"]]
        await gateway.send_facts(started("D", "15000"))
        codes.append((await post(gateway, facts, "wait=10", "/switch/events", "switch")).json()["statusCode"])
    assert codes == [7, 0]


@pytest.mark.parametrize("path", ["/me/calls/C", "/me"])
async def test_two_at_a_time_take_effect_once(gateway: InProcess, path: str) -> None:
    body = ATTACH if path != "/me" else {"operationName": "StartContactCenterSession", "channels": ["voice"]}
    async with gateway.working():
        await gateway.send_facts(started("C", "15000"))
        answers = await asyncio.gather(*(post(gateway, body, "wait=10", path) for _ in range(5)))
        assert {each.json()["statusCode"] for each in answers} == {0}
        call = (await gateway.request("alice", "GET", "/me/calls/C")).json()["call"]
    assert call.get("userData") == (ATTACH["userData"] if path != "/me" else None)
