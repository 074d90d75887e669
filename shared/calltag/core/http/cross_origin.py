"""Origins of web pages, and responses to pages of other origins (CORS)."""

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import orjson
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from calltag.core.domain.status import StatusCode
from calltag.core.identity.http_sessions import EXPOSED_HEADERS, HEADER
from calltag.core.telemetry import request_ids

ANY: Final = "*"
_FORM: Final = "must be scheme, host and port, as in https://desk.example.com"
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a page, normalized: equal for all its spellings."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Parse `scheme://host` or `scheme://host:port` with the scheme http or https. Raises ValueError."""
        try:
            parts = urlsplit(text)
            host, port = _host(parts.hostname or "", is_ipv6=parts.netloc.startswith("[")), parts.port
        except ValueError:
            raise ValueError(_FORM) from None
        if parts.scheme not in _PORTS or parts.username is not None or parts.path or parts.query or parts.fragment:
            raise ValueError(_FORM)
        return cls(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)

    def is_served_at(self, host: str) -> bool:
        """Return whether a Host header has this origin's host and port.

        Host has no scheme, and behind a proxy that terminates TLS the scheme is unknown.
        """
        try:
            return Origin.parse(f"{self.scheme}://{host}") == self
        except ValueError:
            return False


def _host(name: str, *, is_ipv6: bool) -> str:
    if is_ipv6:
        return str(ipaddress.IPv6Address(name))
    host = name.lower().removesuffix(".")
    if not host:
        raise ValueError(_FORM)
    return host if host.isascii() else host.encode("idna").decode()


class AllowedOrigins:
    """Set of allowed origins; `*` allows all. Raises ValueError."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        given = tuple(texts)
        self.any = ANY in given
        self._origins: Collection[Origin] = frozenset(Origin.parse(each) for each in given if each != ANY)

    def __bool__(self) -> bool:
        return self.any or bool(self._origins)

    def __contains__(self, origin: object) -> bool:
        return self.any or origin in self._origins

    def allow(self, text: str) -> bool:
        """Return whether the value of an Origin header is allowed."""
        if self.any:
            return True
        try:
            return Origin.parse(text) in self._origins
        except ValueError:
            return False


FOREIGN: Final = "pages of this origin may not use calltag; allow it with CALLTAG_ALLOWED_ORIGINS"


class CrossOrigin(CORSMiddleware):
    """ASGI middleware that lets pages of the allowed origins use an application.

    They may send `headers` and read `exposed`, beside the CORS-safelisted headers and those of every service.
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
            # With `*`, an unknown page could act with the user's cookies.
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
        """Return whether pages of the origin may read responses; the spelling does not matter."""
        return self._allowed.allow(origin)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight; an origin that is not allowed gets HTTP 403 in the form of the API."""
        if self._allowed.allow(request_headers["origin"]):
            return super().preflight_response(request_headers)
        body = {"statusCode": int(StatusCode.FORBIDDEN), "statusMessage": FOREIGN}
        return Response(orjson.dumps(body), 403, {"Cache-Control": "no-store"}, "application/json;charset=UTF-8")
