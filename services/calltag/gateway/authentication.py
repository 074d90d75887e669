"""Authentication of API requests, and CSRF protection."""

from dataclasses import dataclass
from enum import StrEnum

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request

from calltag.core.http.scope import USER
from calltag.core.identity.authentication import (
    COOKIE,
    Authenticator,
    Identified,
    LockedOut,
    LoginUnavailable,
    WrongCredentials,
)
from calltag.core.identity.directory import User
from calltag.core.identity.http_sessions import CSRF_HEADER, CSRF_MESSAGE, csrf_headers, csrf_passes, values_of
from calltag.gateway.errors import BackendUnavailable, FeatureMissing, NotAuthenticated, TooManyAttempts


class Challenge(StrEnum):
    """Answer to a request without valid credentials."""

    ALWAYS = "always"
    """HTTP 401 with `WWW-Authenticate`: a browser asks for name and password."""
    NEVER = "never"
    """HTTP 403 without it, as Web Services does: a desktop shows its own login page."""
    AUTO = "auto"
    """403 for scripts and clients that ask for JSON, 401 for the rest."""


def is_by_script(headers: Headers) -> bool:
    """Return whether a script or a client for the API sent the request, rather than a person by a browser or curl.

    Browsers name the mode of a request (Fetch Metadata). Other scripts are known by `X-Requested-With`, `Origin` or the
    media type that they accept.
    """
    mode = headers.get("sec-fetch-mode")
    if mode is not None:
        return mode != "navigate"
    accepts = headers.get("accept", "")
    return (
        "x-requested-with" in headers
        or "origin" in headers
        or ("application/json" in accepts and "text/html" not in accepts)
    )


@dataclass(frozen=True, slots=True)
class ApiAuthentication:
    """Authenticates requests, and stores in their state the headers for the response."""

    authenticator: Authenticator
    csrf_protection: bool
    challenge: Challenge = Challenge.AUTO

    async def user(self, request: Request) -> User:
        """Return the authenticated user. Raises as `identify`."""
        return (await self.identify(request)).user

    async def identify(self, request: Request) -> Identified:
        """Return the authenticated user, and the session.

        Raises NotAuthenticated, TooManyAttempts, FeatureMissing (CSRF), BackendUnavailable, StoreUnavailable.
        """
        try:
            known = await self.authenticator.identify(
                request.headers.getlist("authorization"),
                values_of(COOKIE, request.headers.getlist("cookie")),
                request.client.host if request.client else "",
                request.scope.get(USER, ""),
            )
        except WrongCredentials as wrong:
            raise self._not_authenticated(request, str(wrong)) from None
        except LockedOut as locked:
            raise TooManyAttempts(str(locked), locked.wait_s) from None
        except LoginUnavailable as busy:
            raise BackendUnavailable(str(busy)) from None
        if known is None:
            raise self._not_authenticated(
                request, "not authenticated: send HTTP Basic credentials or the session cookie"
            )
        request.state.set_cookie = known.set_cookie
        if self.csrf_protection:
            tokens = request.headers.getlist(CSRF_HEADER)
            if not csrf_passes(request.method, known.session, tokens, by_cookie=known.by_cookie):
                raise FeatureMissing(CSRF_MESSAGE)
            if request.method == "GET":
                request.state.headers.update(csrf_headers(known.session))
        structlog.contextvars.bind_contextvars(user=known.user.id)
        return known

    def _not_authenticated(self, request: Request, message: str) -> NotAuthenticated:
        challenge = self.challenge is Challenge.ALWAYS or (
            self.challenge is Challenge.AUTO and not is_by_script(request.headers)
        )
        return NotAuthenticated(message, challenge=challenge)
