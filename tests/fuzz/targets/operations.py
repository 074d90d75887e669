"""Bodies of operations: from bytes to an operation that the broker carries unchanged, or a refusal."""

import orjson

from calltag.core.contracts.operations import OPERATION, OperationMessage
from calltag.core.domain.apply import apply
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.operations import CallOperation, ClientAction, Dial
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.user_data import Size
from calltag.core.identity.directory import demo_directory
from calltag.core.strict_json import JsonLimits, JsonRefused, parse
from calltag.gateway.errors import ApiError
from calltag.gateway.operations import CALL_OPERATIONS, dial
from calltag.gateway.requests import Body, UserDataLimits
from fuzz.target import Target
from fuzz.targets import strict_json

LIMITS = UserDataLimits(max_pairs=8, max_bytes=1_024, max_key_bytes=32)
TEXTS = JsonLimits(max_bytes=4_096, max_depth=8)
DIRECTORY = demo_directory()
DEVICE = DIRECTORY.by_number["15000"].device
CALL = Call(
    CallId("c1"),
    ConnId("1"),
    CallType.INTERNAL,
    dnis="15001",
    began_at_ms=1_700_000_000_000,
    legs=(
        Leg("15000", LegState.ESTABLISHED, DEVICE.id, UserId("alice")),
        Leg("15001", LegState.ESTABLISHED, DeviceId("d2"), UserId("bob")),
    ),
)
WORDS = [
    *strict_json.WORDS, b'"operationName":', b'"userData":', b'"key":', b'"digits":', b'"destination":',
    b'"phoneNumber":', b'"15001"', *(f'"{name}"'.encode() for name in CALL_OPERATIONS.names()),
]  # fmt: skip
SEEDS = [
    b'{"operationName":"AttachUserData","userData":{"A":1,"B":[1,2.5,"x",null],"C":{"d":true}}}',
    b'{"operationName":"UpdateUserData","userData":{"A":[]}}',
    b'{"operationName":"DeleteUserDataPair","key":"A"}',
    b'{"operationName":"SendDtmf","digits":"12#"}',
    b'{"operationName":"SendDtmf","digits":12}',
    b'{"operationName":"AttachUserData","userData":{"A":"%b"}}' % (b"x" * LIMITS.max_bytes),
    b'{"operationName":"AttachUserData","userData":{"A":[1,2,3,4,5,6,7,8,9]}}',
    b'{"destination":{"phoneNumber":"15001"},"userData":{"A":18446744073709551615}}',
]


def one_input(data: bytes) -> None:
    """An accepted operation passes the broker unchanged, and takes effect or is refused without an exception."""
    try:
        body = parse(data, TEXTS)
    except JsonRefused:
        return
    if not isinstance(body, dict):
        return
    for read in (_on_call, _dial):
        try:
            action = read(body)
        except ApiError as error:
            assert error.http_status in {400, 413}
            assert len(error.message.encode()) < 600
            continue
        _carry(CallOperation(OperationId("o1"), CALL.id, action, 1_700_000_000_000, UserId("alice")))


def _on_call(body: Body) -> ClientAction:
    return CALL_OPERATIONS.parser_of(body)(body, LIMITS, DIRECTORY)


def _dial(body: Body) -> Dial:
    return dial(body, DEVICE, DIRECTORY, LIMITS)


def _carry(operation: CallOperation) -> None:
    pairs = getattr(operation.action, "pairs", ())
    size = Size.of(pairs, lambda value: len(orjson.dumps(value)))
    assert size.pairs <= LIMITS.max_pairs
    assert size.encoded_bytes <= LIMITS.max_bytes
    message = OPERATION.encode(OperationMessage(operation=operation))
    carried = OPERATION.decode(message)
    assert repr(carried.operation) == repr(operation)
    assert OPERATION.encode(carried) == message
    assert len(message) <= 8 * (LIMITS.max_bytes + 1_024)
    apply(
        None if isinstance(operation.action, Dial) else CALL,
        operation,
        CallLimits(lambda value: len(orjson.dumps(value))),
    )


TARGET = Target("operations", one_input, SEEDS, WORDS)
