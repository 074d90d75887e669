"""The API does what its OpenAPI document says, whatever is asked: statuses, types of content and bodies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from calltag.core.domain.resource_view import CALL_EXAMPLE
from parts.system import System, embedded_system

DOCUMENT = schemathesis.openapi.from_path(Path(__file__).parents[2] / "docs" / "openapi.json")
SWITCH, CALL = "/api/v2/switch/events", "/api/v2/me/calls/{call_id}"
DIAL, ME = "/api/v2/me/devices/{device_id}/calls", "/api/v2/me"
CHANNEL, DEVICE = "/api/v2/me/channels/voice", "/api/v2/me/devices/{device_id}"
DEVICES = {"alice": "631608b3-ceb1-472b-ba05-2ae39555b0d1", "carol": "7d1f6a52-9c0b-4c62-8c5e-0f3a6b1d2e02"}
IN_ORDER = (
    (ME, "alice", ["StartContactCenterSession", "Ready", "NotReady", "AfterCallWork", "AuxWork", "Offline"]),
    (CHANNEL, "alice", ["Ready", "NotReady", "AfterCallWork", "AuxWork", "Offline"]),
    (DEVICE, "alice", ["DoNotDisturbOn", "DoNotDisturbOff", "ForwardCallsOn", "ForwardCallsOff"]),
    (ME, "carol", ["StartContactCenterSession"]),
    (DEVICE, "carol", ["ListenIn", "Coach", "BargeIn", "CancelSupervisorMonitoring"]),
    (ME, "alice", ["EndContactCenterSession"]),
    (SWITCH, "switch", ["CallStarted", "PartyChanged", "CallsMerged", "RecordingChanged", "CallEnded"]),
    (DEVICE, "alice", ["SetCallDisposition"]),
    (DIAL, "alice", ["Dial"]),
)
"""Examples of requests, as they can follow one another, beside those of operations on a call."""
RINGING = ("Answer", "Reject")
BY_SUPERVISOR = ("SwitchToListenIn", "SwitchToCoach", "SwitchToBargeIn", "MuteMonitoredUser", "UnmuteMonitoredUser")
RELATED = ("CompleteTransfer", "CompleteConference", "SwapCalls")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
FEW = settings(max_examples=10, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("openapi"), CALLTAG_LOG__LEVEL="warning") as system:
        yield system


@DOCUMENT.parametrize()
@FEW
@pytest.mark.parametrize("user", ["alice", "switch"])
def test_users(case: schemathesis.Case[Any], served: System, user: str) -> None:
    case.call_and_validate(base_url=served.gateway_url, auth=(user, "demo"), checks=CHECKS)


@DOCUMENT.parametrize()
@FEW
def test_nobody(case: schemathesis.Case[Any], served: System) -> None:
    case.call_and_validate(base_url=served.gateway_url, headers={"Cookie": "JSESSIONID=x"}, checks=CHECKS)


def test_each_example_of_a_request_takes_effect(tmp_path: Path) -> None:
    examples = {
        (path, name): example["value"]
        for path, methods in DOCUMENT.raw_schema["paths"].items()
        if "requestBody" in methods.get("post", {})
        for name, example in methods["post"]["requestBody"]["content"]["application/json"]["examples"].items()
    }
    of_calls = [name for path, name in examples if path == CALL]
    assert examples.keys() == {(path, name) for path, _, names in (*IN_ORDER, (CALL, "", of_calls)) for name in names}
    with embedded_system(tmp_path, CALLTAG_LOG__LEVEL="warning") as system:

        def send(path: str, user: str, body: object) -> None:
            url, waits = f"{system.gateway_url}{path}", {"Prefer": "wait=10"}
            answer = httpx.post(url, json=body, auth=(user, "demo"), headers=waits, timeout=20)
            assert (answer.status_code, answer.json()["statusCode"]) == (200, 0), answer.text

        for path, user, names in IN_ORDER:
            for name in names:
                if name == "CallsMerged":
                    merged = {"eventId": "other", "id": examples[path, name]["mergedId"], "partOf": CALL_EXAMPLE["id"]}
                    send(SWITCH, "switch", examples[path, "CallStarted"] | merged)
                places = {"call_id": CALL_EXAMPLE["id"], "device_id": DEVICES.get(user)}
                send(path.format(**places), user, examples[path, name])
        for name in of_calls:
            state = "Ringing" if name in RINGING else "Held" if name == "Retrieve" else "Established"
            own = {"phoneNumber": "15001", "state": state, "mute": "On" if name == "UnmuteCall" else "Off"}
            others = ["15000", "15002"] if name.startswith("Remove") else ["15000"]
            parties = [own, *({"phoneNumber": each, "state": "Established"} for each in others)]
            fact = {"eventId": name, "eventType": "CallStarted", "id": name, "parties": parties}
            send(SWITCH, "switch", fact | {"userData": {"AccountNumber": "1"}})
            body = examples[CALL, name]
            if name in RELATED:
                send(CALL.format(call_id=name), "bob", examples[CALL, "InitiateTransfer"])
                listed = httpx.get(f"{system.gateway_url}/api/v2/me/calls?fields=*", auth=("carol", "demo"), timeout=20)
                consult = next(each["id"] for each in listed.json()["calls"] if each["id"].startswith(f"{name}_"))
                send(CALL.format(call_id=consult), "carol", {"operationName": "Answer"})
                body = body | ({"otherCallUri": consult} if name == "SwapCalls" else {})
            if name in BY_SUPERVISOR:
                of_carol, path = DEVICE.format(device_id=DEVICES["carol"]), CALL.format(call_id=name)
                send(of_carol, "carol", examples[DEVICE, "Coach" if name == "SwitchToListenIn" else "ListenIn"])
                send(path, "carol", {"operationName": "Answer"})
                if name == "UnmuteMonitoredUser":
                    send(path, "carol", examples[CALL, "MuteMonitoredUser"])
                send(of_carol, "carol", examples[DEVICE, "CancelSupervisorMonitoring"])
            send(CALL.format(call_id=name), "carol" if name in BY_SUPERVISOR else "bob", body)
