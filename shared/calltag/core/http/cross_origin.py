"""Cross-origin resource sharing: which pages of other origins may read answers, by the Fetch standard."""

from collections.abc import Sequence
from typing import Final

import orjson
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from calltag.core.domain.status import StatusCode
from calltag.core.http.origin import AllowedOrigins
from calltag.core.identity.csrf import EXPOSED_HEADERS, HEADER
from calltag.core.telemetry import request_ids

FOREIGN: Final = "pages of this origin may not use calltag; allow it with CALLTAG_ALLOWED_ORIGINS"


class CrossOrigin(CORSMiddleware):
    """An ASGI application around another, which the pages of the allowed origins may use.

    `headers` are those that they may send, `exposed` those that they may read, beside what is simple and what every
    service has.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed: AllowedOrigins,
        *,
        methods: Sequence[str],
        headers: Sequence[str] = (),
        exposed: Sequence[str] = (),
    ) -> None:
        super().__init__(
            app,
            allow_origins=("*",) if allowed.any else (),
            # With any origin, a page that nobody knows would act with the user's cookies.
            allow_credentials=not allowed.any,
            allow_methods=methods,
            allow_headers=("Content-Type", "Authorization", HEADER, request_ids.HEADER, *headers),
            expose_headers=(*EXPOSED_HEADERS, request_ids.HEADER, *exposed),
        )
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._allowed or scope.get("method") == "OPTIONS":
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def is_allowed_origin(self, origin: str) -> bool:
        """Whether pages of this origin may read answers; the origin may be written in any way."""
        return self._allowed.allow(origin)

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks before it sends a request."""
        if self._allowed.allow(request_headers["origin"]):
            return super().preflight_response(request_headers)
        body = {"statusCode": int(StatusCode.FORBIDDEN), "statusMessage": FOREIGN}
        return Response(orjson.dumps(body), 403, {"Cache-Control": "no-store"}, "application/json;charset=UTF-8")
