"""Events of the telephony switch: facts about calls that calltag did not dial itself."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import orjson

from calltag.core.contracts.operations import OperationReply
from calltag.core.domain.call import CallType, Leg, LegState, RecordingState
from calltag.core.domain.ids import CallId, ConnId, OperationId, new_conn_id, related_call_id, switch_operation_id
from calltag.core.domain.operations import CallEnded, CallsMerged, CallStarted, PartyChanged, RecordingChanged
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import JsonValue, Pair
from calltag.core.identity.directory import Directory
from calltag.gateway.errors import ApiError, EventError, EventsRefused, OutOfRange, ParameterMissing
from calltag.gateway.operations import USER_DATA, Operations, OperationType, Schema, known
from calltag.gateway.requests import (
    Body,
    UserDataLimits,
    optional_text,
    required_list,
    required_object,
    required_text,
    user_data,
)

_MAX_MESSAGE_LENGTH: Final = 4_000
_MAX_TIME_MS: Final = 1 << 48
_MAX_ID_BYTES: Final = 255
_MAX_TEXT_BYTES: Final = 64
_MAX_EXTENSIONS_BYTES: Final = 4_096
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]+")

SwitchAction = CallStarted | PartyChanged | CallsMerged | RecordingChanged | CallEnded


@dataclass(frozen=True, slots=True)
class SwitchLimits:
    """Limits of one request: events, and parties and user data of each event."""

    max_events: int
    max_parties: int
    user_data: UserDataLimits


EventParser = Callable[[Body, OperationId, Directory, SwitchLimits], SwitchAction]


@dataclass(frozen=True, slots=True)
class SwitchEvent:
    """A parsed event as an operation; the same event id yields the same operation id."""

    event_id: str
    operation_id: OperationId
    call_id: CallId
    action: SwitchAction
    extensions: tuple[Pair, ...] = ()


def switch_events(body: JsonValue, directory: Directory, limits: SwitchLimits) -> tuple[SwitchEvent, ...]:
    """Parse the events of a request: one object, or a list of them. Raises ParameterMissing, OutOfRange."""
    given = body if isinstance(body, list) else [body]
    if len(given) > limits.max_events:
        raise OutOfRange(f"the body has {len(given)} events; a request may carry {limits.max_events}")
    events, refused, first = list[SwitchEvent](), list[EventError](), None
    for position, each in enumerate(given):
        try:
            events.append(_event(each, directory, limits))
        except ApiError as error:
            first = first or error
            event_id = each.get("eventId") if isinstance(each, dict) else None
            refused.append(_refusal(position, event_id, error.code, error.message))
    if first is not None:
        where = f"event {refused[0]['index']}: " if isinstance(body, list) else ""
        raise type(first)(f"{where}{first.message}", errors=refused)
    return tuple(events)


def ignored_members(body: JsonValue) -> Sequence[str]:
    """Return the members of events that their types do not have."""
    given = body if isinstance(body, list) else [body]
    return [name for each in given if isinstance(each, dict) for name in SWITCH_EVENTS.ignored(each)]


def _refusal(position: int, event_id: object, code: StatusCode, text: str) -> EventError:
    refusal: EventError = {"index": position, "statusCode": int(code), "statusMessage": text}
    if isinstance(event_id, str) and len(event_id.encode()) <= _MAX_ID_BYTES:
        refusal["eventId"] = event_id
    return refusal


def check_outcomes(events: Sequence[SwitchEvent], outcomes: Sequence[OperationReply]) -> None:
    """Raise EventsRefused if events were refused, naming each.

    Its code is that of the first one if all were refused, else PARTIAL_SUCCESS.
    """
    refused = [
        _refusal(position, event.event_id, outcome.code, outcome.text)
        for position, (event, outcome) in enumerate(zip(events, outcomes, strict=True))
        if outcome.code is not StatusCode.SUCCESS
    ]
    if not refused:
        return
    first = StatusCode(refused[0]["statusCode"])
    if len(events) == 1:
        raise EventsRefused(first, refused[0]["statusMessage"], refused)
    code = first if len(refused) == len(events) else StatusCode.PARTIAL_SUCCESS
    summary = _bounded([f"event {each['index']} ({each['eventId']}): {each['statusCode']}, {each['statusMessage']}"
                        for each in refused])  # fmt: skip
    raise EventsRefused(code, f"{len(refused)} of {len(events)} events were refused: {summary}", refused)


def _bounded(texts: Sequence[str]) -> str:
    """Join as many texts as fit into a message, and the number of those left out."""
    length, held = 0, 0
    for text in texts:
        length += len(text)
        if held and length > _MAX_MESSAGE_LENGTH:
            break
        held += 1
    more = [f"and {len(texts) - held} more"] if held < len(texts) else []
    return "; ".join([*texts[:held], *more])


def _event(body: JsonValue, directory: Directory, limits: SwitchLimits) -> SwitchEvent:
    if not isinstance(body, dict):
        raise OutOfRange("a switch event must be a JSON object")
    parse = SWITCH_EVENTS.parser_of(body)
    event_id = required_text(body, "eventId", max_bytes=_MAX_ID_BYTES)
    call_id = required_text(body, "id", max_bytes=_MAX_TEXT_BYTES)
    if not _CALL_ID.fullmatch(call_id):
        raise OutOfRange("id may hold letters, digits, - and _")
    operation_id = switch_operation_id(event_id)
    call = related_call_id(_root(body), call_id)
    return SwitchEvent(event_id, operation_id, call, parse(body, operation_id, directory, limits), _extensions(body))


def _extensions(body: Body) -> tuple[Pair, ...]:
    """Return what the switch adds to the messages. Raises OutOfRange."""
    if body.get("extensions") is None:
        return ()
    pairs = tuple(required_object(body, "extensions").items())
    size = len(orjson.dumps(dict(pairs)))
    if size > _MAX_EXTENSIONS_BYTES:
        raise OutOfRange(f"extensions has {size} bytes; an event may carry {_MAX_EXTENSIONS_BYTES}")
    return pairs


def _root(body: Body) -> CallId:
    """Return the call with which all calls of an event belong together: `partOf`, or the call itself."""
    root = optional_text(body, "partOf", str(body["id"]), max_bytes=_MAX_TEXT_BYTES)
    if not _CALL_ID.fullmatch(root):
        raise OutOfRange("partOf may hold letters, digits, - and _")
    return CallId(root)


def _merged(body: Body, _: OperationId, directory: Directory, limits: SwitchLimits) -> CallsMerged:
    merged = required_text(body, "mergedId", max_bytes=_MAX_TEXT_BYTES)
    legs = _parties(body, directory, limits) if body.get("parties") is not None else ()
    root = _root(body)
    if related_call_id(root, merged) == related_call_id(root, str(body["id"])):
        raise OutOfRange("mergedId has to name another call than id")
    return CallsMerged(related_call_id(root, merged), legs, _without_mute(body) if legs else ())


def _started(body: Body, operation_id: OperationId, directory: Directory, limits: SwitchLimits) -> CallStarted:
    began_at_ms = body.get("beganAt")
    if began_at_ms is not None and (
        not isinstance(began_at_ms, int) or isinstance(began_at_ms, bool) or not 0 <= began_at_ms < _MAX_TIME_MS
    ):
        raise OutOfRange("beganAt must be a Unix time in whole milliseconds")
    call_type = known(CallType, "callType", optional_text(body, "callType", CallType.UNKNOWN))
    legs = _parties(body, directory, limits)
    callers = [leg.number for leg in legs if leg.device is None] if call_type is CallType.INBOUND else []
    return CallStarted(
        conn_id=ConnId(optional_text(body, "connId", new_conn_id(operation_id), max_bytes=_MAX_TEXT_BYTES)),
        type=call_type,
        dnis=optional_text(body, "dnis", "", max_bytes=_MAX_TEXT_BYTES),
        legs=legs,
        pairs=user_data(body, limits.user_data, required=False),
        began_at_ms=began_at_ms,
        parent=_parent(body),
        ani=optional_text(body, "ani", next(iter(callers), ""), max_bytes=_MAX_TEXT_BYTES),
    )


def _parent(body: Body) -> CallId | None:
    """Return the call from which the first party consults by the new one."""
    if body.get("parentId") is None:
        return None
    parent = required_text(body, "parentId", max_bytes=_MAX_TEXT_BYTES)
    if body.get("partOf") is None:
        raise ParameterMissing("partOf is missing: it names the first of the calls that belong together")
    return related_call_id(_root(body), parent)


def _parties(body: Body, directory: Directory, limits: SwitchLimits) -> tuple[Leg, ...]:
    legs = tuple(
        _party(each, position, directory)
        for position, each in enumerate(required_list(body, "parties", max_items=limits.max_parties))
    )
    if len({leg.number for leg in legs}) < len(legs):
        raise OutOfRange("parties names the same phoneNumber twice")
    return legs


def _without_mute(body: Body) -> tuple[str, ...]:
    parties = cast("Sequence[Body]", body["parties"])
    return tuple(str(each["phoneNumber"]) for each in parties if each.get("mute") is None)


def _party(body: JsonValue, position: int, directory: Directory) -> Leg:
    if not isinstance(body, dict):
        raise OutOfRange(f"parties[{position}] must be a JSON object")
    within = f"parties[{position}]."
    number = required_text(body, "phoneNumber", max_bytes=_MAX_TEXT_BYTES, within=within)
    state = known(LegState, f"{within}state", required_text(body, "state", within=within))
    mute = body.get("mute")
    if mute is not None and mute not in _MUTE:
        raise OutOfRange(f"{within}mute must be On or Off")
    owner = directory.by_number.get(number)
    if owner is None:
        return Leg(number, state, muted=mute == "On")
    return Leg(number, state, owner.device.id, owner.user.id, muted=mute == "On")


def _recording(body: Body, *_: object) -> RecordingChanged:
    return RecordingChanged(known(RecordingState, "recordingState", required_text(body, "recordingState")))


def _text(max_length: int, **more: str) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": max_length, **more}


_MUTE: Final = ["On", "Off"]
_PARTY: Final[Schema] = {
    "type": "object",
    "required": ["phoneNumber", "state"],
    "properties": {
        "phoneNumber": _text(_MAX_TEXT_BYTES),
        "state": {"type": "string", "enum": list(LegState)},
        "mute": {"type": "string", "enum": _MUTE},
    },
}
_PARTIES: Final[Schema] = {"type": "array", "minItems": 1, "items": _PARTY}
_TIME: Final[Schema] = {"type": "integer", "minimum": 0, "exclusiveMaximum": _MAX_TIME_MS}
_IDS: Final[Mapping[str, Schema]] = {
    "eventId": _text(_MAX_ID_BYTES, description="The same id twice takes effect once."),
    "id": _text(_MAX_TEXT_BYTES, pattern=f"^{_CALL_ID.pattern}$", description="The call's id."),
}
_EXTENSIONS: Final[Schema] = {
    "type": "object",
    "additionalProperties": True,
    "description": f"Added to the messages about the event; {_MAX_EXTENSIONS_BYTES} bytes at most.",
}
_PART_OF: Final[Schema] = _text(
    _MAX_TEXT_BYTES,
    pattern=f"^{_CALL_ID.pattern}$",
    description="The first of the calls that belong together, in all events about the others, such as consult calls.",
)
_COMMON: Final[Mapping[str, Schema]] = {**_IDS, "partOf": _PART_OF, "extensions": _EXTENSIONS}
_EXAMPLE_ID: Final = "01RCC3N118B1V0SL8O7GK2LAES00000R"

SWITCH_EVENTS: Final = Operations[EventParser](
    OperationType(
        "CallStarted", "The call begins.", _started,
        {
            **_COMMON,
            "parties": _PARTIES,
            "connId": _text(_MAX_TEXT_BYTES),
            "callType": {"type": "string", "enum": list(CallType)},
            "dnis": _text(_MAX_TEXT_BYTES),
            "ani": _text(_MAX_TEXT_BYTES, description="Number of the caller."),
            "beganAt": {**_TIME, "description": "Unix time in milliseconds."},
            "parentId": _text(_MAX_TEXT_BYTES, description="The call from which the first party consults."),
            "userData": USER_DATA,
        },
        [*_IDS, "parties"],
        {
            "eventId": "started-1", "id": _EXAMPLE_ID,
            "connId": "007102719818001b", "callType": "Internal", "dnis": "15001",
            "parties": [{"phoneNumber": "15000", "state": "Dialing"}, {"phoneNumber": "15001", "state": "Ringing"}],
        },
        tag="eventType",
    ),
    OperationType(
        "PartyChanged", "Parties change their state, or join the call.",
        lambda body, _, directory, limits: PartyChanged(_parties(body, directory, limits), _without_mute(body)),
        {**_COMMON, "parties": _PARTIES},
        [*_IDS, "parties"],
        {
            "eventId": "joined-1", "id": _EXAMPLE_ID,
            "parties": [{"phoneNumber": "15001", "state": "Held"}, {"phoneNumber": "15002", "state": "Ringing"}],
        },
        tag="eventType",
    ),
    OperationType(
        "CallsMerged", "The parties of another call join the call, and the other one ends.", _merged,
        {**_COMMON, "mergedId": _text(_MAX_TEXT_BYTES), "parties": _PARTIES},
        [*_IDS, "mergedId"],
        {
            "eventId": "merged-1", "id": _EXAMPLE_ID, "mergedId": "01RCC3N118B1V0SL8O7GK2LAES00000S",
            "parties": [{"phoneNumber": "15000", "state": "Released"}],
        },
        tag="eventType",
    ),
    OperationType(
        "RecordingChanged", "The call is recorded, or no longer.", _recording,
        {**_COMMON, "recordingState": {"type": "string", "enum": list(RecordingState)}},
        [*_IDS, "recordingState"],
        {"eventId": "recorded-1", "id": _EXAMPLE_ID, "recordingState": "Recording"},
        tag="eventType",
    ),
    OperationType(
        "CallEnded", "The call ends.", lambda *_: CallEnded(),
        {**_COMMON}, list(_IDS), {"eventId": "ended-1", "id": _EXAMPLE_ID}, tag="eventType",
    ),
)  # fmt: skip
"""The types of events: parser, schema and example of each, for requests and for OpenAPI."""
