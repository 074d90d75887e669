"""Answers that the server gives by itself, in the form of the API."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import orjson

from calltag.core.domain.status import StatusCode

UNAVAILABLE: Final = 503
_LINE_ENDS: Final = re.compile(rb"[\r\n\0]")
_UPGRADE_REQUIRED: Final = 426
_INVALID: Final = 400


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer with an error, after which the connection ends."""

    status: int
    text: str
    retry_after_s: int | None = None

    def encoded(self, *, has_body: bool = True) -> bytes:
        """The whole answer; to HEAD, without its body."""
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
            # RFC 6455 (4.4) and RFC 9110 (15.5.22).
            fields += [(b"sec-websocket-version", b"13"), (b"upgrade", b"websocket")]
        return head_of(self.status, fields) + (body if has_body else b"")


def head_of(status: int, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Status line and fields of an answer, with the empty line. Raises ValueError."""
    lines = [status_line(status)]
    for name, value in fields:
        if _LINE_ENDS.search(name) or _LINE_ENDS.search(value):
            raise ValueError(f"the field {name!r} of the answer has a line end")
        lines.append(name + b": " + value)
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


@lru_cache(maxsize=128)
def status_line(status: int) -> bytes:
    """The status line without its end."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}".encode()
