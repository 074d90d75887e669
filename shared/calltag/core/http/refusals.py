"""Error responses of the server itself, in the form of the API."""

from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import orjson

from calltag.core.domain.status import StatusCode
from calltag.core.http.response_head import head_of

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
