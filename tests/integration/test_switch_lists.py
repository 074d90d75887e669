"""Lists of facts: all, some or none of them take effect."""

from pathlib import Path
from typing import Any

from parts.in_process import InProcess, ended, in_process, started


async def test_some_refused_are_a_partial_success_that_names_them(gateway: InProcess) -> None:
    async with gateway.working():
        answer = await gateway.send_facts(started("C", "15000"), ended("D"))
        assert answer.status_code == 207
        assert answer.json() == {
            "statusCode": 7,
            "statusMessage": "1 of 2 events were refused: event 1 (ended-D): 6, there is no call D",
            "errors": [{"index": 1, "eventId": "ended-D", "statusCode": 6, "statusMessage": "there is no call D"}],
        }
        assert (await gateway.request("alice", "GET", "/me/calls/C")).status_code == 200


async def test_all_refused_have_the_code_of_the_first(gateway: InProcess) -> None:
    async with gateway.working():
        answer = await gateway.send_facts(ended("C"), ended("D"))
        assert (answer.status_code, answer.json()["statusCode"]) == (404, 6)
        assert "2 of 2 events" in answer.json()["statusMessage"]
        assert [each["eventId"] for each in answer.json()["errors"]] == ["ended-C", "ended-D"]
        one = await gateway.send_facts(ended("C"))
        refusal = {"statusCode": 6, "statusMessage": "there is no call C"}
        assert one.status_code == 404
        assert one.json() == {**refusal, "errors": [{"index": 0, "eventId": "ended-C", **refusal}]}


async def test_all_events_that_cannot_be_read_are_named(gateway: InProcess) -> None:
    bad: list[Any] = [
        ended("C"),
        {"eventType": "CallEnded", "id": "C"},
        ended("C"),
        7,
        ended("a b") | {"eventId": "e" * 256},
    ]
    async with gateway.working():
        refused = await gateway.send_facts(*bad)
        assert (refused.status_code, refused.json()["statusMessage"]) == (400, "event 1: eventId is missing")
        errors = refused.json()["errors"]
        assert [(each["index"], each["statusCode"]) for each in errors] == [(1, 1), (3, 10), (4, 10)]
        assert all("eventId" not in each for each in errors)
        named = (await gateway.send_facts(ended("a b"), ended("C"))).json()["errors"]
        assert [each.get("eventId") for each in named] == ["ended-a b"]


async def test_what_met_no_call_applies_when_it_is_told_again(gateway: InProcess) -> None:
    joined = {"eventId": "j", "eventType": "PartyChanged", "id": "D",
              "parties": [{"phoneNumber": "15001", "state": "Ringing"}]}  # fmt: skip
    async with gateway.working():
        assert (await gateway.send_facts(started("C", "15000"), joined)).json()["statusCode"] == 7
        assert (await gateway.send_facts(started("D", "15000"))).json() == {"statusCode": 0}
        assert (await gateway.send_facts(started("C", "15000"), joined)).json() == {"statusCode": 0}
        assert (await gateway.request("bob", "GET", "/me/calls/D")).json()["call"]["state"] == "Ringing"


async def test_an_answer_to_the_switch_names_no_operation(gateway: InProcess) -> None:
    async with gateway.working():
        told = await gateway.send_facts(started("C", "15000"))
        assert (told.status_code, told.headers["Preference-Applied"]) == (200, "wait=10")
        assert "Operation-Id" not in told.headers
        asked = await gateway.request("alice", "POST", "/me/calls/C", {"operationName": "Hold"})
        assert asked.headers["Operation-Id"]


