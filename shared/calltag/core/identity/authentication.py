"""Who sent a request: HTTP Basic on any request, or the session cookie that it yields.

Source: Web Services API, authentication (HTTP Basic, cookie `JSESSIONID`).
"""

import base64
import binascii
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from calltag.core.domain.ids import UserId
from calltag.core.identity.http_sessions import HttpSession, HttpSessions
from calltag.core.identity.model import Directory, User
from calltag.core.identity.passwords import Passwords

COOKIE: Final = "JSESSIONID"
_REUSE_S: Final = 60.0
_REUSE_MOST: Final = 10_000


class WrongCredentials(Exception):
    """Credentials were given and are not right."""


@dataclass(frozen=True, slots=True)
class Identified:
    """The user behind a request, the session, and the Set-Cookie value to answer with, if the session is new."""

    user: User
    session: HttpSession
    set_cookie: str | None = None


class Authenticator:
    """Identifies requests by their `Authorization` header and their session cookie."""

    def __init__(
        self,
        directory: Directory,
        passwords: Passwords,
        sessions: HttpSessions,
        *,
        secure_cookies: bool = False,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._passwords = passwords
        self._sessions = sessions
        self._secure_cookies = secure_cookies
        self._clock_s = clock_s
        self._recent: OrderedDict[UserId, tuple[float, HttpSession]] = OrderedDict()

    async def identify(self, authorization: str | None, cookie: str | None) -> Identified | None:
        """The user that the request proves to be; None if it proves nothing.

        Basic credentials win over the cookie of another user. Raises WrongCredentials, StoreUnavailable.
        """
        session = await self._sessions.find(cookie) if cookie else None
        if authorization is not None:
            return await self._by_password(authorization, session)
        user = self._directory.users.get(session.user) if session else None
        return Identified(user, session) if user and session else None

    async def log_in(self, name: str, password: str) -> Identified | None:
        """A session for whoever knows the password, as `ext.authentication` of a handshake does.

        Raises StoreUnavailable.
        """
        user = await self._passwords.check(name, password)
        return await self._new_session(user) if user else None

    async def _by_password(self, authorization: str, session: HttpSession | None) -> Identified:
        name, password = _basic(authorization)
        user = await self._passwords.check(name, password)
        if user is None:
            raise WrongCredentials("user name or password is wrong")
        if session is not None and session.user == user.id:
            return Identified(user, session)
        return await self._new_session(user)

    async def _new_session(self, user: User) -> Identified:
        """A session; a client that keeps no cookies and sends its password each time gets the same for a while."""
        made_at, session = self._recent.get(user.id, (float("-inf"), None))
        if session is None or self._clock_s() - made_at > _REUSE_S or await self._sessions.find(session.token) is None:
            session = await self._sessions.create(user.id)
            self._recent[user.id] = (self._clock_s(), session)
            self._recent.move_to_end(user.id)
            if len(self._recent) > _REUSE_MOST:
                self._recent.popitem(last=False)
        secure = "; Secure" if self._secure_cookies else ""
        return Identified(user, session, f"{COOKIE}={session.token}; Path=/; HttpOnly; SameSite=Lax{secure}")


def _basic(authorization: str) -> tuple[str, str]:
    """User name and password of a Basic header (RFC 7617)."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise WrongCredentials("only HTTP Basic is served")
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise WrongCredentials("the Authorization header is not well formed") from None
    if not colon:
        raise WrongCredentials("the Authorization header is not well formed")
    return name, password
