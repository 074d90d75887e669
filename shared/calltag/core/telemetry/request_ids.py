"""Headers of every response of all services: the request id, which log lines have too, and `nosniff`."""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER: Final = "X-Request-Id"
_NAME: Final = HEADER.lower().encode()
_GOOD: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADS: Final = ("http.response.start", "websocket.accept")
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
"""Browsers then trust the Content-Type, so that data written by users is never run as a script."""


@dataclass(frozen=True, slots=True)
class RequestIds:
    """ASGI middleware: takes the id from `X-Request-Id`, or creates one, and returns it in the response.

    Log lines carry it as `request_id`.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = request_id_of(scope.get("headers", ())).decode()
        # A pipelined request starts in the context of the one before.
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)

        headers = ((_NAME, request_id.encode()), _NOSNIFF)

        async def send_with_id(message: Message) -> None:
            if message["type"] in _HEADS:
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await self.app(scope, receive, send_with_id)


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id in the headers of a request, or a new one."""
    return given_id(headers) or new_id()


def given_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id in the headers of a request, b"" without a valid one."""
    return next((value for name, value in headers if name == _NAME and _GOOD.fullmatch(value)), b"")


def new_id() -> bytes:
    """Return a random id of 128 bits in hexadecimal."""
    return b"%032x" % random.getrandbits(128)
