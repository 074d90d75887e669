"""Bad input: a clear answer, nothing changed, nothing published."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.samples import sample
from parts.system import System, embedded_system

DEEP = '{"operationName":"AttachUserData","userData":{"a":' + "[" * 40 + "]" * 40 + "}}"


def attach(user_data: str) -> str:
    return f'{{"operationName":"AttachUserData","userData":{user_data}}}'


async def begin(switch: Agent, call: str, listener: Agent) -> None:
    listener.about = call
    facts = {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call,
             "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
    assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}
    assert (await listener.next_message())["ext"]["calltag"]["version"] == 1


async def nothing_has_come_of_it(listener: Agent, call: str) -> None:
    """The next good operation is the next thing that is told, and it is the first change of the call."""
    after = await listener.operate(call, "AttachUserData", prefer="wait=10", userData={"z": 1})
    assert after["call"]["userData"] == {"z": 1}
    message = await listener.next_message()
    assert message["data"]["notificationType"] == "AttachedDataChanged"
    assert message["data"]["call"]["userData"] == {"z": 1}
    assert message["ext"]["calltag"]["version"] == 2


def check(response: httpx.Response, http_status: int, code: int, *words: str) -> None:
    answer: dict[str, Any] = response.json()
    errors = answer.pop("errors", [])
    assert set(answer) == {"statusCode", "statusMessage"}, answer
    for each in errors:
        where = f"event {each['index']}: " if each["index"] else ""
        assert (each["statusCode"], where + each["statusMessage"]) == (code, answer["statusMessage"])
    assert (response.status_code, answer["statusCode"]) == (http_status, code), answer
    for word in words:
        assert word in answer["statusMessage"], answer


@pytest.mark.parametrize(
    ("body", "http_status", "code", "word"),
    [
        ("not json", 400, 10, "not JSON"),
        ("", 400, 10, "not JSON"),
        ("[]", 400, 10, "must be a JSON object"),
        ('"x"', 400, 10, "must be a JSON object"),
        (attach('{"a":"' + "x" * 300_000 + '"}'), 413, 10, "262144 bytes"),
        (DEEP, 400, 10, "16 deep"),
        ("{}", 400, 1, "operationName is missing"),
        ('{"operationName":null}', 400, 1, "operationName is missing"),
        ('{"operationName":7}', 400, 10, "operationName must be a string"),
        ('{"operationName":"Fly"}', 400, 10, "known are AttachUserData"),
        ('{"operationName":"AttachUserData"}', 400, 1, "userData is missing"),
        ('{"operationName":"UpdateUserData"}', 400, 1, "userData is missing"),
        (attach("[]"), 400, 10, "userData must be a JSON object"),
        (attach('"x"'), 400, 10, "userData must be a JSON object"),
        (attach('{"":1}'), 400, 10, "a key is empty"),
        (attach('{"' + "é" * 128 + '":1}'), 400, 10, "255 bytes"),
        (attach('{"a":[' + ",".join("1" * 1001) + "]}"), 400, 10, "1001 pairs"),
        (attach('{"a":"' + "x" * 66_000 + '"}'), 400, 10, "65536"),
        (attach('{"a":"\\ud800"}'), 400, 10, "surrogate"),
        (attach('{"a":"\\u0000"}'), 400, 10, "U+0000"),
        (attach('{"a":18446744073709551616}'), 400, 10, "64 bits"),
        (attach('{"a":1e999}'), 400, 10, "64-bit float"),
        (attach('{"a":NaN}'), 400, 10, "NaN"),
        (attach('{"a":0.1234567890123456789}'), 400, 10, "digits"),
        (attach('{"a":1,"a":2}'), 400, 10, "same name twice"),
        ('{"operationName":"DeleteUserDataPair"}', 400, 1, "key is missing"),
        ('{"operationName":"DeleteUserDataPair","key":""}', 400, 10, "key must not be empty"),
        ('{"operationName":"DeleteUserDataPair","key":1}', 400, 10, "key must be a string"),
        ('{"operationName":"SendDtmf"}', 400, 1, "digits is missing"),
        ('{"operationName":"SendDtmf","digits":"x y"}', 400, 10, "digits"),
    ],
)  # fmt: skip
async def test_a_bad_body(system: System, call_id: str, body: str, http_status: int, code: int, word: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        await begin(switch, call_id, alice)
        headers = {"Content-Type": "application/json"}
        response = await alice.http.post(f"/api/v2/me/calls/{call_id}", content=body, headers=headers)
        check(response, http_status, code, word)
        await nothing_has_come_of_it(alice, call_id)


async def test_what_a_user_may_not(system: System, call_id: str) -> None:
    body = {"operationName": "AttachUserData", "userData": {"a": 1}}
    async with (
        agent(system, "switch") as switch,
        agent(system, "alice", "/v2/me/calls") as alice,
        agent(system, "bob") as bob,
        agent(system, "dave") as dave,
    ):
        await begin(switch, call_id, alice)
        path = f"/me/calls/{call_id}"
        check(await alice.post("/me/calls/none", body), 404, 6, "no call none")
        check(await bob.post(path, body), 403, 5, "not a call of yours")
        check(await bob.http.get(f"/api/v2{path}"), 403, 5)
        check(await dave.post(path, body), 403, 3, "api-voice")
        check(await alice.post("/switch/events", {}), 403, 3, "role switch")
        check(await alice.http.get("/api/v2/nothing"), 404, 6)
        form = await alice.http.post(f"/api/v2{path}", content="a=b", headers={"Content-Type": "text/plain"})
        check(form, 415, 10, "application/json")
        check(await alice.post(path, body, Prefer="wait=soon"), 400, 10, "Prefer")
        check(await alice.post(path, body, **{"Idempotency-Key": "x" * 256}), 400, 10, "Idempotency-Key")
        device = (await bob.http.get("/api/v2/me/devices")).json()["uris"][0].rpartition("/")[2]
        dial = {"operationName": "Dial", "destination": {"phoneNumber": "15001"}}
        check(await alice.post(f"/me/devices/{device}/calls", dial), 403, 5)
        check(await alice.post("/me", {"operationName": "StartContactCenterSession"}), 400, 1, "channels")
        async with httpx.AsyncClient(base_url=system.gateway_url, verify=False) as nobody:
            check(await nobody.post(f"/api/v2{path}", json=body), 401, 20)
            check(await nobody.post(f"/api/v2{path}", json=body, auth=("alice", "wrong")), 401, 20, "wrong")
            odd = await nobody.get("/api/v2/me", headers={"Authorization": "Basic !!"})
            check(odd, 401, 20, "not well formed")
        await nothing_has_come_of_it(alice, call_id)


async def test_an_administrator_may_change_any_call(system: System, call_id: str) -> None:
    async with (
        agent(system, "switch") as switch,
        agent(system, "alice", "/v2/me/calls") as alice,
        agent(system, "admin") as admin,
    ):
        await begin(switch, call_id, alice)
        body = {"operationName": "AttachUserData", "userData": {"a": 1}}
        assert (await admin.post(f"/me/calls/{call_id}", body)).json() == {"statusCode": 0}
        assert (await alice.next_message())["data"]["call"]["userData"] == {"a": 1}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "["}, 400, 10),
        ({"Origin": "http://["}, 404, 6),
        ({"Host": "[", "Origin": "http://["}, 400, 10),
    ],
)
async def test_headers_that_name_no_host(
    system: System, call_id: str, headers: dict[str, str], status: int, code: int
) -> None:
    async with agent(system, "alice") as alice:
        hangup = {"operationName": "Hangup"}
        check(await alice.post("/me/calls/none", hangup, **headers, **{"Idempotency-Key": call_id}), status, code)


async def test_a_call_may_hold_so_much(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        await begin(switch, call_id, alice)
        full = await alice.operate(call_id, "AttachUserData", prefer="wait=10", userData={"a": [1] * 1000})
        assert full["statusCode"] == 0
        await alice.next_message()
        assert (await alice.operate(call_id, "AttachUserData", userData={"a": 1}))["statusCode"] == 0
        refusal = (await alice.next_message())["data"]
        assert (refusal["messageType"], refusal["statusCode"]) == ("ErrorMessage", 10)
        assert "1000" in refusal["statusMessage"]


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({"eventId": None}, 1, "eventId is missing"),
        ({"eventType": "Boom"}, 10, "eventType"),
        ({"id": "a b"}, 10, "id may hold"),
        ({"parties": None}, 1, "parties is missing"),
        ({"parties": []}, 10, "at least one"),
        ({"parties": [3]}, 10, "parties[0]"),
        ({"parties": [{"phoneNumber": "1"}]}, 1, "parties[0].state"),
        ({"parties": [{"phoneNumber": "1", "state": "Odd"}]}, 10, "state is not known"),
        ({"parties": [{"phoneNumber": "1", "state": "Held", "mute": {}}]}, 10, "mute"),
        ({"parties": [{"phoneNumber": "1", "state": "Held"}] * 2}, 10, "twice"),
        ({"callType": "Odd"}, 10, "callType"),
        ({"beganAt": "now"}, 10, "beganAt"),
        ({"userData": []}, 10, "userData"),
    ],
)
async def test_bad_facts_of_the_switch(
    system: System, call_id: str, change: dict[str, Any], code: int, word: str
) -> None:
    good = {"eventId": f"s-{call_id}", "eventType": "CallStarted", "id": call_id,
            "parties": [{"phoneNumber": "15000", "state": "Held"}]}  # fmt: skip
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        check(await switch.post("/switch/events", good | change), 400, code, word)
        check(await switch.post("/switch/events", [good, good | change]), 400, code, "event 1", word)
        await begin(switch, call_id, alice)
        await nothing_has_come_of_it(alice, call_id)


async def test_lines_that_are_no_requests_are_counted_and_not_logged(tmp_path: Path) -> None:
    with embedded_system(tmp_path) as system:
        url = httpx.URL(system.gateway_url)
        before = system.logs()
        for line, status in [
            (b"nothing of HTTP\r\n\r\n", b"501"),
            (b"GET / HTTP/9.9\r\n\r\n", b"505"),
            (b"\x16\x03\x01\x02\x00\r\n", b"400"),
        ] * 5:
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(line)
            assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 " + status)
            writer.close()
        async with httpx.AsyncClient() as http:
            upgrade = {"Connection": "Upgrade", "Upgrade": "h2c"}
            assert (await http.get(f"{system.gateway_url}/api/v2/me", headers=upgrade)).status_code == 401
        assert await sample(system, "serve", "calltag_http_refused_total", limit="malformed") == 15
        await eventually(lambda: system.logs().removeprefix(before).endswith("\n"))
        written = [json.loads(line) for line in system.logs().removeprefix(before).splitlines()]
        assert [each["event"] for each in written if each["event"] != "ready"] == ["request"]
