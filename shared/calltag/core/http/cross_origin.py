"""Cross-origin resource sharing (CORS) by the Fetch standard, for the allowed origins."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import orjson
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from calltag.core.domain.status import StatusCode
from calltag.core.http.origin import AllowedOrigins, Origin, origin_and_host
from calltag.core.identity.http_sessions import CSRF_EXPOSED_HEADERS, CSRF_HEADER
from calltag.core.telemetry import request_ids
from calltag.core.telemetry.conditions import Condition

_NOT_ALLOWED: Final = Condition(
    "origin_not_allowed", cure="CALLTAG_ALLOWED_ORIGINS lists the origins whose pages may use calltag"
)
_MAX_SHOWN: Final = 100
FOREIGN: Final = "pages of this origin may not use calltag; allow it with CALLTAG_ALLOWED_ORIGINS"


class ForeignOrigin(Exception):
    """A page of another origin made a request."""


def note_foreign(origin: str) -> None:
    """Log that a page may not use calltag: a browser shows its user no reason, and its developer hardly any."""
    _NOT_ALLOWED.fails(ForeignOrigin(f"a page of {origin[:_MAX_SHOWN]} made a request"))


class CrossOrigin(CORSMiddleware):
    """ASGI middleware that lets pages of the allowed origins use an application.

    They may send `headers` and read `exposed`, beside the CORS-safelisted headers and those of every service. `own` are
    origins of this server beside that of the Host header.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed: AllowedOrigins,
        *,
        methods: Sequence[str],
        headers: Sequence[str] = (),
        exposed: Sequence[str] = (),
        own: AllowedOrigins | None = None,
    ) -> None:
        super().__init__(
            app,
            allow_origins=("*",) if allowed.any else (),
            # With `*`, an unknown page could act with the user's cookies.
            allow_credentials=not allowed.any,
            allow_methods=methods,
            allow_headers=("Content-Type", "Authorization", CSRF_HEADER, request_ids.HEADER, *headers),
            expose_headers=tuple(dict.fromkeys((*CSRF_EXPOSED_HEADERS, request_ids.HEADER, *exposed))),
        )
        self._allowed = allowed
        self._own = own or AllowedOrigins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._allowed.any and scope["type"] == "http":
            self._check(scope["headers"])
        if self._allowed or scope.get("method") == "OPTIONS":
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Note a page of another origin, which can read no answer."""
        origin, host = origin_and_host(headers)
        if origin is None or self._allowed.allow(origin) or self._own.allow(origin):
            return
        with suppress(ValueError):
            if Origin.parse(origin).is_served_at(host):
                return
        note_foreign(origin)

    def is_allowed_origin(self, origin: str) -> bool:
        """Return whether pages of the origin may read responses; the spelling does not matter."""
        return self._allowed.allow(origin)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight; an origin that is not allowed gets HTTP 403 in the form of the API."""
        if self._allowed.allow(request_headers["origin"]):
            return super().preflight_response(request_headers)
        body = {"statusCode": int(StatusCode.FORBIDDEN), "statusMessage": FOREIGN}
        return Response(orjson.dumps(body), 403, {"Cache-Control": "no-store"}, "application/json;charset=UTF-8")
