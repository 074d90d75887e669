"""The course of a request that carries an operation, the same for all of them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
from starlette.requests import Request
from starlette.responses import Response

from calltag.core.domain.ids import OperationId
from calltag.core.identity.model import User
from calltag.gateway.answers import answer
from calltag.gateway.bodies import BodyReader, ReadBody
from calltag.gateway.errors import ApiError
from calltag.gateway.idempotency import (
    IdempotencyRecords,
    IdempotentRequest,
    RecordedAnswer,
    idempotent_request,
)
from calltag.gateway.requests import wait_s
from calltag.gateway.service import Terms, new_operation_id

Submit = Callable[[Terms], Awaitable[Mapping[str, object]]]
Understand = Callable[[User, ReadBody], Submit]


@dataclass(frozen=True, slots=True)
class OperationRequests:
    """Carries out requests: body, parameters, idempotency, submission, answer."""

    bodies: BodyReader
    records: IdempotencyRecords
    max_wait_s: int = 10

    async def perform(self, request: Request, user: User, understand: Understand) -> Response:
        """Answer the request.

        `understand` reads the parameters and returns what submits the operation, which gives what the answer holds
        beside statusCode 0. Raises ApiError, StoreUnavailable.
        """
        body = await self.bodies.read(request)
        wait = wait_s(request.headers.get("prefer"), self.max_wait_s)
        submit = understand(user, body)
        idempotent = _idempotent(request, user, body)
        operation_id = _operation_id(idempotent)
        if idempotent is not None:
            before = await self.records.answer(idempotent)
            if before is not None:
                return answer(before.body, before.http_status, {"Idempotent-Replayed": "true"})
            await self.records.begin(idempotent)
        structlog.contextvars.bind_contextvars(operation_id=operation_id)
        given = await self._submit(submit, Terms(operation_id, wait), idempotent)
        headers: dict[str, str] = {"Operation-Id": operation_id}
        if wait is not None:
            headers["Preference-Applied"] = f"wait={wait}"
        return answer(given.body, given.http_status, headers)

    async def _submit(self, submit: Submit, terms: Terms, idempotent: IdempotentRequest | None) -> RecordedAnswer:
        try:
            given = RecordedAnswer(200, {"statusCode": 0, **await submit(terms)})
        except ApiError as error:
            # What the worker refused is an answer as final as a success; all else may be tried again.
            if idempotent is None or not error.final:
                raise
            given = RecordedAnswer(error.http_status, error.body())
        if idempotent is not None:
            await self.records.finish(idempotent, given)
        return given


def _idempotent(request: Request, user: User, body: ReadBody) -> IdempotentRequest | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    return idempotent_request(user.id, key, request.method, request.url.path, body.raw)


def _operation_id(idempotent: IdempotentRequest | None) -> OperationId:
    return new_operation_id() if idempotent is None else idempotent.operation_id
