"""What every answer has, of whichever service: the id of its request, which log lines have too, and `nosniff`."""

import random
import re
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER: Final = "X-Request-Id"
_NAME: Final = HEADER.lower().encode()
_GOOD: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADS: Final = ("http.response.start", "websocket.accept")
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
"""Browsers take an answer for what its Content-Type says, so that data that users wrote is never run as a script."""


@dataclass(frozen=True, slots=True)
class RequestIds:
    """An ASGI application around another: takes the id from `X-Request-Id`, or makes one, and answers with it.

    Log lines have it as `request_id`.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _given(scope) or _new_id()
        # A request that was pipelined begins in the context of the one before.
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)

        headers = ((_NAME, request_id.encode()), _NOSNIFF)

        async def send_with_id(message: Message) -> None:
            if message["type"] in _HEADS:
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await self.app(scope, receive, send_with_id)


def _new_id() -> str:
    return f"{random.getrandbits(128):032x}"


def _given(scope: Scope) -> str | None:
    for name, value in scope.get("headers", ()):
        if name == _NAME:
            return value.decode() if _GOOD.fullmatch(value) else None
    return None
