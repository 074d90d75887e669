"""The page of AttachUserData in the API reference, word for word, and what follows from it."""

import json
from datetime import datetime
from typing import Any

from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.system import System

SYSTEMS = ("one-process", "three-processes", "six-processes")
CALL = "01RCC3N118B1V0SL8O7GK2LAES00000R"
PAGE = """
{ "data":{ "notificationType":"AttachedDataChanged",
      "call":{ "id":"01RCC3N118B1V0SL8O7GK2LAES00000R", "state":"Dialing",
         "callUuid":"01RCC3N118B1V0SL8O7GK2LAES00000R", "connId":"007102719818001b",
         "deviceUri":"http://127.0.0.1:8080/api/v2/devices/631608b3-ceb1-472b-ba05-2ae39555b0d1",
         "participants":[
            { "e164Number":"", "formattedPhoneNumber":"15001", "phoneNumber":"15001", "digits":"15001" } ],
         "dnis":"15001", "callType":"Internal",
         "capabilities":[
            "UpdateUserData", "SendDtmf", "AttachUserData", "DeleteUserDataPair", "DeleteUserData", "Hangup" ],
         "userData":{ "AccountNumber":"12345" }, "duration":"63", "mute":"Off", "supervisorListeningIn":false,
         "monitoredUserMuted":false, "monitoring":false,
         "uri":"http://127.0.0.1:8080/api/v2/me/calls/01RCC3N118B1V0SL8O7GK2LAES00000R",
         "path":"/calls/01RCC3N118B1V0SL8O7GK2LAES00000R" },
      "phoneNumber":"15000", "messageType":"CallStateChangeMessage" },
   "channel":"/v2/me/calls" }
"""


