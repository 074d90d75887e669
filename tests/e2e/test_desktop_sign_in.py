"""Desktops that others wrote sign in: their requests, in their order, and what they read in the answers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx
import pytest

from parts.agent import Agent, agent
from parts.system import System, embedded_system

JSON = dict[str, Any]
DEVICE = "631608b3-ceb1-472b-ba05-2ae39555b0d1"
BY_SCRIPT = {"X-Requested-With": "XMLHttpRequest", "Accept": "application/json"}
READ_AT_START: Final[tuple[tuple[str, str, object], ...]] = (
    ("/internal-api/me/settings?fields=*", "settings", {}),
    ("/api/v2/me/groups?type=BusinessUnit&fields=*", "groups", []),
    ("/api/v2/groups?type=dispositions&fields=*", "groups", []),
    ("/internal-api/contact-center?subresources=businessAttributes", "contactCenter", {"businessAttributes": []}),
    (f"/api/v2/me/devices/{DEVICE}/settings/tserver", "settings", []),
    ("/api/v2/workbins?fields=*", "workbins", []),
)
CHANNELS = ("calls", "devices", "channels", "chats", "emails", "interactions", "workitems", "workbins")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
async def http(served: System) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.gateway_url, timeout=20, verify=False) as client:
        yield client


@pytest.fixture(autouse=True)
async def logged_out(served: System) -> AsyncIterator[None]:
    """The agents' sessions end with each test; others share the system."""
    yield
    for user in ("alice", "bob"):
        async with agent(served, user) as one:
            await one.post("/me", {"operationName": "EndContactCenterSession"}, Prefer="wait=10")


async def start(alice: Agent, *channels: str) -> httpx.Response:
    body = {"operationName": "StartContactCenterSession", "channels": list(channels)}
    return await alice.post("/me", body, Prefer="wait=10")


async def test_the_desktop_of_web_services(served: System, http: httpx.AsyncClient) -> None:
    """It reads before it has signed in, and starts its session before it is subscribed."""
    refused = await http.get("/api/v2/me?subresources=features,devices,channels", headers=BY_SCRIPT)
    assert (refused.status_code, refused.json()["statusCode"]) == (403, 20)
    assert "WWW-Authenticate" not in refused.headers, "a browser would open its own window over the desktop"

    begun = await http.get("/api/v2/me?subresources=features,devices,channels", auth=("alice", "demo"))
    user = begun.json()["user"]
    [device] = user["devices"]
    assert (device["id"], device["phoneNumber"], device["deviceState"]) == (DEVICE, "15000", "Inactive")
    assert "userState" not in device
    assert [each["id"] for each in user["features"]] == ["api-voice"]
    assert (await http.get(user["features"][0]["uri"])).json()["feature"] == user["features"][0]
    assert user["channels"] == user["channelStates"]
    assert user["channels"][0]["userState"]["state"] == "LoggedOut"

    for path, name, value in READ_AT_START:
        assert (await http.get(path)).json()[name] == value, path
    services = (await http.get("/api/v2/services?fields=*")).json()["services"]
    assert [(each["type"], each["state"]) for each in services] == [("Provisioning", "Active"), ("Voice", "Active")]

    body = {"operationName": "StartContactCenterSession", "channels": ["voice", "chat"], "place": "unknown"}
    started = await http.post("/api/v2/me", json=body)
    answer = started.json()
    assert (started.status_code, answer["statusCode"]) == (200, 7)
    assert [each["channel"] for each in answer["failed"]] == ["multimedia"]
    assert answer["succeeded"] == [{"statusCode": 0, "channel": "voice"}]
    contact = (await http.get("/api/v2/contacts/alice?type=User")).json()["contact"]
    assert (contact["name"], contact["phoneNumbers"][0]["phoneNumber"]) == ("Alice Agent", "15000")

    alice = Agent(http, served.cometd_url)
    await alice.subscribe(*(f"/v2/me/{name}" for name in CHANNELS))
    at_start = "/api/v2/me/?subresources=devices,calls,channels,interactions,chats"
    user = (await http.get(at_start)).json()["user"]
    assert user["calls"] == []
    assert user["devices"][0]["userState"] == {
        "id": "9430250E-0A1B-421F-B372-F29E69366DED",
        "displayName": "Ready",
        "state": "Ready",
    }
    changed = await http.post("/api/v2/me/channels/voice", json={"operationName": "NotReady"})
    assert changed.json() == {"statusCode": 0}
    message = await alice.next_message()
    assert message["channel"] == "/v2/me/devices"
    assert message["data"]["messageType"] == "DeviceStateChangeMessage"
    assert "notificationType" not in message["data"]
    [device] = message["data"]["devices"]
    assert device["userState"]["state"] == "NotReady"
    assert device["capabilities"] == ["DoNotDisturbOn", "ForwardCallsOn"]
    assert device == (await http.get(f"/api/v2/me/devices/{DEVICE}")).json()["device"]
    assert (await http.get(device["voiceEnvironmentUri"])).json()["statusCode"] == 0


