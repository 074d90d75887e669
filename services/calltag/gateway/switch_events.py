"""Events of the telephony switch: facts about calls that calltag did not dial itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from calltag.core.contracts.operations import OperationReply
from calltag.core.domain.call import CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, OperationId, switch_operation_id
from calltag.core.domain.operations import CallEnded, CallStarted, PartyChanged
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import JsonValue
from calltag.core.identity.directory import Directory
from calltag.gateway.errors import ApiError, EventsRefused, OutOfRange
from calltag.gateway.operations import new_conn_id
from calltag.gateway.requests import Body, UserDataLimits, optional_text, required_list, required_text, user_data

_MAX_PARTIES: Final = 32
_MAX_MESSAGE_LENGTH: Final = 4_000
_MAX_TIME_MS: Final = 1 << 48

SwitchAction = CallStarted | PartyChanged | CallEnded


@dataclass(frozen=True, slots=True)
class SwitchEvent:
    """A parsed event as an operation; the same event id yields the same operation id."""

    event_id: str
    operation_id: OperationId
    call_id: CallId
    action: SwitchAction


def switch_events(
    body: JsonValue, directory: Directory, limits: UserDataLimits, *, max_events: int
) -> tuple[SwitchEvent, ...]:
    """Parse the events of a request: one object, or a list of them. Raises ParameterMissing, OutOfRange."""
    if not isinstance(body, list):
        return (_event(body, directory, limits),)
    if len(body) > max_events:
        raise OutOfRange(f"the body has {len(body)} events; a request may carry {max_events}")
    events = []
    for position, each in enumerate(body):
        try:
            events.append(_event(each, directory, limits))
        except ApiError as error:
            raise type(error)(f"event {position}: {error.message}") from None
    return tuple(events)


def check_outcomes(events: Sequence[SwitchEvent], outcomes: Sequence[OperationReply]) -> None:
    """Raise EventsRefused if events were refused, naming each.

    Its code is that of the first one if all were refused, else PARTIAL_SUCCESS.
    """
    refused = [
        (f"event {position} ({event.event_id}): {outcome.code:d}, {outcome.text}", outcome)
        for position, (event, outcome) in enumerate(zip(events, outcomes, strict=True))
        if outcome.code is not StatusCode.SUCCESS
    ]
    if not refused:
        return
    first = refused[0][1]
    if len(events) == 1:
        raise EventsRefused(first.code, first.text)
    code = first.code if len(refused) == len(events) else StatusCode.PARTIAL_SUCCESS
    summary = _bounded([text for text, _ in refused])
    raise EventsRefused(code, f"{len(refused)} of {len(events)} events were refused: {summary}")


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


def _event(body: JsonValue, directory: Directory, limits: UserDataLimits) -> SwitchEvent:
    if not isinstance(body, dict):
        raise OutOfRange("a switch event must be a JSON object")
    event_id = required_text(body, "eventId")
    operation_id = switch_operation_id(event_id)
    call_id = CallId(required_text(body, "id", max_bytes=64))
    if not call_id.isascii() or not call_id.replace("-", "").replace("_", "").isalnum():
        raise OutOfRange("id may hold letters, digits, - and _")
    match required_text(body, "eventType", max_bytes=32):
        case "CallStarted":
            action: SwitchAction = _started(body, directory, limits, operation_id)
        case "PartyChanged":
            action = PartyChanged(_parties(body, directory))
        case "CallEnded":
            action = CallEnded()
        case _:
            raise OutOfRange("eventType is not known; known are CallStarted, PartyChanged, CallEnded")
    return SwitchEvent(event_id, operation_id, call_id, action)


def _started(body: Body, directory: Directory, limits: UserDataLimits, operation_id: OperationId) -> CallStarted:
    began_at_ms = body.get("beganAt")
    if began_at_ms is not None and (
        not isinstance(began_at_ms, int) or isinstance(began_at_ms, bool) or not 0 <= began_at_ms < _MAX_TIME_MS
    ):
        raise OutOfRange("beganAt must be a Unix time in whole milliseconds")
    return CallStarted(
        conn_id=ConnId(optional_text(body, "connId", new_conn_id(operation_id), max_bytes=64)),
        type=_call_type(optional_text(body, "callType", CallType.UNKNOWN, max_bytes=32)),
        dnis=optional_text(body, "dnis", "", max_bytes=64),
        legs=_parties(body, directory),
        pairs=user_data(body, limits, required=False),
        began_at_ms=began_at_ms,
    )


def _call_type(name: str) -> CallType:
    try:
        return CallType(name)
    except ValueError:
        raise OutOfRange(f"callType is not known; known are {', '.join(CallType)}") from None


def _parties(body: Body, directory: Directory) -> tuple[Leg, ...]:
    legs = tuple(
        _party(each, position, directory)
        for position, each in enumerate(required_list(body, "parties", max_items=_MAX_PARTIES))
    )
    if len({leg.number for leg in legs}) < len(legs):
        raise OutOfRange("parties names the same phoneNumber twice")
    return legs


def _party(body: JsonValue, position: int, directory: Directory) -> Leg:
    if not isinstance(body, dict):
        raise OutOfRange(f"parties[{position}] must be a JSON object")
    within = f"parties[{position}]."
    number = required_text(body, "phoneNumber", max_bytes=64, within=within)
    state = required_text(body, "state", max_bytes=32, within=within)
    if state not in _STATES:
        raise OutOfRange(f"{within}state is not known; known are {', '.join(_STATES)}")
    mute = body.get("mute", "Off")
    if mute not in ("On", "Off"):
        raise OutOfRange(f"{within}mute must be On or Off")
    owner = directory.by_number.get(number)
    if owner is None:
        return Leg(number, _STATES[state], muted=mute == "On")
    return Leg(number, _STATES[state], owner.device.id, owner.user.id, muted=mute == "On")


_STATES: Final[Mapping[str, LegState]] = {state.value: state for state in LegState}
