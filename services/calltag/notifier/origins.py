"""Origin check of CometD: browsers send the page's origin with every WebSocket handshake and every POST.

Browsers let any page open a WebSocket to any server, with the user's cookies (RFC 6455, section 10.2), so the server
has to check. Clients that are no browsers send no Origin, and are not restricted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from calltag.core.http.cross_origin import CrossOrigin
from calltag.core.http.origin import AllowedOrigins, Origin
from calltag.core.identity.csrf import EXPOSED_HEADERS
from calltag.core.telemetry import request_ids

_EXPOSED = ", ".join((*EXPOSED_HEADERS, request_ids.HEADER)).encode()


@dataclass(frozen=True, slots=True)
class Origins:
    """The allowed origins, and the server's own ones: that of the Host header and those in `public`."""

    allowed: AllowedOrigins = field(default_factory=AllowedOrigins)
    public: AllowedOrigins = field(default_factory=AllowedOrigins)

    def pass_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether the request comes from no page, from a page of this server, or from one that is allowed."""
        origin, host = _origin_and_host(headers)
        return origin is None or self.allow(origin, host)

    def pass_(self, connection: HTTPConnection) -> bool:
        """Do the same for a request of an ASGI application."""
        return self.pass_headers(connection.scope["headers"])

    def allow(self, text: str, host: str) -> bool:
        """Return whether the origin is this server's own, or one that is allowed."""
        if self.allowed.any:
            return True
        try:
            origin = Origin.parse(text)
        except ValueError:
            return False
        return origin in self.allowed or origin in self.public or origin.is_served_at(host)

    def cors_fields(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the CORS fields of a response; none if the request's page may not read it."""
        if not self.allowed:
            return []
        origin, _ = _origin_and_host(headers)
        if origin is None:
            return []
        exposed = (b"access-control-expose-headers", _EXPOSED)
        if self.allowed.any:
            # With credentials, an unknown page could act with the user's cookies.
            return [(b"access-control-allow-origin", b"*"), exposed]
        vary = (b"vary", b"Origin")
        if not self.allowed.allow(origin):
            return [vary]
        allow = (b"access-control-allow-origin", origin.encode("latin-1"))
        return [allow, (b"access-control-allow-credentials", b"true"), exposed, vary]

    def middleware(self, methods: Sequence[str]) -> Sequence[Middleware]:
        """Return the middleware that answers CORS preflights and lets scripts of allowed origins read the answers."""
        return [Middleware(CrossOrigin, self.allowed, methods=methods)]


def _origin_and_host(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, str]:
    origin, host = None, ""
    for name, value in headers:
        if name == b"origin":
            origin = value.decode("latin-1")
        elif name == b"host":
            host = value.decode("latin-1")
    return origin, host
