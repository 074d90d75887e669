"""The course of a request that carries an operation, the same for all of them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
from starlette.requests import Request
from starlette.responses import Response

from calltag.core.domain.ids import OperationId
from calltag.core.domain.status import StatusCode
from calltag.core.identity.model import Role, User
from calltag.gateway.answers import answer
from calltag.gateway.bodies import BodyReader, ReadBody
from calltag.gateway.errors import AlreadyUsed, ApiError, OutOfRange
from calltag.gateway.idempotency import (
    IdempotencyRecords,
    IdempotentRequest,
    RecordedAnswer,
    idempotent_request,
)
from calltag.gateway.rates import Rates
from calltag.gateway.requests import wait_s
from calltag.gateway.service import Terms, new_operation_id, now_ms

Held = Mapping[str, object]


async def _nothing(_: OperationId) -> Held:
    return {}


@dataclass(frozen=True, slots=True)
class Understood:
    """A request whose parameters were read.

    `submit` submits the operation, `look` only looks; both give what the answer holds beside statusCode 0. What is of
    one operation names it in the answer (`Operation-Id`).
    """

    submit: Callable[[Terms], Awaitable[Held]]
    look: Callable[[OperationId], Awaitable[Held]] = _nothing
    names_operation: bool = True


Understand = Callable[[User, ReadBody], Understood]


@dataclass(frozen=True, slots=True)
class OperationRequests:
    """Carries out requests: body, parameters, idempotency, submission, answer.

    For `memory_ms` the worker recognises an operation that is submitted again.
    """

    bodies: BodyReader
    records: IdempotencyRecords
    max_wait_s: int = 10
    memory_ms: int = 3_600_000
    clock_ms: Callable[[], int] = now_ms
    rates: Rates | None = None

    async def perform(self, request: Request, user: User, understand: Understand) -> Response:
        """Answer the request; `understand` reads its parameters. Raises ApiError, StoreError."""
        if self.rates is not None and Role.SWITCH not in user.roles:
            self.rates.check(user.id, request.client.host if request.client else "")
        body = await self.bodies.read(request)
        wait = wait_s(request.headers.getlist("prefer"), self.max_wait_s)
        understood = understand(user, body)
        idempotent = _idempotent(request, user, body)
        if idempotent is None:
            return await self._perform(understood, Terms(new_operation_id(), wait))
        before, now = await self.records.find(idempotent), self.clock_ms()
        forgotten = before is not None and now - before.begun_at_ms >= self.memory_ms
        if before is not None and before.answer is not None:
            # Who waits wants the outcome: while the worker would recognise the operation, it is asked for it.
            if before.answer.is_outcome or wait is None or forgotten:
                return await _replayed(before.answer, understood, idempotent.operation_id, wait)
        elif forgotten:
            raise AlreadyUsed("the outcome of the first try is not known any more; take a new key")
        terms = Terms(idempotent.operation_id, wait, before is not None, lambda: self.records.begin(idempotent, now))
        begun_at_ms = now if before is None else before.begun_at_ms
        return await self._perform(understood, terms, idempotent, begun_at_ms)

    async def _perform(
        self, understood: Understood, terms: Terms, idempotent: IdempotentRequest | None = None, begun_at_ms: int = 0
    ) -> Response:
        headers: dict[str, str] = {}
        if understood.names_operation:
            structlog.contextvars.bind_contextvars(operation_id=terms.operation_id)
            headers["Operation-Id"] = terms.operation_id
        if terms.wait_s is not None:
            headers["Preference-Applied"] = f"wait={terms.wait_s:d}"
        held: Held = {}
        try:
            held = await understood.submit(terms)
            given = RecordedAnswer(200, StatusCode.SUCCESS, is_outcome=terms.wait_s is not None)
        except ApiError as error:
            # What the worker refused is an answer as final as a success; all else may be tried again.
            if idempotent is None or not error.final:
                raise
            given = RecordedAnswer(error.http_status, error.code, error.message)
        if idempotent is not None:
            await self.records.finish(idempotent, begun_at_ms, given)
        return answer({**given.body(), **held}, given.http_status, headers)


async def _replayed(
    given: RecordedAnswer, understood: Understood, operation_id: OperationId, wait: int | None
) -> Response:
    """The answer to a request that was answered before: where it waits for a call, the call as it is now."""
    shows = wait is not None and given.code is StatusCode.SUCCESS
    held = await understood.look(operation_id) if shows else {}
    return answer({**given.body(), **held}, given.http_status, {"Idempotent-Replayed": "true"})


def _idempotent(request: Request, user: User, body: ReadBody) -> IdempotentRequest | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1:
        raise OutOfRange("there are several Idempotency-Key headers: send one")
    return idempotent_request(user.id, keys[0], request.method, request.url.path, body.raw)
