"""Idempotency keys: a repeated request takes effect once and gets the same response.

The operation id, which is derived from the key, prevents a second effect. The records here keep the response's code,
and detect a different request under the same key.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, Protocol, cast
from uuid import uuid4

import orjson

from calltag.core.domain.ids import OperationId, UserId, idempotent_operation_id
from calltag.core.domain.status import StatusCode
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.gateway.call_service import now_ms
from calltag.gateway.errors import AlreadyUsed, OutOfRange

_MAX_KEY_LENGTH: Final = 255


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request with an idempotency key: `digest` is a hash of the key, `fingerprint` of method, path and body."""

    user: UserId
    digest: str
    fingerprint: str

    @property
    def operation_id(self) -> OperationId:
        """The id of the operation, the same for each repetition of the request."""
        return idempotent_operation_id(self.user, self.digest)


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """The response that was sent, without the call that it may have shown.

    `is_outcome`: it reports the outcome of the operation, rather than its acceptance.
    """

    http_status: int
    code: StatusCode
    message: str = ""
    is_outcome: bool = True

    def body(self) -> dict[str, object]:
        """Return the JSON of the response."""
        message = {"statusMessage": self.message} if self.code is not StatusCode.SUCCESS else {}
        return {"statusCode": int(self.code), **message}


@dataclass(frozen=True, slots=True)
class Record:
    """An earlier request: when it began (Unix time in milliseconds), and its response, if there was one."""

    begun_at_ms: int
    answer: RecordedAnswer | None = None


class IdempotencyRecords(Protocol):
    """Storage of requests for the lifetime of their keys. Every method may raise StoreUnavailable."""

    async def find(self, request: IdempotentRequest) -> Record | None:
        """Return the record of this request, if it was made before.

        Raises AlreadyUsed if the key belongs to another request.
        """
        ...

    async def begin(self, request: IdempotentRequest, now_ms: int) -> None:
        """Bind the key to the request, unless it is bound already. Raises AlreadyUsed if it is bound to another."""
        ...

    async def finish(self, request: IdempotentRequest, begun_at_ms: int, answer: RecordedAnswer) -> None:
        """Record the response."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt at a request, under an operation id that a retry shares; `request` is None without a key.

    `recorded` is the answer to an earlier attempt, which is to be repeated.
    """

    operation_id: OperationId
    request: IdempotentRequest | None = None
    is_retry: bool = False
    begun_at_ms: int = 0
    recorded: RecordedAnswer | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """Recognises retries. The worker recognises a repeated operation for `memory_ms`. Raises StoreUnavailable."""

    records: IdempotencyRecords
    memory_ms: int = 3_600_000
    clock_ms: Callable[[], int] = now_ms

    async def attempt(self, request: IdempotentRequest | None, *, waits: bool) -> Attempt:
        """Return the attempt at a request; `waits` if the client waits for the outcome. Raises AlreadyUsed."""
        if request is None:
            return Attempt(OperationId(uuid4().hex))
        before, now = await self.records.find(request), self.clock_ms()
        if before is None:
            return Attempt(request.operation_id, request, begun_at_ms=now)
        retry = Attempt(request.operation_id, request, is_retry=True, begun_at_ms=before.begun_at_ms)
        is_forgotten = now - before.begun_at_ms >= self.memory_ms
        # A client that waits wants the outcome: the worker returns it while it recognises the operation.
        if before.answer is not None and (before.answer.is_outcome or not waits or is_forgotten):
            return replace(retry, recorded=before.answer)
        if before.answer is None and is_forgotten:
            raise AlreadyUsed("the outcome of the first attempt has expired; use a new key")
        return retry

    async def begin(self, attempt: Attempt) -> None:
        """Bind the key, before the operation is published. Raises AlreadyUsed."""
        if attempt.request is not None:
            await self.records.begin(attempt.request, attempt.begun_at_ms)

    async def finish(self, attempt: Attempt, answer: RecordedAnswer) -> None:
        """Record the final answer."""
        if attempt.request is not None:
            await self.records.finish(attempt.request, attempt.begun_at_ms, answer)


def idempotent_request(user: UserId, key: str, method: str, path: str, body: bytes) -> IdempotentRequest:
    """Hash key and content of a request. Raises OutOfRange if the key is not 1 to 255 printable ASCII characters."""
    if not 0 < len(key) <= _MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise OutOfRange(f"Idempotency-Key must be 1 to {_MAX_KEY_LENGTH} printable ASCII characters")
    fingerprint = sha256(b"\0".join((method.encode(), path.encode(), body))).hexdigest()
    return IdempotentRequest(user, sha256(key.encode()).hexdigest()[:32], fingerprint)


class RedisIdempotencyRecords:
    """Implements IdempotencyRecords; each record expires after `lifetime_s` seconds."""

    def __init__(self, client: RedisClient, keys: Keys, *, lifetime_s: int = 86_400) -> None:
        self._client = client
        self._keys = keys
        self._lifetime_s = lifetime_s

    async def find(self, request: IdempotentRequest) -> Record | None:
        raw = await self._client.execute("GET", self._name(request))
        return _read(cast("bytes", raw), request) if raw is not None else None

    async def begin(self, request: IdempotentRequest, now_ms: int) -> None:
        record = orjson.dumps({"fingerprint": request.fingerprint, "begun": now_ms})
        before = await self._client.execute("SET", self._name(request), record, "NX", "GET", "EX", self._lifetime_s)
        if before is not None:
            _read(cast("bytes", before), request)

    async def finish(self, request: IdempotentRequest, begun_at_ms: int, answer: RecordedAnswer) -> None:
        given = {"status": answer.http_status, "code": int(answer.code), "message": answer.message}
        record = orjson.dumps(
            {"fingerprint": request.fingerprint, "begun": begun_at_ms, **given, "outcome": answer.is_outcome}
        )
        await self._client.execute("SET", self._name(request), record, "EX", self._lifetime_s)

    def _name(self, request: IdempotentRequest) -> str:
        return self._keys.idempotency(request.user, request.digest)


def _read(raw: bytes, request: IdempotentRequest) -> Record:
    record = orjson.loads(raw)
    if record["fingerprint"] != request.fingerprint:
        raise AlreadyUsed("Idempotency-Key was used for another request; take a new key for a new request")
    if "status" not in record:
        return Record(record["begun"])
    code = StatusCode(record["code"])
    return Record(record["begun"], RecordedAnswer(record["status"], code, record["message"], record["outcome"]))
