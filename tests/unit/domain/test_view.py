"""The call resource is a view from a leg."""

from dataclasses import replace

from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import OperationRefused
from calltag.core.domain.ids import CallId, ConnId, DeviceId, EventId, UserId
from calltag.core.domain.resource_view import call_resource
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import UserData

ALICE = Leg("15000", LegState.DIALING, DeviceId("631608b3-ceb1-472b-ba05-2ae39555b0d1"), UserId("alice"))
BOB = Leg("15001", LegState.RINGING, DeviceId("d2"), UserId("bob"), muted=True)
CALL = Call(
    CallId("01RCC3N118B1V0SL8O7GK2LAES00000R"),
    ConnId("007102719818001b"),
    CallType.INTERNAL,
    "15001",
    began_at_ms=1_000,
    legs=(ALICE, BOB),
    user_data=UserData({"AccountNumber": ("12345",)}),
)
BASE = "http://127.0.0.1:8080"


def test_the_documented_sample() -> None:
    assert call_resource(CALL, ALICE, 64_999, BASE) == {
        "id": "01RCC3N118B1V0SL8O7GK2LAES00000R",
        "state": "Dialing",
        "callUuid": "01RCC3N118B1V0SL8O7GK2LAES00000R",
        "connId": "007102719818001b",
        "deviceUri": "http://127.0.0.1:8080/api/v2/devices/631608b3-ceb1-472b-ba05-2ae39555b0d1",
        "participants": [
            {"e164Number": "", "formattedPhoneNumber": "15001", "phoneNumber": "15001", "digits": "15001"}
        ],
        "dnis": "15001",
        "callType": "Internal",
        "capabilities": [
            "UpdateUserData",
            "SendDtmf",
            "AttachUserData",
            "DeleteUserDataPair",
            "DeleteUserData",
            "Hangup",
        ],
        "userData": {"AccountNumber": "12345"},
        "duration": "63",
        "mute": "Off",
        "supervisorListeningIn": False,
        "monitoredUserMuted": False,
        "monitoring": False,
        "uri": "http://127.0.0.1:8080/api/v2/me/calls/01RCC3N118B1V0SL8O7GK2LAES00000R",
        "path": "/calls/01RCC3N118B1V0SL8O7GK2LAES00000R",
    }


def test_the_other_party_sees_its_own_leg_and_the_same_user_data() -> None:
    seen = call_resource(CALL, BOB, 0, BASE)
    assert (seen["state"], seen["mute"], seen["duration"]) == ("Ringing", "On", "0")
    assert seen["deviceUri"] == f"{BASE}/api/v2/devices/d2"
    assert seen["participants"] == [
        {"e164Number": "", "formattedPhoneNumber": "15000", "phoneNumber": "15000", "digits": "15000"}
    ]
    assert seen["userData"] == {"AccountNumber": "12345"}


def test_without_user_data_there_is_no_such_property() -> None:
    assert "userData" not in call_resource(replace(CALL, user_data=UserData()), ALICE, 0, BASE)


def test_a_number_outside_has_no_device() -> None:
    outside = Leg("0891", LegState.ESTABLISHED)
    assert "deviceUri" not in call_resource(replace(CALL, legs=(outside,)), outside, 0, BASE)


def test_who_left_is_no_participant_until_all_have() -> None:
    gone = replace(BOB, state=LegState.RELEASED)
    assert call_resource(replace(CALL, legs=(ALICE, gone)), ALICE, 0, BASE)["participants"] == []
    released = replace(ALICE, state=LegState.RELEASED)
    over = replace(CALL, legs=(released, gone))
    participants = call_resource(over, released, 0, BASE)["participants"]
    assert isinstance(participants, list)
    assert len(participants) == 1
    assert call_resource(over, released, 0, BASE)["capabilities"] == []


def test_a_refusal_is_for_its_sender() -> None:
    refusal = OperationRefused(EventId("e"), UserId("alice"), "Hold", None, StatusCode.INVALID_STATE, "no", 1)
    assert refusal.recipients == ("alice",)
