"""The operations of the API: name, parser, schema, documentation and example of each, for router and OpenAPI."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar

from calltag.core.domain.call import CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId
from calltag.core.domain.operations import (
    Answer,
    AttachUserData,
    ClientAction,
    DeleteUserData,
    DeleteUserDataPair,
    Dial,
    EndContactCenterSession,
    Hangup,
    Hold,
    Retrieve,
    SendDtmf,
    StartContactCenterSession,
    UpdateUserData,
)
from calltag.core.identity.directory import Device, Directory, User
from calltag.gateway.errors import OutOfRange
from calltag.gateway.requests import (
    Body,
    UserDataLimits,
    required_list,
    required_object,
    required_text,
    user_data,
    user_data_key,
)

Schema = Mapping[str, Any]
Parser = TypeVar("Parser", bound=Callable[..., object])
_MAX_NAME_BYTES: Final = 64
_MAX_NUMBER_BYTES: Final = 64
_MAX_DIGITS: Final = 64
_MAX_CHANNELS: Final = 8
_NUMBER: Final = re.compile(r"\+?[0-9A-Za-z*#().\- ]+")
_DIGITS: Final = re.compile(r"[0-9A-Da-d*#,]+")
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUV"


@dataclass(frozen=True, slots=True)
class OperationType(Generic[Parser]):
    """An operation by its name, which requests have in the member `tag`.

    `parameters` are the JSON schemas of its parameters, `example` their values.
    """

    name: str
    summary: str
    parse: Parser
    parameters: Mapping[str, Schema] = field(default_factory=dict)
    required: Sequence[str] = ()
    example: Mapping[str, object] = field(default_factory=dict)
    tag: str = "operationName"

    def schema(self) -> Schema:
        """Return the JSON schema of a request."""
        return {
            "type": "object",
            "title": self.name,
            "description": self.summary,
            "required": [self.tag, *self.required],
            "properties": {self.tag: {"const": self.name}, **self.parameters},
        }

    def request(self) -> Mapping[str, object]:
        """Return the example of a request."""
        return {self.tag: self.name, **self.example}


class Operations(Generic[Parser]):
    """The operations that one kind of resource has, all with the same `tag`."""

    def __init__(self, first: OperationType[Parser], *others: OperationType[Parser]) -> None:
        self.tag = first.tag
        self._types = {each.name: each for each in (first, *others)}

    def __iter__(self) -> Iterator[OperationType[Parser]]:
        return iter(self._types.values())

    def names(self) -> tuple[str, ...]:
        """Return the names."""
        return tuple(self._types)

    def parser_of(self, body: Body) -> Parser:
        """Return the parser of the operation that the body names. Raises ParameterMissing, OutOfRange."""
        name = required_text(body, self.tag, max_bytes=_MAX_NAME_BYTES)
        if name not in self._types:
            raise OutOfRange(f"{self.tag} is not known here; known are {', '.join(self._types)}")
        return self._types[name].parse


def dial(body: Body, device: Device, directory: Directory, limits: UserDataLimits) -> Dial:
    """Return the new call: Internal if the number is a device's, Outbound otherwise.

    The caller sets `conn_id` once the operation id is known. Raises ParameterMissing, OutOfRange.
    """
    destination = required_object(body, "destination")
    number = required_text(destination, "phoneNumber", max_bytes=_MAX_NUMBER_BYTES, within="destination.").strip()
    if not _NUMBER.fullmatch(number):
        raise OutOfRange("destination.phoneNumber is not a phone number")
    if number == device.number:
        raise OutOfRange("destination.phoneNumber is the number of the dialing device itself")
    callee = directory.by_number.get(number)
    called = (
        Leg(number, LegState.RINGING, callee.device.id, callee.user.id) if callee else Leg(number, LegState.RINGING)
    )
    return Dial(
        conn_id=ConnId(""),
        type=CallType.INTERNAL if callee else CallType.OUTBOUND,
        dnis=number,
        legs=(Leg(device.number, LegState.DIALING, device.id, directory.by_device[device.id].user.id), called),
        pairs=user_data(body, limits, required=False),
    )


def new_call_id(operation: OperationId) -> CallId:
    """Return the id of the call that a Dial begins: 32 characters, the same when the operation is repeated."""
    number = int.from_bytes(sha256(f"call:{operation}".encode()).digest()[:20])
    return CallId("".join(_ALPHABET[number >> shift & 31] for shift in range(155, -5, -5)))


def new_conn_id(operation: OperationId) -> ConnId:
    """Return the connection id of that call: 16 hex digits."""
    return ConnId(sha256(f"conn:{operation}".encode()).hexdigest()[:16])


def _send_dtmf(body: Body, _: UserDataLimits) -> SendDtmf:
    digits = required_text(body, "digits", max_bytes=_MAX_DIGITS)
    if not _DIGITS.fullmatch(digits):
        raise OutOfRange("digits may hold 0 to 9, A to D, *, # and the comma")
    return SendDtmf(digits)


def _start_session(body: Body, user: User) -> StartContactCenterSession:
    channels = required_list(body, "channels", max_items=_MAX_CHANNELS)
    if channels != ["voice"]:
        raise OutOfRange('channels must be ["voice"]; calltag serves no other')
    return StartContactCenterSession(_devices(user), ("voice",))


def _devices(user: User) -> tuple[tuple[DeviceId, str], ...]:
    return tuple((device.id, device.number) for device in user.devices)


USER_DATA: Final[Schema] = {
    "type": "object",
    "additionalProperties": True,
    "description": "Key to value; a list is that many values of its key. Keys have 1 to 255 bytes.",
}
_ACCOUNT: Final = {"userData": {"AccountNumber": "12345"}}

CALL_OPERATIONS: Final = Operations[Callable[[Body, UserDataLimits], ClientAction]](
    OperationType(
        "AttachUserData",
        "Attach pairs: a value of a key that has one is added to its list.",
        lambda body, limits: AttachUserData(user_data(body, limits)),
        {"userData": USER_DATA},
        ["userData"],
        _ACCOUNT,
    ),
    OperationType(
        "UpdateUserData",
        "Set pairs: a value replaces all values of its key.",
        lambda body, limits: UpdateUserData(user_data(body, limits)),
        {"userData": USER_DATA},
        ["userData"],
        {"userData": {"AccountNumber": "1"}},
    ),
    OperationType(
        "DeleteUserDataPair",
        "Delete all values of a key.",
        lambda body, limits: DeleteUserDataPair(user_data_key(body, limits)),
        {"key": {"type": "string", "minLength": 1}},
        ["key"],
        {"key": "AccountNumber"},
    ),
    OperationType("DeleteUserData", "Delete all user data.", lambda _, __: DeleteUserData()),
    OperationType("Answer", "Answer a ringing call.", lambda _, __: Answer()),
    OperationType("Hold", "Put the call on hold.", lambda _, __: Hold()),
    OperationType("Retrieve", "Retrieve the call from hold.", lambda _, __: Retrieve()),
    OperationType(
        "SendDtmf",
        "Send digits.",
        _send_dtmf,
        {"digits": {"type": "string", "pattern": f"^{_DIGITS.pattern}$", "maxLength": _MAX_DIGITS}},
        ["digits"],
        {"digits": "42#"},
    ),
    OperationType("Hangup", "Leave the call, which ends it where two are left.", lambda _, __: Hangup()),
)

SESSION_OPERATIONS: Final = Operations[Callable[[Body, User], StartContactCenterSession | EndContactCenterSession]](
    OperationType(
        "StartContactCenterSession",
        "Start the contact-centre session: the devices become ready for calls.",
        _start_session,
        {"channels": {"type": "array", "items": {"type": "string", "enum": ["voice"]}, "minItems": 1, "maxItems": 1}},
        ["channels"],
        {"channels": ["voice"]},
    ),
    OperationType(
        "EndContactCenterSession",
        "End the contact-centre session.",
        lambda _, user: EndContactCenterSession(_devices(user)),
    ),
)

DEVICE_OPERATIONS: Final = Operations[Callable[[Body, Device, Directory, UserDataLimits], Dial]](
    OperationType(
        "Dial",
        "Begin a call from the device.",
        dial,
        {
            "destination": {
                "type": "object",
                "required": ["phoneNumber"],
                "properties": {
                    "phoneNumber": {"type": "string", "pattern": f"^{_NUMBER.pattern}$", "maxLength": _MAX_NUMBER_BYTES}
                },
            },
            "userData": USER_DATA,
        },
        ["destination"],
        {"destination": {"phoneNumber": "15001"}},
    )
)
