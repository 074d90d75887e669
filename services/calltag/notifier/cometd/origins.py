"""Which pages may speak to CometD: a browser says of every WebSocket and every POST where the page came from.

Browsers let any page open a WebSocket to anywhere and send it the user's cookies along (RFC 6455, section 10.2), so
the server has to look. Clients that are no browsers send no Origin, and are not bound by this.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from calltag.core.http.cross_origin import CrossOrigin
from calltag.core.http.origin import AllowedOrigins, Origin


@dataclass(frozen=True, slots=True)
class Origins:
    """The origins allowed beside the server's own, which are that of the Host header and that of `public`."""

    allowed: AllowedOrigins = field(default_factory=AllowedOrigins)
    public: AllowedOrigins = field(default_factory=AllowedOrigins)

    def pass_(self, connection: HTTPConnection) -> bool:
        """Whether the request comes from no page, from a page of this server, or from one that is allowed."""
        origin = connection.headers.get("origin")
        return origin is None or self.allow(origin, connection)

    def allow(self, text: str, connection: HTTPConnection) -> bool:
        """Whether the origin is this server's own, or one that is allowed."""
        if self.allowed.any:
            return True
        try:
            origin = Origin.parse(text)
        except ValueError:
            return False
        if origin in self.allowed or origin in self.public:
            return True
        return origin.is_served_at(connection.headers.get("host", ""))

    def middleware(self, methods: Sequence[str]) -> Sequence[Middleware]:
        """What answers preflight requests and lets scripts of allowed origins read the answers."""
        return [Middleware(CrossOrigin, self.allowed, methods=methods)]