async def test_a_mobile_client_subscribes_first_and_hears_of_its_session(served: System) -> None:
    """It goes on only when all five subscriptions are confirmed."""
    five = [f"/v2/me/{name}" for name in ("devices", "channels", "calls", "chats", "emails")]
    async with agent(served, "alice", *five) as alice:
        assert (await start(alice, "voice")).json() == {"statusCode": 0}
        states = [(await alice.next_message())["data"]["devices"][0]["userState"] for _ in range(2)]
        assert states[0] == {"state": "LoggedIn"}
        assert states[1]["state"] == "Ready"
        listed = (await alice.http.get("/api/v2/settings/agent-states")).json()["settings"]
        assert [each["operationName"] for each in listed] == [
            "Ready", "NotReady", "AfterCallWork", "AuxWork", "Offline", "Lunch",
        ]  # fmt: skip
        for each in listed:
            assert (await alice.post("/me/channels/voice", {"operationName": each["operationName"]})).is_success
            state = (await alice.next_message())["data"]["devices"][0]["userState"]
            assert (state["id"], state["displayName"]) == (each["id"], each["displayName"])
            assert (state.get("workMode"), state.get("reason")) == (each.get("workMode"), each.get("reason"))


@pytest.mark.parametrize("pattern", ["/v2/me/*", "/v2/**", "/**"])
async def test_a_widget_and_a_desktop_with_one_pattern_hear_of_all_that_is_theirs(served: System, pattern: str) -> None:
    async with agent(served, "alice", pattern) as alice, agent(served, "bob") as bob:
        user = (await alice.http.get("/api/v2/me?subresources=*")).json()["user"]
        assert (user["calls"], user["settings"]) == ([], {})
        assert (await start(alice, "voice")).is_success
        # For all channels together, as a library for .NET sends it.
        assert (await alice.post("/me", {"operationName": "AfterCallWork"})).is_success
        kinds = [await alice.next_message() for _ in range(3)]
        assert [each["data"]["devices"][0]["userState"].get("workMode") for each in kinds] == [
            None, None, "AfterCallWork",
        ]  # fmt: skip
        [device] = (await bob.http.get("/api/v2/me/devices?fields=*")).json()["devices"]
        dialed = {"operationName": "Dial", "destination": {"phoneNumber": "15000"}}
        call = (await bob.post(f"/me/devices/{device['id']}/calls", dialed, Prefer="wait=10")).json()["call"]["id"]
        ringing = (await alice.next_message())["data"]["call"]
        assert (ringing["id"], ringing["state"]) == (call, "Ringing")
        assert set(ringing["capabilities"]) == {
            "Answer", "UpdateUserData", "DeleteUserData", "DeleteUserDataPair", "AttachUserData", "ClearCall",
        }  # fmt: skip
        # The agent declines, as a mobile client does it.
        assert (await alice.operate(call, "Hangup", prefer="wait=10"))["call"]["state"] == "Released"


