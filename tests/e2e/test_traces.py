"""What an operator finds in the logs about one request and one operation."""

from functools import partial
from typing import Any

import httpx
import orjson
import pytest

from parts.agent import agent
from parts.eventually import eventually
from parts.system import System

SECRET = "a-value-that-nobody-logs"
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}


def lines(system: System, **wanted: object) -> list[dict[str, Any]]:
    """The log lines that have all of this; a thread writes them, so that the last one may not be whole yet."""
    whole, _, _ = system.logs().rpartition("\n")
    found = [orjson.loads(line) for line in whole.splitlines() if line.startswith("{")]
    return [line for line in found if wanted.items() <= line.items()]


def is_there(system: System, wanted: dict[str, str]) -> bool:
    return bool(lines(system, **wanted))


async def test_a_request_that_went_wrong_is_found_by_the_id_that_its_answer_has(system: System) -> None:
    async with agent(system, "alice") as alice:
        given = await alice.http.get("/api/v2/me/calls/none", headers={"X-Request-Id": "look-me-up"})
        made = await alice.http.get("/api/v2/nothing")
    assert given.headers["X-Request-Id"] == "look-me-up"
    for answer, route in ((given, "/api/v2/me/calls/{call_id}"), (made, "none")):
        wanted = {"event": "request", "request_id": answer.headers["X-Request-Id"]}
        await eventually(partial(is_there, system, wanted))
        [line] = lines(system, **wanted)
        assert (line["status"], line["route"]) == (answer.status_code, route)


@pytest.mark.parametrize("body", [[HELLO], "no message", []])
async def test_answers_of_cometd_have_the_id_too(system: System, body: object) -> None:
    async with httpx.AsyncClient(headers={"X-Request-Id": "mine"}) as http:
        answer = await http.post(f"{system.cometd_url}/genesys/cometd", json=body)
    assert answer.headers["X-Request-Id"] == "mine"


async def test_a_refused_operation_leaves_one_line_without_values(system: System, call_id: str) -> None:
    facts = {"eventId": f"s-{call_id}", "eventType": "CallStarted", "id": call_id,
             "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
    path, body = f"/me/calls/{call_id}", {"operationName": "AttachUserData", "userData": {SECRET: SECRET}}
    async with agent(system, "switch") as switch, agent(system, "alice") as alice:
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}
        full = await alice.operate(call_id, "AttachUserData", prefer="wait=10", userData={"a": [1] * 1000})
        assert full["statusCode"] == 0
        refused = await alice.post(path, body)
        assert refused.json() == {"statusCode": 0}
        await eventually(lambda: bool(lines(system, event="operation_refused", call_id=call_id)))
    [line] = lines(system, event="operation_refused", call_id=call_id)
    assert (line["level"], line["operation"], line["code"]) == ("info", "AttachUserData", 10)
    assert line["operation_id"] == refused.headers["Operation-Id"]
    assert isinstance(line["partition"], int)
    assert SECRET not in system.logs()


async def test_lines_about_a_partition_have_its_number(system: System, call_id: str) -> None:
    async with agent(system, "alice") as alice:
        ready = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
        assert (await alice.post("/me", ready, Prefer="wait=10")).json() == {"statusCode": 0}
    await eventually(lambda: bool(lines(system, event="partition_taken_over")))
    taken = lines(system, event="partition_taken_over")
    assert all(isinstance(line["partition"], int) for line in taken)
