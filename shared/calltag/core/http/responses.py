"""Heads of responses, and complete responses to refused requests."""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import orjson
from starlette.types import Message, Receive, Scope, Send

from calltag.core.domain.status import StatusCode

Fields = Iterable[tuple[bytes, bytes]]
WITHOUT_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_LINE_ENDS: Final = re.compile(rb"[\r\n\0]")


def head_of(status: int, fields: Fields) -> bytes:
    """Return the head of a response, with the empty line. Raises ValueError for a line end in a field."""
    return response_lines(status, fields) + b"\r\n"


def response_lines(status: int, fields: Fields) -> bytes:
    """Return status line and fields, each with its line end. Raises ValueError as `head_of` does."""
    lines = [_status_line(status)]
    for name, value in fields:
        if _LINE_ENDS.search(name) or _LINE_ENDS.search(value):
            raise ValueError(f"the field {name!r} of the answer has a line end")
        lines.append(name + b": " + value)
    lines.append(b"")
    return b"\r\n".join(lines)


@lru_cache(maxsize=128)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}".encode()


def date_line() -> bytes:
    """Return the Date field for the present time, with its line end; cached for a second."""
    return _date_line(int(time.time()))


@lru_cache(maxsize=2)
def _date_line(second: int) -> bytes:
    return f"date: {formatdate(second, usegmt=True)}\r\n".encode()


UNAVAILABLE: Final = 503
_UPGRADE_REQUIRED: Final = 426


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error response, after which the connection is closed."""

    status: int
    text: str
    retry_after_s: int | None = None

    def encoded(self, *, has_body: bool = True) -> bytes:
        """Return the whole response; `has_body` is False for HEAD."""
        code = StatusCode.INTERNAL if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else StatusCode.OUT_OF_RANGE
        body = orjson.dumps({"statusCode": int(code), "statusMessage": self.text})
        fields = [
            (b"content-type", b"application/json;charset=UTF-8"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"date", formatdate(usegmt=True).encode()),
            (b"connection", b"close"),
        ]
        if self.retry_after_s is not None:
            fields.append((b"retry-after", b"%d" % self.retry_after_s))
        if self.status == _UPGRADE_REQUIRED:
            # RFC 6455 (4.4) and RFC 9110 (15.5.22) demand them.
            fields += [(b"sec-websocket-version", b"13"), (b"upgrade", b"websocket")]
        return head_of(self.status, fields) + (body if has_body else b"")


async def answer_unavailable(send: Send, text: str, *, retry_after_s: int = 1, close: bool = False) -> None:
    """Send the whole response, with Retry-After in seconds; `close` makes it the last one of the connection."""
    body = orjson.dumps({"statusCode": int(StatusCode.INTERNAL), "statusMessage": text})
    headers = [
        (b"content-type", b"application/json;charset=UTF-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"retry-after", str(retry_after_s).encode()),
        *([(b"connection", b"close")] if close else []),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class NotYet:
    """Placeholder application of a server that is not ready; it answers HTTP 503."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        async def send_by_websocket(message: Message) -> None:
            await send({**message, "type": f"websocket.{message['type']}"})

        await answer_unavailable(send if scope["type"] == "http" else send_by_websocket, self._text)