async def test_who_called_from_outside(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(
            started("in", "0891234", "15000", callType="Inbound"),
            started("said", "0891234", "15000", callType="Inbound", ani="0899999"),
            started("out", "15000", "0891234", callType="Outbound"),
            started("inside", "15001", "15000"),
        )
        listed = (await gateway.request("alice", "GET", "/me/calls?fields=*")).json()["calls"]
        assert {each["id"]: each.get("ani") for each in listed} == {
            "in": "0891234", "said": "0899999", "out": None, "inside": None,
        }  # fmt: skip


async def test_extensions_are_bounded(gateway: InProcess) -> None:
    async with gateway.working():
        for extensions, text in (([], "must be a JSON object"), ({"x": "y" * 4_096}, "may carry 4096")):
            refused = await gateway.send_facts(started("C", "15000", extensions=extensions))
            assert (refused.status_code, refused.json()["statusCode"]) == (400, 10)
            assert text in refused.json()["statusMessage"]
        assert (await gateway.send_facts(started("C", "15000", extensions=None))).json() == {"statusCode": 0}


async def test_recordings(gateway: InProcess) -> None:
    async with gateway.working():
        await gateway.send_facts(started("C", "15000", "15001"))
        assert "recordingState" not in (await gateway.request("bob", "GET", "/me/calls/C")).json()["call"]
        for number, state in enumerate(("Recording", "Paused", "Recording", "Stopped")):
            fact = {"eventId": f"r{number}", "eventType": "RecordingChanged", "id": "C", "recordingState": state}
            assert (await gateway.send_facts(fact)).json() == {"statusCode": 0}
            for user in ("alice", "bob"):
                call = (await gateway.request(user, "GET", "/me/calls/C")).json()["call"]
                assert call["recordingState"] == state
        wrong = {"eventId": "r9", "eventType": "RecordingChanged", "id": "C"}
        for more, text in (({}, "recordingState is missing"), ({"recordingState": "On"}, "known are Stopped, ")):
            refused = await gateway.send_facts(wrong | more)
            assert text in refused.json()["statusMessage"]
        await gateway.send_facts(ended("C"))
        late = await gateway.send_facts(wrong | {"recordingState": "Paused"})
        assert (late.status_code, late.json()["statusCode"]) == (400, 2)


async def test_the_parties_of_a_call_are_bounded(tmp_path: Path) -> None:
    joined = {"eventId": "j", "eventType": "PartyChanged", "id": "C",
              "parties": [{"phoneNumber": "15002", "state": "Ringing"}]}  # fmt: skip
    async with in_process(tmp_path, worker={"max_call_parties": 2}) as gateway, gateway.working():
        assert (await gateway.send_facts(started("C", "15000", "15001"))).json() == {"statusCode": 0}
        refused = await gateway.send_facts(joined)
        assert (refused.status_code, refused.json()["statusCode"]) == (400, 10)
        assert "would have 3 of them; a call may have 2" in refused.json()["statusMessage"]
        refused = await gateway.send_facts(started("D", "15000", "15001", "15002"))
        assert (refused.status_code, refused.json()["statusCode"]) == (400, 10)
        assert refused.json()["statusMessage"] == "parties has 3 entries; at most 2 are allowed"


async def test_a_call_may_begin_with_all_its_parties(gateway: InProcess) -> None:
    async with gateway.working():
        answer = await gateway.send_facts(started("C", "15000", *(f"0{number}" for number in range(63))))
        assert answer.json() == {"statusCode": 0}
        call = (await gateway.request("alice", "GET", "/me/calls/C")).json()["call"]
        assert len(call["participants"]) == 63


async def test_a_party_keeps_its_mute_until_the_switch_reports_another(gateway: InProcess) -> None:
    seen = []
    reports: list[dict[str, object]] = [{"mute": "On"}, {}, {"mute": None}, {"mute": "Off"}]
    async with gateway.working():
        await gateway.send_facts(started("C", "15000"))
        for number, mute in enumerate(reports):
            party = {"phoneNumber": "15000", "state": "Held", **mute}
            changed = {"eventId": f"m{number}", "eventType": "PartyChanged", "id": "C", "parties": [party]}
            assert (await gateway.send_facts(changed)).json() == {"statusCode": 0}
            seen.append((await gateway.request("alice", "GET", "/me/calls/C")).json()["call"]["mute"])
    assert seen == ["On", "On", "On", "Off"]