def timestamp_s(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def started(call: str = CALL) -> dict[str, Any]:
    return {
        "eventId": f"started-{call}",
        "eventType": "CallStarted",
        "id": call,
        "connId": "007102719818001b",
        "callType": "Internal",
        "dnis": "15001",
        "parties": [{"phoneNumber": "15000", "state": "Dialing"}, {"phoneNumber": "15001", "state": "Ringing"}],
    }


async def begin(switch: Agent, call: str, *listeners: Agent) -> None:
    for listener in listeners:
        listener.about = call
    answer = await switch.post("/switch/events", started(call), Prefer="wait=10")
    assert answer.json() == {"statusCode": 0}


async def test_the_page_and_what_follows(system: System) -> None:
    async with (
        agent(system, "switch") as switch,
        agent(system, "alice", "/v2/me/calls") as alice,
        agent(system, "bob", "/v2/me/calls") as bob,
    ):
        await begin(switch, CALL, alice, bob)
        assert (await alice.next_message())["data"]["notificationType"] == "StatusChange"
        assert (await bob.next_message())["data"]["call"]["state"] == "Ringing"

        assert await alice.operate(CALL, "AttachUserData", userData={"AccountNumber": "12345"}) == {"statusCode": 0}
        message = await alice.next_message()
        extra = message.pop("ext")["calltag"]
        processing = message["data"].pop("metrics")["eventProcessing"]
        page = json.loads(PAGE.replace("http://127.0.0.1:8080", system.gateway_url))
        page["data"]["call"]["duration"] = message["data"]["call"]["duration"]
        assert message == page
        assert processing["serverGenerationTimestamp"] // 1000 == timestamp_s(extra["acceptedAt"])
        assert 0 <= processing["nodeProcessingTimeNanos"] <= processing["serverProcessingTimeTotalMs"] * 1e6 + 1e6
        assert extra["version"] == 2
        assert set(extra) == {"eventId", "version", "acceptedAt", "replayId"}

        seen = (await bob.next_message())["data"]
        assert (seen["phoneNumber"], seen["call"]["state"]) == ("15001", "Ringing")
        assert seen["call"]["participants"][0]["phoneNumber"] == "15000"
        assert seen["call"]["deviceUri"] != message["data"]["call"]["deviceUri"]
        assert "Answer" in seen["call"]["capabilities"]
        assert seen["call"]["userData"] == {"AccountNumber": "12345"}

        for name, parameters, expected in (
            ("AttachUserData", {"userData": {"AccountNumber": "67890"}}, {"AccountNumber": ["12345", "67890"]}),
            ("UpdateUserData", {"userData": {"AccountNumber": "1"}}, {"AccountNumber": "1"}),
            ("AttachUserData", {"userData": {"Other": None}}, {"AccountNumber": "1", "Other": None}),
            ("DeleteUserDataPair", {"key": "AccountNumber"}, {"Other": None}),
            ("DeleteUserData", {}, None),
        ):
            assert await alice.operate(CALL, name, **parameters) == {"statusCode": 0}
            for each in (alice, bob):
                told = (await each.next_message())["data"]
                assert told["notificationType"] == "AttachedDataChanged"
                assert told["call"].get("userData") == expected
                assert ("userData" in told["call"]) == (expected is not None)


async def test_extensions_of_the_switch_are_in_the_messages_about_its_event(system: System, call_id: str) -> None:
    extensions = {"BusinessCall": 1, "OriginationDN": "15000", "nested": {"a": [1, None]}}
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        alice.about = call_id
        begun = started(call_id) | {"extensions": extensions, "userData": {"a": 1}}
        assert (await switch.post("/switch/events", begun)).json() == {"statusCode": 0}
        assert (await alice.next_message())["data"]["extensions"] == extensions
        await alice.operate(call_id, "AttachUserData", userData={"a": 2})
        assert "extensions" not in (await alice.next_message())["data"]
        merged = {"eventId": f"second-{call_id}", "eventType": "CallStarted", "id": "second", "partOf": call_id,
                  "parties": [{"phoneNumber": "15001", "state": "Ringing"}], "userData": {"b": 1}}  # fmt: skip
        over = {"eventId": f"merged-{call_id}", "eventType": "CallsMerged", "id": call_id, "mergedId": "second",
                "extensions": {"BusinessCall": 0}}  # fmt: skip
        await switch.post("/switch/events", [merged, over])
        joined, data = await alice.next_message(), await alice.next_message()
        assert (joined["data"]["notificationType"], joined["data"]["extensions"]) == (
            "ParticipantsUpdated", {"BusinessCall": 0},
        )  # fmt: skip
        assert (data["data"]["notificationType"], "extensions" in data["data"]) == ("AttachedDataChanged", False)


async def test_a_recording_is_told_to_all_parties(system: System, call_id: str) -> None:
    async with (
        agent(system, "switch") as switch,
        agent(system, "alice", "/v2/me/calls") as alice,
        agent(system, "bob", "/v2/me/calls") as bob,
    ):
        await begin(switch, call_id, alice, bob)
        fact = {
            "eventId": f"r-{call_id}",
            "eventType": "RecordingChanged",
            "id": call_id,
            "recordingState": "Recording",
        }
        await switch.post("/switch/events", fact)
        for each in (alice, bob):
            assert "recordingState" not in (await each.next_message())["data"]["call"]
            told = (await each.next_message())["data"]
            assert (told["notificationType"], told["call"]["recordingState"]) == (
                "CallRecordingStateChange",
                "Recording",
            )


async def test_what_changes_nothing_is_told_to_nobody(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        await begin(switch, call_id, alice)
        await alice.next_message()
        for name, parameters in (
            ("AttachUserData", {"userData": {}}),
            ("UpdateUserData", {"userData": {}}),
            ("DeleteUserDataPair", {"key": "none"}),
            ("AttachUserData", {"userData": {"last": 1}}),
        ):
            assert await alice.operate(call_id, name, **parameters) == {"statusCode": 0}
        message = await alice.next_message()
        assert message["data"]["call"]["userData"] == {"last": 1}
        assert message["ext"]["calltag"]["version"] == 2


async def test_the_switch_is_heard_once(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        await begin(switch, call_id, alice)
        await begin(switch, call_id, alice)
        await alice.operate(call_id, "AttachUserData", userData={"a": 1})
        versions = [(await alice.next_message())["ext"]["calltag"]["version"] for _ in range(2)]
        assert versions == [1, 2]


async def test_state_is_judged_in_the_order_of_the_operations(system: System, call_id: str) -> None:
    async with (
        agent(system, "switch") as switch,
        agent(system, "alice", "/v2/me/calls") as alice,
        agent(system, "bob") as bob,
    ):
        await begin(switch, call_id, alice)
        assert await bob.operate(call_id, "Answer", prefer="wait=10") | {"call": 0} == {"statusCode": 0, "call": 0}
        for name, parameters in (
            ("Hold", {}),
            ("Retrieve", {}),
            ("AttachUserData", {"userData": {"k": 1}}),
            ("DeleteUserDataPair", {"key": "k"}),
            ("Retrieve", {}),
        ):
            assert (await alice.operate(call_id, name, **parameters))["statusCode"] == 0
        told = [await alice.next_message() for _ in range(7)]
        assert [each["data"]["notificationType"] for each in told] == [
            "StatusChange", "StatusChange", "StatusChange", "StatusChange",
            "AttachedDataChanged", "AttachedDataChanged", "OperationRefused",
        ]  # fmt: skip
        refusal = told[-1]["data"]
        assert refusal["messageType"] == "ErrorMessage"
        assert (refusal["operationName"], refusal["callId"], refusal["statusCode"]) == ("Retrieve", call_id, 2)
        assert refusal["operationId"]
        assert "not possible" in refusal["statusMessage"]
        answer = await alice.operate(call_id, "Retrieve", prefer="wait=10")
        assert answer["statusCode"] == 2


async def test_an_idempotency_key_takes_effect_once(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "alice") as alice:
        await begin(switch, call_id, alice)
        body = {"operationName": "AttachUserData", "userData": {"a": 1}}
        headers = {"Idempotency-Key": f"key-{call_id}"}
        answers = [await alice.post(f"/me/calls/{call_id}", body, **headers) for _ in range(3)]
        assert [each.json() for each in answers] == [{"statusCode": 0}] * 3
        after = await alice.operate(call_id, "AttachUserData", prefer="wait=10", userData={"a": 2})
        assert after["call"]["userData"] == {"a": [1, 2]}
        other = await alice.post(f"/me/calls/{call_id}", body | {"userData": {"a": 3}}, **headers)
        assert (other.status_code, other.json()["statusCode"]) == (409, 18)


async def test_dialing_a_device_and_a_number_outside(system: System) -> None:
    async with agent(system, "alice", "/v2/me/calls") as alice, agent(system, "bob") as bob:
        devices = (await alice.http.get("/api/v2/me/devices", params={"fields": "*"})).json()["devices"]
        path = f"/me/devices/{devices[0]['id']}/calls"
        for number, kind in (("15001", "Internal"), ("5551212", "Outbound")):
            body = {"operationName": "Dial", "destination": {"phoneNumber": number}, "userData": {"why": "test"}}
            answer = (await alice.post(path, body, Prefer="wait=10")).json()
            alice.about = answer["call"]["id"]
            assert (answer["call"]["callType"], answer["call"]["userData"]) == (kind, {"why": "test"})
            assert (await alice.next_message())["data"]["call"] == answer["call"]
            mine = (await alice.http.get("/api/v2/me/calls", params={"fields": "id"})).json()["calls"]
            assert {"id": answer["call"]["id"]} in mine
            if kind == "Internal":
                assert (await bob.http.get(f"/api/v2/me/calls/{answer['call']['id']}")).json()["call"][
                    "state"
                ] == "Ringing"
            await alice.operate(answer["call"]["id"], "Hangup")
            assert (await alice.next_message())["data"]["call"]["state"] == "Released"
            late = await alice.operate(answer["call"]["id"], "AttachUserData", userData={"a": 1})
            assert late["statusCode"] == 2


async def test_a_contact_centre_session(system: System) -> None:
    async with agent(system, "carol", "/v2/me/devices") as carol:
        for name, states in (
            ("EndContactCenterSession", [None]),
            ("StartContactCenterSession", ["LoggedIn", "Ready"]),
            ("EndContactCenterSession", [None]),
        ):
            answer = await carol.post("/me", {"operationName": name, "channels": ["voice"]})
            assert answer.json() == {"statusCode": 0}
            for state in states:
                data = (await carol.next_message())["data"]
                assert data["messageType"] == "DeviceStateChangeMessage"
                [device] = data["devices"]
                assert device.get("userState", {}).get("state") == state
                assert device["deviceState"] == ("Active" if state else "Inactive")


async def test_no_value_of_user_data_is_logged(system: System, call_id: str) -> None:
    secret = "MOST-SECRET-VALUE-4711"
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        await begin(switch, call_id, alice)
        await alice.next_message()
        await alice.operate(call_id, "AttachUserData", prefer="wait=10", userData={"Key": secret})
        assert (await alice.next_message())["data"]["call"]["userData"] == {"Key": secret}
        await alice.operate(call_id, "AttachUserData", prefer="wait=10", userData={"Key": [secret * 4000]})
        await alice.post(f"/me/calls/{call_id}", {"operationName": secret})
    await eventually(lambda: '"request"' in system.logs())
    assert secret not in system.logs()
