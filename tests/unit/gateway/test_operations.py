"""Each parser accepts exactly the parameters that the documents describe."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from calltag.core.domain.operations import ChangeAgentState
from calltag.core.identity.directory import demo_directory
from calltag.gateway.errors import OutOfRange, ParameterMissing
from calltag.gateway.operations import (
    CALL_OPERATIONS,
    CHANNEL_OPERATIONS,
    DEVICE_OPERATIONS,
    DIAL_OPERATIONS,
    SESSION_OPERATIONS,
    Operations,
    SessionParser,
    unserved_channels,
)
from calltag.gateway.requests import Body, UserDataLimits
from calltag.gateway.switch_events import SWITCH_EVENTS, SwitchLimits, switch_events

LIMITS, DIRECTORY = UserDataLimits(), demo_directory()
OF_SWITCH = SwitchLimits(max_events=1, max_parties=2, user_data=LIMITS)
OWNER = DIRECTORY.by_number["15000"]
READ: dict[str, tuple[Any, Callable[[Body], object]]] = {
    **{
        each.name: (each, partial(lambda parse, body: parse(body, LIMITS, DIRECTORY), each.parse))
        for each in CALL_OPERATIONS
    },
    **{
        each.name: (each, partial(lambda parse, body: parse(body, OWNER.user, DIRECTORY), each.parse))
        for each in SESSION_OPERATIONS
    },
    **{
        each.name: (each, partial(lambda parse, body: parse(body, OWNER.device.id, DIRECTORY, LIMITS), each.parse))
        for each in DEVICE_OPERATIONS
    },
    **{
        each.name: (each, partial(lambda parse, body: parse(body, OWNER.device, DIRECTORY, LIMITS), each.parse))
        for each in DIAL_OPERATIONS
    },
    **{each.name: (each, lambda body: switch_events(body, DIRECTORY, OF_SWITCH)[0].action) for each in SWITCH_EVENTS},
}
PARTY = {"phoneNumber": "15000", "state": "Held"}
NOT_TAKEN: list[tuple[str, str, object]] = [
    ("AttachUserData", "userData", []),
    ("UpdateUserData", "userData", "a"),
    ("DeleteUserDataPair", "key", ""),
    ("DeleteUserDataPair", "key", 7),
    ("SendDtmf", "digits", "x"),
    ("SendDtmf", "digits", "1" * 65),
    ("StartContactCenterSession", "channels", []),
    ("StartContactCenterSession", "channels", ["chat"]),
    ("StartContactCenterSession", "channels", ["voice", 7]),
    ("StartContactCenterSession", "channels", ["voice"] * 9),
    ("ForwardCallsOn", "destination", {"phoneNumber": "x!"}),
    ("InitiateTransfer", "destination", {"phoneNumber": "x!"}),
    ("SingleStepTransfer", "userData", []),
    ("CompleteTransfer", "consultCallUri", 7),
    ("SwapCalls", "otherCallUri", ""),
    ("RemoveParticipantFromConference", "participant", ""),
    ("SetCallDisposition", "disposition", ""),
    ("CallsMerged", "mergedId", ""),
    ("CallsMerged", "parties", []),
    ("CallStarted", "partOf", "a b"),
    ("Dial", "destination", "15001"),
    ("Dial", "destination", {}),
    ("Dial", "destination", {"phoneNumber": ""}),
    ("Dial", "destination", {"phoneNumber": "1" * 65}),
    ("Dial", "destination", {"phoneNumber": "call 15001!"}),
    ("SendDtmf", "digits", "1 2"),
    ("Dial", "userData", []),
    *((name, "id", value) for name in SWITCH_EVENTS.names() for value in ("", "a b", "1" * 65, 7)),
    *((name, "eventId", value) for name in SWITCH_EVENTS.names() for value in ("", "1" * 256, 7)),
    *((name, "parties", [1]) for name in ("CallStarted", "PartyChanged")),
    ("CallStarted", "parties", []),
    ("PartyChanged", "parties", {}),
    *((name, "parties", [{"phoneNumber": "15000"}]) for name in ("CallStarted", "PartyChanged")),
    *((name, "parties", [{"state": "Held"}]) for name in ("CallStarted", "PartyChanged")),
    ("PartyChanged", "parties", [PARTY | {"state": "Gone"}]),
    ("PartyChanged", "parties", [PARTY | {"phoneNumber": "1" * 65}]),
    ("PartyChanged", "parties", [PARTY | {"mute": "on"}]),
    *(("CallStarted", name, "1" * 65) for name in ("connId", "callType", "dnis", "ani")),
    *(("CallStarted", "beganAt", value) for value in (-1, 1 << 48, "1")),
    ("CallStarted", "userData", []),
]


def check(name: str, body: Mapping[str, object]) -> None:
    schema = READ[name][0].schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(body)


@pytest.mark.parametrize("name", READ)
def test_the_example_is_taken(name: str) -> None:
    operation, read = READ[name]
    check(name, operation.request())
    assert read(operation.request()) is not None


@pytest.mark.parametrize("name", READ)
def test_what_is_required_is_missed(name: str) -> None:
    operation, read = READ[name]
    assert set(operation.required) <= operation.example.keys()
    for missing in operation.required:
        body = {key: value for key, value in operation.request().items() if key != missing}
        with pytest.raises(ValidationError, match=missing):
            check(name, body)
        with pytest.raises(ParameterMissing, match=f"^{missing} is missing$"):
            read(body)


@pytest.mark.parametrize(("name", "parameter", "value"), NOT_TAKEN)
def test_what_the_schema_refuses_the_parser_refuses(name: str, parameter: str, value: object) -> None:
    operation, read = READ[name]
    body = {**operation.request(), parameter: value}
    with pytest.raises(ValidationError):
        check(name, body)
    with pytest.raises((OutOfRange, ParameterMissing), match=parameter):
        read(body)


def test_an_unknown_operation_is_answered_with_the_known_ones() -> None:
    with pytest.raises(OutOfRange, match="known are AttachUserData, "):
        CALL_OPERATIONS.parser_of({"operationName": "Dial"})
    with pytest.raises(ParameterMissing, match="operationName"):
        CALL_OPERATIONS.parser_of({})
    with pytest.raises(
        OutOfRange, match="known are CallStarted, PartyChanged, CallsMerged, RecordingChanged, CallEnded"
    ):
        SWITCH_EVENTS.parser_of({"eventType": "Dial"})
    with pytest.raises(ParameterMissing, match="eventType"):
        SWITCH_EVENTS.parser_of({})


@pytest.mark.parametrize("operations", [SESSION_OPERATIONS, CHANNEL_OPERATIONS])
def test_an_unknown_state_is_answered_with_those_of_the_directory(operations: Operations[SessionParser]) -> None:
    body = {"operationName": "Dinner"}
    with pytest.raises(OutOfRange, match=r"known are StartContactCenterSession, .*Ready, .*Lunch"):
        operations.parser_of(body)(body, OWNER.user, DIRECTORY)
    body = {"operationName": "Lunch"}
    assert operations.parser_of(body)(body, OWNER.user, DIRECTORY) == ChangeAgentState(DIRECTORY.agent_states["Lunch"])


def test_channels_that_are_not_served_are_one() -> None:
    """Web Services calls all digital channels together multimedia."""
    assert unserved_channels({"channels": ["voice", "chat", "email"]}) == ["multimedia"]
    assert unserved_channels({"channels": ["voice"]}) == unserved_channels({"operationName": "Ready"}) == []
    with pytest.raises(OutOfRange, match="has to name voice"):
        READ["StartContactCenterSession"][1]({"channels": ["chat"]})
