"""The pipeline of requests with operations: receive, admit, submit, respond."""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from starlette.requests import Request
from starlette.responses import Response

from calltag.core.domain.status import StatusCode
from calltag.core.identity.directory import Role, User
from calltag.gateway.authentication import ApiAuthentication
from calltag.gateway.commands import Command, Fields
from calltag.gateway.errors import ApiError, FeatureMissing, OutOfRange
from calltag.gateway.idempotency import Attempt, Idempotency, IdempotentRequest, RecordedAnswer, idempotent_request
from calltag.gateway.operation_publisher import OperationPublisher
from calltag.gateway.rate_limits import RateLimits
from calltag.gateway.requests import BodyReader, ReadBody, wait_s
from calltag.gateway.resources import answer


@dataclass(frozen=True, slots=True)
class Received:
    """A request of a user, read completely; `wait_s` if the client waits for the outcome.

    `headers` are those of the response, also if that is an error.
    """

    user: User
    headers: dict[str, str]
    body: ReadBody
    wait_s: int | None
    idempotent: IdempotentRequest | None


@dataclass(frozen=True, slots=True)
class OperationPipeline:
    """Handles requests with operations. Its methods raise ApiError, StoreError."""

    authentication: ApiAuthentication
    bodies: BodyReader
    rates: RateLimits
    idempotency: Idempotency
    publisher: OperationPublisher
    max_wait_s: int = 10

    async def receive(self, request: Request, *, role: Role | None = None) -> Received:
        """Authenticate a request, and read it unless its user lacks the role."""
        user = (await self.authentication.identify(request)).user
        if Role.SWITCH not in user.roles:
            self.rates.check(user.id, request.client.host if request.client else "")
        if role is not None and role not in user.roles:
            raise FeatureMissing(f"this requires the role {role}, which user {user.id} does not have")
        body = await self.bodies.read(request)
        wait = wait_s(request.headers.getlist("prefer"), self.max_wait_s)
        return Received(user, request.state.headers, body, wait, _idempotent(request, user, body))

    async def perform(self, received: Received, command: Command, *, names_operation: bool = True) -> Response:
        """Return the response; `names_operation` adds the operation's id to it, and to errors."""
        attempt = await self.idempotency.attempt(received.idempotent, waits=received.wait_s is not None)
        if names_operation:
            structlog.contextvars.bind_contextvars(operation_id=attempt.operation_id)
            received.headers["Operation-Id"] = attempt.operation_id
        if received.wait_s is not None:
            received.headers["Preference-Applied"] = f"wait={received.wait_s:d}"
        if attempt.recorded is not None:
            return await _repeated(attempt, attempt.recorded, command, received)
        shown: Fields = {}
        try:
            operations = await command.admit(attempt.operation_id, is_retry=attempt.is_retry)
            await self.idempotency.begin(attempt)
            replies = await self.publisher.submit(operations, received.wait_s)
            if received.wait_s is not None:
                shown = command.outcome(replies)
            given = RecordedAnswer(200, StatusCode.SUCCESS, is_outcome=received.wait_s is not None)
        except ApiError as error:
            # A refusal of the worker is as final as a success; other errors may be retried.
            if attempt.request is None or not error.final:
                raise
            given = RecordedAnswer(error.http_status, error.code, error.message)
        await self.idempotency.finish(attempt, given)
        return _response(given, command, shown)


async def _repeated(attempt: Attempt, given: RecordedAnswer, command: Command, received: Received) -> Response:
    """Return the recorded answer; to a client that waits, with the state as it is now."""
    shows = received.wait_s is not None and given.code is StatusCode.SUCCESS
    shown = await command.look(attempt.operation_id) if shows else {}
    return _response(given, command, shown, {"Idempotent-Replayed": "true"})


def _response(
    given: RecordedAnswer, command: Command, shown: Fields, headers: Mapping[str, str] | None = None
) -> Response:
    accepted = command.accepted() if given.code is StatusCode.SUCCESS else {}
    return answer({**given.body(), **accepted, **shown}, given.http_status, headers)


def _idempotent(request: Request, user: User, body: ReadBody) -> IdempotentRequest | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1:
        raise OutOfRange("there are several Idempotency-Key headers: send one")
    return idempotent_request(user.id, keys[0], request.method, request.url.path, body.raw)
