"""Where CometD is served: the endpoint of a GWS installation, and the one under the API."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from calltag.core.bayeux.engine import CALLBACK_POLLING
from calltag.core.http.cross_origin import FOREIGN
from calltag.core.identity.authentication import (
    COOKIE,
    Authenticator,
    Identified,
    LockedOut,
    SessionOver,
    TooManyLogins,
    WrongCredentials,
)
from calltag.core.identity.cookies import values_of
from calltag.core.identity.csrf import HEADER, MESSAGE, csrf_passes
from calltag.core.store.ports import StoreUnavailable
from calltag.notifier.cometd.access import Login
from calltag.notifier.cometd.admission import Crowded, retry_after_s
from calltag.notifier.cometd.bodies import BodyReader
from calltag.notifier.cometd.browsers import Browsers
from calltag.notifier.cometd.callback_polling import OFF, Pages
from calltag.notifier.cometd.hub import Hub
from calltag.notifier.cometd.long_polling import callback_poll, long_poll
from calltag.notifier.cometd.origins import Origins
from calltag.notifier.cometd.websocket import Socket

PATHS: Final = ("/genesys/cometd", "/api/v2/notifications")
_NOT_SERVED: Final = "this method is not served here; send messages by POST"
_POLICY_VIOLATION: Final = 1008


class CsrfRefused(Exception):
    """The request shows no token, or a wrong one."""


@dataclass(frozen=True, slots=True)
class AuthenticatedAccess:
    """Implements Access on the authenticator. A wrong password proves nobody: the handshake says so."""

    authenticator: Authenticator
    csrf_protection: bool = False

    def login_of(self, connection: HTTPConnection) -> str:
        """The session cookie's digest; nothing where credentials are sent, which need no look into the store."""
        tokens = values_of(COOKIE, connection.headers.getlist("cookie"))
        # Of several it is not known yet which one is valid.
        if len(tokens) != 1 or "authorization" in connection.headers:
            return ""
        return sha256(tokens[0].encode(errors="replace")).hexdigest()

    def shows_credentials(self, connection: HTTPConnection) -> bool:
        cookies = values_of(COOKIE, connection.headers.getlist("cookie"))
        return "authorization" in connection.headers or bool(cookies)

    async def of_request(self, connection: HTTPConnection, *, begins: bool) -> Login | None:
        """Raises SessionOver, CsrfRefused, TooManyLogins, StoreUnavailable."""
        authorization = connection.headers.getlist("authorization")
        address = connection.client.host if connection.client else ""
        try:
            if authorization and not begins and not self.csrf_protection:
                user = await self.authenticator.check_header(authorization, address)
                return Login(user.id)
            cookies = values_of(COOKIE, connection.headers.getlist("cookie"))
            known = await self.authenticator.identify(authorization, cookies, address)
        except SessionOver:
            raise
        except WrongCredentials:
            return None
        if known is not None and self.csrf_protection and connection.scope["type"] == "http":
            tokens = connection.headers.getlist(HEADER)
            if not csrf_passes("POST", known.session, tokens, by_cookie=known.by_cookie):
                raise CsrfRefused
        return _login(known)

    async def of_credentials(self, name: str, password: str, address: str) -> Login | None:
        """With CSRF protection there is no cookie: it would demand a token that such a client never saw.

        Raises TooManyLogins, StoreUnavailable.
        """
        if self.csrf_protection:
            user = await self.authenticator.check(name, password, address)
            return Login(user.id) if user else None
        return _login(await self.authenticator.log_in(name, password, address))


def _login(known: Identified | None) -> Login | None:
    return Login(known.user.id, known.set_cookie) if known else None


def cometd_routes(
    hub: Hub,
    access: AuthenticatedAccess,
    origins: Origins,
    browsers: Browsers,
    *,
    body_deadline_s: float,
    socket_deadline_s: float,
) -> list[BaseRoute]:
    """Clients append the type of their message to the address, so the whole subtree is one endpoint."""
    bodies = BodyReader(hub.limits.max_body_bytes, body_deadline_s)
    pages = Pages(origins)
    # No HEAD: a GET carries messages, whose answers nobody would get.
    methods = ("GET", "OPTIONS", "POST") if CALLBACK_POLLING in hub.engine.connection_types else ("OPTIONS", "POST")

    async def answer(request: Request) -> Response:
        if not origins.pass_(request):
            return Response(FOREIGN, 403, media_type="text/plain")
        if request.method not in methods:
            text = OFF if request.method == "GET" else _NOT_SERVED
            return Response(text, 405, {"Allow": ", ".join(methods)}, media_type="text/plain")
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": ", ".join(methods)})
        if request.method == "GET":
            return await _guarded(lambda: callback_poll(request, hub, access, pages, browsers))
        return await _guarded(lambda: long_poll(request, hub, access, bodies, browsers))

    class Polling:
        """An application rather than a function: Starlette puts nothing between."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            response = await answer(Request(scope, receive, send))
            await response(scope, receive, send)

    async def socket(websocket: WebSocket) -> None:
        if not origins.pass_(websocket):
            # Before it is accepted, a close is an HTTP 403.
            await websocket.close(_POLICY_VIOLATION, FOREIGN)
            return
        with hub.sockets.opened():
            await Socket(websocket, hub, access, socket_deadline_s).run()

    cors = origins.middleware(methods)
    poll = Polling()
    routes: list[BaseRoute] = []
    for path in PATHS:
        routes += [
            WebSocketRoute(path, socket),
            Route(path, poll, middleware=cors),
            Route(f"{path}/{{suffix:path}}", poll, middleware=cors),
        ]
    return routes


async def _guarded(answer: Callable[[], Awaitable[Response]]) -> Response:
    try:
        return await answer()
    except CsrfRefused:
        return Response(MESSAGE, 403, media_type="text/plain")
    except LockedOut as error:
        return Response(str(error), 429, {"Retry-After": str(error.wait_s)}, media_type="text/plain")
    except (StoreUnavailable, TooManyLogins) as error:
        return Response(str(error), 503, {"Retry-After": "1"}, media_type="text/plain")
    except Crowded as error:
        return Response(str(error), 503, {"Retry-After": str(retry_after_s())}, media_type="text/plain")
    except ClientDisconnect:
        return Response(status_code=400)
