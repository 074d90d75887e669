"""Parsing of operations: from `operationName` and its parameters to an action on a call."""

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final

from calltag.core.domain.call import CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, OperationId
from calltag.core.domain.operations import (
    Answer,
    AttachUserData,
    ClientAction,
    DeleteUserData,
    DeleteUserDataPair,
    Dial,
    Hangup,
    Hold,
    Retrieve,
    SendDtmf,
    UpdateUserData,
)
from calltag.core.identity.directory import Device, Directory
from calltag.gateway.errors import OutOfRange
from calltag.gateway.requests import Body, UserDataLimits, required_object, required_text, user_data, user_data_key

_NUMBER: Final = re.compile(r"\+?[0-9A-Za-z*#().\- ]+")
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_DIGITS: Final = re.compile(r"[0-9A-Da-d*#,]+")
_MAX_DIGITS: Final = 64
Reader = Callable[[Body, UserDataLimits], ClientAction]


def dial(body: Body, device: Device, directory: Directory, limits: UserDataLimits) -> Dial:
    """Return the new call: Internal if the number is a device's, Outbound otherwise.

    The caller sets `conn_id` once the operation id is known. Raises ParameterMissing, OutOfRange.
    """
    destination = required_object(body, "destination")
    number = required_text(destination, "phoneNumber", max_bytes=64).strip()
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


_READERS: Final[Mapping[str, Reader]] = {
    "AttachUserData": lambda body, limits: AttachUserData(user_data(body, limits)),
    "UpdateUserData": lambda body, limits: UpdateUserData(user_data(body, limits)),
    "DeleteUserDataPair": lambda body, limits: DeleteUserDataPair(user_data_key(body, limits)),
    "DeleteUserData": lambda _, __: DeleteUserData(),
    "Answer": lambda _, __: Answer(),
    "Hold": lambda _, __: Hold(),
    "Retrieve": lambda _, __: Retrieve(),
    "SendDtmf": _send_dtmf,
    "Hangup": lambda _, __: Hangup(),
}

CALL_OPERATIONS: Final = tuple(_READERS)
"""The names of all operations on a call."""


def operation_name(body: Body, known: tuple[str, ...]) -> str:
    """Return the parameter `operationName`. Raises ParameterMissing, OutOfRange."""
    name = required_text(body, "operationName", max_bytes=64)
    if name not in known:
        raise OutOfRange(f"operationName is not known here; known are {', '.join(known)}")
    return name


def call_action(body: Body, limits: UserDataLimits) -> ClientAction:
    """Return the action that the body of a POST to a call requests. Raises ParameterMissing, OutOfRange."""
    return _READERS[operation_name(body, CALL_OPERATIONS)](body, limits)
