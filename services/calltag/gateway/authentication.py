"""Authentication of API requests, and CSRF protection."""

from dataclasses import dataclass

import structlog
from starlette.requests import Request

from calltag.core.identity.authentication import COOKIE, Authenticator, LockedOut, TooManyLogins, WrongCredentials
from calltag.core.identity.directory import User
from calltag.core.identity.http_sessions import CSRF_HEADER, CSRF_MESSAGE, csrf_headers, csrf_passes, values_of
from calltag.gateway.errors import BackendUnavailable, FeatureMissing, NotAuthenticated, TooManyAttempts


@dataclass(frozen=True, slots=True)
class ApiAuthentication:
    """Authenticates requests, and stores in their state the headers for the response."""

    authenticator: Authenticator
    csrf_protection: bool

    async def user(self, request: Request) -> User:
        """Return the authenticated user.

        Raises NotAuthenticated, TooManyAttempts, FeatureMissing (CSRF), BackendUnavailable, StoreUnavailable.
        """
        try:
            known = await self.authenticator.identify(
                request.headers.getlist("authorization"),
                values_of(COOKIE, request.headers.getlist("cookie")),
                request.client.host if request.client else "",
            )
        except WrongCredentials as wrong:
            raise NotAuthenticated(str(wrong)) from None
        except LockedOut as locked:
            raise TooManyAttempts(str(locked), locked.wait_s) from None
        except TooManyLogins as busy:
            raise BackendUnavailable(str(busy)) from None
        if known is None:
            raise NotAuthenticated("not authenticated: send HTTP Basic credentials or the session cookie")
        request.state.set_cookie = known.set_cookie
        if self.csrf_protection:
            tokens = request.headers.getlist(CSRF_HEADER)
            if not csrf_passes(request.method, known.session, tokens, by_cookie=known.by_cookie):
                raise FeatureMissing(CSRF_MESSAGE)
            if request.method == "GET":
                request.state.headers.update(csrf_headers(known.session))
        structlog.contextvars.bind_contextvars(user=known.user.id)
        return known.user
