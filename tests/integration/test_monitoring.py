"""Supervisors who monitor agents, through gateway, worker and store."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from calltag.core.identity.directory import directory
from calltag.gateway.idempotency import Idempotency
from parts.in_process import InProcess, in_process, started

JSON = dict[str, Any]
DEVICES = {
    "alice": "631608b3-ceb1-472b-ba05-2ae39555b0d1",
    "bob": "7d1f6a52-9c0b-4c62-8c5e-0f3a6b1d2e01",
    "carol": "7d1f6a52-9c0b-4c62-8c5e-0f3a6b1d2e02",
    "admin": "7d1f6a52-9c0b-4c62-8c5e-0f3a6b1d2e04",
}
START = {"operationName": "StartContactCenterSession", "channels": ["voice"]}


@pytest.fixture
async def centre(tmp_path: Path) -> AsyncIterator[InProcess]:
    """The supervisor carol has signed in."""
    async with in_process(tmp_path) as gateway, gateway.working():
        for user in ("alice", "carol", "admin"):
            answer = await gateway.request(user, "POST", "/me", START, Prefer="wait=10")
            assert answer.json() == {"statusCode": 0}
        yield gateway


async def monitor(centre: InProcess, name: str = "ListenIn", of: str = "alice", by: str = "carol", **more: Any) -> JSON:
    body = {"operationName": name, "targetDeviceUri": f"http://x/api/v2/devices/{DEVICES[of]}", **more}
    answer = await centre.request(by, "POST", f"/me/devices/{DEVICES[by]}", body, Prefer="wait=10")
    read: JSON = answer.json()
    return read


async def device(centre: InProcess, user: str = "carol") -> JSON:
    read: JSON = (await centre.request(user, "GET", f"/me/devices/{DEVICES[user]}")).json()["device"]
    return read


async def calls(centre: InProcess, user: str = "carol") -> dict[str, str]:
    """The user's calls: id to state."""
    listed = (await centre.request(user, "GET", "/me/calls?fields=*")).json()["calls"]
    return {each["id"]: each["state"] for each in listed}


async def test_all_calls_of_now_and_later(centre: InProcess) -> None:
    await centre.send_facts(started("now", "15000", "0891234"), started("other", "15001", "0891235"))
    assert await monitor(centre) == {"statusCode": 0}
    shown = await device(centre)
    assert shown["supervisorMonitoringState"] == {
        "state": "ListenIn", "mode": "AllCalls", "scope": "Call",
        "targetDeviceUri": f"{shown['uri'].rpartition('/')[0]}/{DEVICES['alice']}",
    }  # fmt: skip
    assert "CancelSupervisorMonitoring" in shown["capabilities"]
    assert await calls(centre) == {"now": "Ringing"}
    await centre.send_facts(started("later", "0891236", "15000"))
    dialed = await centre.request(
        "alice", "POST", f"/me/devices/{DEVICES['alice']}/calls",
        {"operationName": "Dial", "destination": {"phoneNumber": "0891237"}}, Prefer="wait=10",
    )  # fmt: skip
    assert (await calls(centre)).keys() == {"now", "later", dialed.json()["call"]["id"]}
    cancel = {"operationName": "CancelSupervisorMonitoring"}
    path = f"/me/devices/{DEVICES['carol']}"
    assert (await centre.request("carol", "POST", path, cancel, Prefer="wait=10")).json() == {"statusCode": 0}
    assert "supervisorMonitoringState" not in await device(centre)
    await centre.send_facts(started("after", "15000", "0891238"))
    assert "after" not in await calls(centre)
    assert "now" in await calls(centre), "the calls on which the supervisor is go on"
    again = await centre.request("carol", "POST", path, cancel, Prefer="wait=10")
    assert (again.status_code, again.json()["statusMessage"]) == (400, "the device monitors no other one")


