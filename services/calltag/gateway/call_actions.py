"""Parsing of `operationName` and its parameters into an action on a call."""

import re
from collections.abc import Callable, Mapping
from typing import Final

from calltag.core.domain.operations import (
    Answer,
    AttachUserData,
    ClientAction,
    DeleteUserData,
    DeleteUserDataPair,
    Hangup,
    Hold,
    Retrieve,
    SendDtmf,
    UpdateUserData,
)
from calltag.gateway.errors import OutOfRange
from calltag.gateway.parameters import Body, UserDataLimits, required_text, user_data, user_data_key

_DIGITS: Final = re.compile(r"[0-9A-Da-d*#,]+")
_MAX_DIGITS: Final = 64

Reader = Callable[[Body, UserDataLimits], ClientAction]


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
