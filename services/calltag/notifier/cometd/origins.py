"""Which pages may speak to CometD: a browser says of every WebSocket and every POST where the page came from.

Browsers let any page open a WebSocket to anywhere and send it the user's cookies along (RFC 6455, section 10.2), so
the server has to look. Clients that are no browsers send no Origin, and are not bound by this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection

from calltag.core.identity.csrf import HEADER
from calltag.core.telemetry import request_ids

ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class Origins:
    """The origins allowed beside the server's own; `*` allows all."""

    allowed: Sequence[str] = ()

    def pass_(self, connection: HTTPConnection) -> bool:
        """Whether the request comes from no page, from a page of this server, or from one that is allowed."""
        origin = connection.headers.get("origin")
        return origin is None or self.allow(origin, connection)

    def allow(self, origin: str, connection: HTTPConnection) -> bool:
        """Whether the origin is this server's own, or one that is allowed."""
        if ANY in self.allowed or origin in self.allowed:
            return True
        try:
            # Behind a proxy that ends TLS the scheme is not known here: host and port have to do.
            return urlsplit(origin).netloc == connection.headers.get("host")
        except ValueError:
            return False

    def middleware(self) -> list[Middleware]:
        """What answers preflight requests and lets scripts of allowed origins read the answers."""
        if not self.allowed:
            return []
        return [
            Middleware(
                CORSMiddleware,
                allow_origins=list(self.allowed),
                # With any origin, a page that nobody knows would act with the user's cookies.
                allow_credentials=ANY not in self.allowed,
                allow_methods=["POST"],
                allow_headers=["Content-Type", "Authorization", HEADER, request_ids.HEADER],
                expose_headers=[request_ids.HEADER],
            )
        ]