async def test_a_device_lists_what_its_user_may_do(centre: InProcess) -> None:
    usual = ["DoNotDisturbOn", "ForwardCallsOn"]
    ways = ["ListenIn", "Coach", "BargeIn"]
    for user, more in (("alice", []), ("carol", ways), ("admin", ways)):
        assert (await device(centre, user))["capabilities"] == [*usual, *more]
    await monitor(centre)
    assert (await device(centre))["capabilities"] == [*usual, *ways, "CancelSupervisorMonitoring"]
    await centre.request("carol", "POST", "/me", {"operationName": "EndContactCenterSession"}, Prefer="wait=10")
    assert (await device(centre))["capabilities"] == []


async def test_a_supervisor_corrects_attached_data(centre: InProcess) -> None:
    await centre.send_facts(started("C", "15000", "0891234", userData={"account": "1"}))
    refused = await centre.operate("carol", "C", "UpdateUserData", userData={"account": "2"})
    assert refused["statusCode"] == 5
    await monitor(centre)
    assert (await centre.operate("carol", "C", "UpdateUserData", userData={"account": "2"}))["statusCode"] == 0
    assert (await centre.operate("carol", "C", "Answer"))["call"]["monitoring"] is True
    seen = (await centre.request("alice", "GET", "/me/calls/C")).json()["call"]
    assert (seen["userData"], seen["supervisorListeningIn"]) == ({"account": "2"}, True)
    assert [each["phoneNumber"] for each in seen["participants"]] == ["0891234"]
    barged = await centre.operate("carol", "C", "SwitchToBargeIn")
    assert "RemoveParticipantFromConference" in barged["call"]["capabilities"]
    muted = await centre.operate("carol", "C", "MuteMonitoredUser")
    assert muted["call"]["monitoredUserMuted"] is True
    seen = (await centre.request("alice", "GET", "/me/calls/C")).json()["call"]
    assert [each["phoneNumber"] for each in seen["participants"]] == ["0891234", "15002"]


@pytest.mark.parametrize("action", ["Answer", "ClearCall", "Reject", "Hangup"])
async def test_the_next_call_only(centre: InProcess, action: str) -> None:
    await centre.send_facts(started("now", "15000", "0891234"))
    assert await monitor(centre, supervisorMonitoringMode="NextCall") == {"statusCode": 0}
    assert await calls(centre) == {}, "it has begun before"
    await centre.send_facts(started("missed", "15000", "0891235"))
    await centre.send_facts({"eventId": "e", "eventType": "CallEnded", "id": "missed"})
    await centre.send_facts(started("next", "15000", "0891236"))
    assert await calls(centre) == {"next": "Ringing"}
    assert (await centre.operate("carol", "next", action))["statusCode"] == 0
    assert "supervisorMonitoringState" not in await device(centre)
    await centre.send_facts(started("later", "15000", "0891237"))
    assert "later" not in await calls(centre)


async def test_the_next_call_is_taken_while_another_agent_is_monitored(centre: InProcess) -> None:
    await monitor(centre, supervisorMonitoringMode="NextCall")
    await centre.send_facts(started("next", "15000", "0891236"))
    await monitor(centre, of="bob")
    await centre.operate("carol", "next", "Answer")
    assert (await device(centre))["supervisorMonitoringState"]["targetDeviceUri"].endswith(DEVICES["bob"])


async def test_consultations_conferences_and_what_the_switch_reports(centre: InProcess) -> None:
    await monitor(centre, of="bob")
    await centre.send_facts(started("C", "15000", "0891234"))
    to_bob: JSON = {"destination": {"phoneNumber": "15001"}}
    await centre.operate("alice", "C", "InitiateTransfer", **to_bob)
    [consult] = await calls(centre)
    assert consult != "C"
    await centre.operate("alice", "C", "CompleteTransfer")
    assert await calls(centre) == {"C": "Ringing"}
    await centre.operate("carol", "C", "Hangup")
    joined = {"parties": [{"phoneNumber": "15001", "state": "Released"}]}
    await centre.send_facts({"eventId": "e1", "eventType": "PartyChanged", "id": "C", **joined})
    joined = {"parties": [{"phoneNumber": "15001", "state": "Ringing"}]}
    await centre.send_facts({"eventId": "e2", "eventType": "PartyChanged", "id": "C", **joined})
    assert await calls(centre) == {"C": "Ringing"}


