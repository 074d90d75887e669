"""Facts of the switch: from bytes to operations that the broker carries unchanged, or a refusal."""

from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.domain.ids import UserId
from calltag.core.domain.operations import CallOperation
from calltag.core.strict_json import JsonLimits, JsonRefused, parse
from calltag.gateway.errors import ApiError
from calltag.gateway.switch_events import SwitchLimits, switch_events
from fuzz.target import Target
from fuzz.targets.operations import DIRECTORY, LIMITS
from fuzz.targets.strict_json import WORDS as JSON_WORDS

MAX_EVENTS = 4
TEXTS = JsonLimits(max_bytes=4_096, max_depth=8)
WORDS = [
    *JSON_WORDS, b'"eventId":', b'"eventType":', b'"id":', b'"parties":', b'"CallStarted"', b'"PartyChanged"',
    b'"CallEnded"', b'"phoneNumber":', b'"state":', b'"Established"', b'"Released"', b'"mute":"On"', b'"beganAt":',
    b'"connId":', b'"callType":', b'"Internal"', b'"dnis":', b'"userData":', b"281474976710656",
]  # fmt: skip
ENDED = b'{"eventId":"e%d","eventType":"CallEnded","id":"c1"}'
SEEDS = [
    b"[" + b",".join(ENDED % number for number in range(MAX_EVENTS + 1)) + b"]",
    b'{"eventId":"e1","eventType":"CallStarted","id":"c1","parties":[{"phoneNumber":"15000","state":"Ringing"}]}',
    b'[{"eventId":"e2","eventType":"PartyChanged","id":"c-1","parties":[{"phoneNumber":"1","state":"Held"}]}]',
    b'[{"eventId":"e3","eventType":"CallEnded","id":"c1"},{"eventId":"e4","eventType":"CallEnded","id":"c2"}]',
    b'{"eventId":"e","eventType":"CallStarted","id":"c","beganAt":0,"parties":[{"phoneNumber":"1","state":"Held"}]}',
]


def one_input(data: bytes) -> None:
    """Every event becomes an operation with an id of its event's; a refusal can be shown."""
    try:
        body = parse(data, TEXTS)
    except JsonRefused:
        return
    try:
        events = switch_events(body, DIRECTORY, SwitchLimits(MAX_EVENTS, 8, LIMITS))
    except ApiError as error:
        assert error.http_status == 400
        assert len(error.message.encode()) < 400
        return
    assert len(events) <= MAX_EVENTS
    assert len({each.operation_id for each in events}) == len({each.event_id for each in events})
    for event in events:
        operation = CallOperation(event.operation_id, event.call_id, event.action, 1, UserId("switch"))
        message = OPERATION.encode(OperationMessage(operation=operation))
        assert repr(OPERATION.decode(message).operation) == repr(operation)


TARGET = Target("switch_events", one_input, SEEDS, WORDS)
