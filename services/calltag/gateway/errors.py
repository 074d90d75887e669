"""Errors of the API as in Web Services: a statusCode and a statusMessage, with an HTTP status."""

from collections.abc import Mapping, Sequence
from typing import Final, NotRequired

from typing_extensions import TypedDict

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
"""HTTP status for each statusCode; Web Services does not specify it."""


class EventError(TypedDict):
    """The refusal of one event of the switch."""

    index: int
    """Position in the list, from 0."""
    eventId: NotRequired[str]
    """Absent if the event has no valid one."""
    statusCode: int
    statusMessage: str


class ApiError(Exception):
    """A refused request: nothing was changed and nothing was published, unless a subclass says otherwise."""

    code = StatusCode.INTERNAL
    final = False
    """True if this is the outcome of the operation, so that a repeated request gets the same response."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[EventError] = (),
    ) -> None:
        """`errors` are those of single events in a request of the switch."""
        super().__init__(message)
        self.message = message
        self.errors = errors
        self.http_status = http_status or HTTP_STATUS[self.code]
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """Return the JSON of the response."""
        errors = {"errors": self.errors} if self.errors else {}
        return {"statusCode": int(self.code), "statusMessage": self.message, **errors}


class ParameterMissing(ApiError):
    """A required parameter is missing."""

    code = StatusCode.PARAMETER_MISSING


class OutOfRange(ApiError):
    """A value is invalid."""

    code = StatusCode.OUT_OF_RANGE


class InvalidState(ApiError):
    """The call's state does not allow the operation, and no operation in flight can change that."""

    code = StatusCode.INVALID_STATE


class FeatureMissing(ApiError):
    """The user lacks a feature or role that the operation requires."""

    code = StatusCode.FORBIDDEN


class NoPermission(ApiError):
    """The resource belongs to another user."""

    code = StatusCode.NO_PERMISSION


class NotFound(ApiError):
    """The resource does not exist."""

    code = StatusCode.NOT_FOUND


class AlreadyUsed(ApiError):
    """The idempotency key was used before, and cannot be used for this request."""

    code = StatusCode.ALREADY_EXISTS


class Incomplete(ApiError):
    """The operation was accepted, but its outcome is not known yet."""

    code = StatusCode.INCOMPLETE


class NotAuthenticated(ApiError):
    """Credentials are missing or wrong."""

    code = StatusCode.NOT_AUTHENTICATED

    def __init__(self, message: str, *, challenge: bool = True) -> None:
        """Without a `challenge` a browser opens no login window of its own; Web Services answers HTTP 403 then."""
        if challenge:
            super().__init__(message, headers={"WWW-Authenticate": 'Basic realm="calltag", charset="UTF-8"'})
        else:
            super().__init__(message, http_status=403)


class TooManyAttempts(ApiError):
    """Too many failed logins; the response does not reveal whether this password is right."""

    code = StatusCode.NOT_AUTHENTICATED

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, http_status=429, headers={"Retry-After": str(retry_after_s)})


class BackendUnavailable(ApiError):
    """RabbitMQ or Redis is unavailable, or a limit of the service is reached; a retry may succeed."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message, http_status=503, headers={"Retry-After": str(retry_after_s)})


class TooManyOperations(ApiError):
    """The user or the address exceeds its rate limit."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, http_status=429, headers={"Retry-After": str(retry_after_s)})


class RecordUnreadable(ApiError):
    """This version cannot decode a record in Redis."""


class OutcomeRefused(ApiError):
    """The worker refused an operation whose outcome the client waited for."""

    final = True

    def __init__(self, code: StatusCode, message: str, errors: Sequence[EventError] = ()) -> None:
        self.code = code
        super().__init__(message, errors=errors)


class EventsRefused(OutcomeRefused):
    """Some events of the switch took no effect. They may when they are sent again, so this is not final."""

    final = False