async def test_a_request_again_takes_effect_once(centre: InProcess) -> None:
    await centre.send_facts(started("C", "15000", "0891234"))
    body = {"operationName": "ListenIn", "targetDeviceUri": f"/devices/{DEVICES['alice']}"}
    for _ in range(2):
        answer = await centre.request(
            "carol", "POST", f"/me/devices/{DEVICES['carol']}", body, **{"Idempotency-Key": "k", "Prefer": "wait=10"}
        )
        assert answer.json() == {"statusCode": 0}
    assert await calls(centre) == {"C": "Ringing"}


@pytest.mark.parametrize(
    ("by", "parameters", "status", "code", "text"),
    [
        ("carol", {}, 400, 1, "targetDeviceUri is missing"),
        ("carol", {"targetDeviceUri": 1}, 400, 10, "targetDeviceUri must be a string"),
        ("carol", {"targetDeviceUri": "/devices/none"}, 400, 10, "targetDeviceUri: there is no device none"),
        ("carol", {"of": "carol"}, 403, 5, "is not that of an agent whom you oversee"),
        ("carol", {"of": "admin"}, 403, 5, "is not that of an agent whom you oversee"),
        ("alice", {"of": "bob"}, 403, 3, "api-supervisor-monitoring"),
        ("carol", {"of": "alice", "supervisorMonitoringScope": "x"}, 400, 10, "known are Call, Agent"),
        ("carol", {"of": "alice", "supervisorMonitoringMode": "x"}, 400, 10, "known are AllCalls, NextCall"),
    ],
)
async def test_wrong_requests(centre: InProcess, by: str, parameters: JSON, status: int, code: int, text: str) -> None:
    given = {**parameters}
    if "of" in given:
        given["targetDeviceUri"] = DEVICES[given.pop("of")]
    for name in ("ListenIn", "Coach", "BargeIn"):
        body = {"operationName": name, **given}
        answer = await centre.request(by, "POST", f"/me/devices/{DEVICES[by]}", body, Prefer="wait=10")
        assert (answer.status_code, answer.json()["statusCode"]) == (status, code), answer.text
        assert text in answer.json()["statusMessage"]


async def test_a_supervisor_who_has_not_signed_in(tmp_path: Path) -> None:
    async with in_process(tmp_path) as gateway, gateway.working():
        await gateway.send_facts(started("C", "15000", "0891234"))
        answer = await monitor(gateway)
        assert "StartContactCenterSession" in answer["statusMessage"]
        assert await calls(gateway) == {}


async def test_an_agent_who_is_removed_meanwhile_is_not_monitored(
    centre: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of users is read again between the parsing of a request and its admission."""
    attempt, here = Idempotency.attempt, centre.backends.directory
    left = directory(tuple(user for user in here.users.values() if user.id != "alice"))

    async def later(self: Idempotency, *given: Any, **more: Any) -> Any:
        here.become(left)
        return await attempt(self, *given, **more)

    monkeypatch.setattr(Idempotency, "attempt", later)
    assert (await monitor(centre))["statusCode"] == 5


async def test_an_administrator_monitors_everybody(centre: InProcess) -> None:
    assert await monitor(centre, "Coach", by="admin") == {"statusCode": 0}
    assert await monitor(centre, "BargeIn") == {"statusCode": 0}
    await centre.send_facts(started("C", "15000", "0891234"))
    assert await calls(centre, "admin") == await calls(centre) == {"C": "Ringing"}
