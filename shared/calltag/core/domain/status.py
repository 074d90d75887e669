"""Status codes of the Genesys Web Services API that calltag uses."""

from enum import IntEnum


class StatusCode(IntEnum):
    """`statusCode` of a response (source: Web Services API reference, 8.5)."""

    SUCCESS = 0
    PARAMETER_MISSING = 1
    INVALID_STATE = 2
    FORBIDDEN = 3
    INTERNAL = 4
    NO_PERMISSION = 5
    NOT_FOUND = 6
    PARTIAL_SUCCESS = 7
    INCOMPLETE = 9
    OUT_OF_RANGE = 10
    ALREADY_EXISTS = 18
    NOT_AUTHENTICATED = 20
