"""The pipeline of requests with an operation: body, parameters, idempotency, submission, response."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
from starlette.requests import Request
from starlette.responses import Response

from calltag.core.domain.ids import OperationId
from calltag.core.domain.status import StatusCode
from calltag.core.identity.directory import Role, User
from calltag.gateway.call_service import SubmitOptions, new_operation_id, now_ms
from calltag.gateway.errors import AlreadyUsed, ApiError, OutOfRange
from calltag.gateway.idempotency import (
    IdempotencyRecords,
    IdempotentRequest,
    RecordedAnswer,
    idempotent_request,
)
from calltag.gateway.rate_limits import RateLimits
from calltag.gateway.requests import BodyReader, ReadBody, wait_s
from calltag.gateway.resources import answer

Fields = Mapping[str, object]


async def _nothing(_: OperationId) -> Fields:
    return {}


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A parsed request.

    `submit` submits the operation, `look` only reads; both return the fields of the response beside statusCode 0. The
    response to a single operation names it (`Operation-Id`).
    """

    submit: Callable[[SubmitOptions], Awaitable[Fields]]
    look: Callable[[OperationId], Awaitable[Fields]] = _nothing
    names_operation: bool = True


ParseRequest = Callable[[User, ReadBody], ParsedRequest]


@dataclass(frozen=True, slots=True)
class OperationPipeline:
    """Handles requests with an operation; for `memory_ms` the worker recognises a repeated operation."""

    bodies: BodyReader
    records: IdempotencyRecords
    max_wait_s: int = 10
    memory_ms: int = 3_600_000
    clock_ms: Callable[[], int] = now_ms
    rates: RateLimits | None = None

    async def perform(self, request: Request, user: User, parse: ParseRequest) -> Response:
        """Return the response to a request; `parse` reads its parameters. Raises ApiError, StoreError."""
        if self.rates is not None and Role.SWITCH not in user.roles:
            self.rates.check(user.id, request.client.host if request.client else "")
        body = await self.bodies.read(request)
        wait = wait_s(request.headers.getlist("prefer"), self.max_wait_s)
        parsed = parse(user, body)
        idempotent = _idempotent(request, user, body)
        if idempotent is None:
            return await self._perform(parsed, SubmitOptions(new_operation_id(), wait))
        before, now = await self.records.find(idempotent), self.clock_ms()
        forgotten = before is not None and now - before.begun_at_ms >= self.memory_ms
        if before is not None and before.answer is not None:
            # A client that waits wants the outcome: the worker returns it while it recognises the operation.
            if before.answer.is_outcome or wait is None or forgotten:
                return await _replayed(before.answer, parsed, idempotent.operation_id, wait)
        elif forgotten:
            raise AlreadyUsed("the outcome of the first attempt has expired; use a new key")
        options = SubmitOptions(
            idempotent.operation_id, wait, before is not None, lambda: self.records.begin(idempotent, now)
        )
        begun_at_ms = now if before is None else before.begun_at_ms
        return await self._perform(parsed, options, idempotent, begun_at_ms)

    async def _perform(
        self,
        parsed: ParsedRequest,
        options: SubmitOptions,
        idempotent: IdempotentRequest | None = None,
        begun_at_ms: int = 0,
    ) -> Response:
        headers: dict[str, str] = {}
        if parsed.names_operation:
            structlog.contextvars.bind_contextvars(operation_id=options.operation_id)
            headers["Operation-Id"] = options.operation_id
        if options.wait_s is not None:
            headers["Preference-Applied"] = f"wait={options.wait_s:d}"
        held: Fields = {}
        try:
            held = await parsed.submit(options)
            given = RecordedAnswer(200, StatusCode.SUCCESS, is_outcome=options.wait_s is not None)
        except ApiError as error:
            # A refusal of the worker is as final as a success; other errors may be retried.
            if idempotent is None or not error.final:
                raise
            given = RecordedAnswer(error.http_status, error.code, error.message)
        if idempotent is not None:
            await self.records.finish(idempotent, begun_at_ms, given)
        return answer({**given.body(), **held}, given.http_status, headers)


async def _replayed(
    given: RecordedAnswer, parsed: ParsedRequest, operation_id: OperationId, wait: int | None
) -> Response:
    """Return the recorded response; if the client waits for a call, with the call as it is now."""
    shows = wait is not None and given.code is StatusCode.SUCCESS
    held = await parsed.look(operation_id) if shows else {}
    return answer({**given.body(), **held}, given.http_status, {"Idempotent-Replayed": "true"})


def _idempotent(request: Request, user: User, body: ReadBody) -> IdempotentRequest | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1:
        raise OutOfRange("there are several Idempotency-Key headers: send one")
    return idempotent_request(user.id, keys[0], request.method, request.url.path, body.raw)