async def test_both_desktops_write_to_a_ringing_call_at_once(served: System) -> None:
    """Each attaches a nested object about its own agent from within its handler of the first message."""
    async with agent(served, "alice") as alice, agent(served, "bob") as bob:
        device = (await alice.http.get("/api/v2/me/devices?fields=*")).json()["devices"][0]["id"]
        for _ in range(5):
            dialed = {"operationName": "Dial", "destination": {"phoneNumber": "15001"}}
            call = (await alice.post(f"/me/devices/{device}/calls", dialed, Prefer="wait=10")).json()["call"]["id"]
            parties = {f"WWE_PARTY_{one}": {"username": one, "path": f"/users/{one}"} for one in ("alice", "bob")}
            updates = [
                who.operate(call, "UpdateUserData", prefer="wait=10", userData={key: value})
                for who, (key, value) in zip((alice, bob), parties.items(), strict=True)
            ]
            assert [each["statusCode"] for each in await asyncio.gather(*updates)] == [0, 0]
            shown = (await bob.http.get(f"/api/v2/me/calls/{call}")).json()["call"]
            assert shown["userData"] == parties
            assert (await alice.operate(call, "Hangup", prefer="wait=10"))["statusCode"] == 0


async def test_a_page_that_is_loaded_again_finds_calls_and_state(served: System) -> None:
    async with agent(served, "alice") as alice:
        await start(alice, "voice")
        await alice.post("/me/channels/voice", {"operationName": "AuxWork"}, Prefer="wait=10")
        dialed = {"operationName": "Dial", "destination": {"phoneNumber": "15001"}, "userData": {"k": "v"}}
        call = (await alice.post(f"/me/devices/{DEVICE}/calls", dialed, Prefer="wait=10")).json()["call"]["id"]
        again = await start(alice, "voice")
        assert again.json() == {"statusCode": 0}
        user = (await alice.http.get("/api/v2/me?subresources=devices,calls")).json()["user"]
        assert user["devices"][0]["userState"]["workMode"] == "AuxWork"
        assert [(each["id"], each["userData"]) for each in user["calls"]] == [(call, {"k": "v"})]
        for path in (user["calls"][0]["path"], user["devices"][0]["path"], user["path"]):
            assert (await alice.http.get(f"/api/v2{path}")).json()["statusCode"] == 0, path
        assert (await alice.operate(call, "Hangup", prefer="wait=10"))["statusCode"] == 0


async def test_a_device_that_is_not_to_be_disturbed(served: System) -> None:
    async with agent(served, "alice", "/v2/me/devices") as alice:
        refused = await alice.post(f"/me/devices/{DEVICE}", {"operationName": "DoNotDisturbOn"}, Prefer="wait=10")
        assert (refused.status_code, refused.json()["statusCode"]) == (400, 2)
        await start(alice, "voice")
        for name in ("DoNotDisturbOn", "DoNotDisturbOff"):
            assert (await alice.post(f"/me/devices/{DEVICE}", {"operationName": name})).is_success
        forward = {"operationName": "ForwardCallsOn", "destination": {"phoneNumber": "15009"}}
        assert (await alice.post(f"/me/devices/{DEVICE}", forward)).is_success
        told = [await alice.next_message() for _ in range(6)]
        assert (told[0]["data"]["messageType"], told[0]["data"]["deviceUri"][-36:]) == ("ErrorMessage", DEVICE)
        shown = [each["data"]["devices"][0] for each in told[3:]]
        assert [each["doNotDisturb"] for each in shown] == ["On", "Off", "Off"]
        assert [each.get("forwardCallsTo") for each in shown] == [None, None, "15009"]
        assert shown[2]["capabilities"] == ["DoNotDisturbOn", "ForwardCallsOff"]


async def test_who_signs_out_has_neither_a_login_nor_a_session_left(served: System) -> None:
    async with agent(served, "alice", "/v2/me/calls") as alice:
        connect = {"channel": "/meta/connect", "clientId": alice.client_id, "connectionType": "long-polling"}
        waiting = asyncio.create_task(alice.bayeux(connect))
        left = await alice.http.post("/api/v2/logout")
        assert (left.json(), "Max-Age=0" in left.headers["Set-Cookie"]) == ({"statusCode": 0}, True)
        [reply] = await waiting
        assert (reply["successful"], reply["advice"]["reconnect"]) == (False, "handshake")
        assert (await alice.http.get("/api/v2/me")).status_code == 401
