"""Refusals, as clients of Web Services read them: a statusCode, a statusMessage, and the HTTP status beside it."""

from collections.abc import Mapping
from typing import Final

from calltag.core.domain.status import StatusCode

HTTP_STATUS: Final[Mapping[StatusCode, int]] = {
    StatusCode.SUCCESS: 200,
    StatusCode.PARAMETER_MISSING: 400,
    StatusCode.INVALID_STATE: 400,
    StatusCode.FORBIDDEN: 403,
    StatusCode.INTERNAL: 500,
    StatusCode.NO_PERMISSION: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.PARTIAL_SUCCESS: 207,
    StatusCode.INCOMPLETE: 202,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.NOT_AUTHENTICATED: 401,
}
"""The HTTP status beside each statusCode; Web Services leaves it open."""


class ApiError(Exception):
    """A request that is refused: nothing was changed and nothing was published."""

    code = StatusCode.INTERNAL
    final = False
    """Whether this is the operation's outcome, so that the same request is answered the same when made again."""

    def __init__(
        self, message: str, *, http_status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.http_status = http_status or HTTP_STATUS[self.code]
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """The answer's JSON."""
        return {"statusCode": int(self.code), "statusMessage": self.message}


class ParameterMissing(ApiError):
    """A required parameter is not there."""

    code = StatusCode.PARAMETER_MISSING


class OutOfRange(ApiError):
    """A value is not among the valid ones."""

    code = StatusCode.OUT_OF_RANGE


class InvalidState(ApiError):
    """The call's state does not allow it, and no operation under way can change that."""

    code = StatusCode.INVALID_STATE


class FeatureMissing(ApiError):
    """The user lacks a feature or role that the operation requires."""

    code = StatusCode.FORBIDDEN


class NoPermission(ApiError):
    """The resource is somebody else's."""

    code = StatusCode.NO_PERMISSION


class NotFound(ApiError):
    """The resource does not exist."""

    code = StatusCode.NOT_FOUND


class AlreadyUsed(ApiError):
    """The name is taken."""

    code = StatusCode.ALREADY_EXISTS


class Incomplete(ApiError):
    """The operation was accepted, and its outcome is not known yet."""

    code = StatusCode.INCOMPLETE


class NotAuthenticated(ApiError):
    """No credentials, or wrong ones."""

    code = StatusCode.NOT_AUTHENTICATED

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"WWW-Authenticate": 'Basic realm="calltag", charset="UTF-8"'})


class TooManyAttempts(ApiError):
    """Too many wrong passwords; whether this one was right is not told."""

    code = StatusCode.NOT_AUTHENTICATED

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, http_status=429, headers={"Retry-After": str(retry_after_s)})


class BackendUnavailable(ApiError):
    """Broker or store is away, or too busy; to try again is right."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message, http_status=503, headers={"Retry-After": str(retry_after_s)})


class TooManyOperations(ApiError):
    """The user, or the address, sends faster than it may."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, http_status=429, headers={"Retry-After": str(retry_after_s)})


class RecordUnreadable(ApiError):
    """What the store holds cannot be read by this version."""


class EventsRefused(ApiError):
    """Some events of the switch took no effect. Told again they may, so this is no final answer."""

    def __init__(self, code: StatusCode, message: str) -> None:
        self.code = code
        super().__init__(message)


class OutcomeRefused(ApiError):
    """The worker refused an operation whose outcome the client waited for."""

    final = True

    def __init__(self, code: StatusCode, message: str) -> None:
        self.code = code
        super().__init__(message)
