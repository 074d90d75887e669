"""Authentication of requests: HTTP Basic on any request, or the session cookie that it yields.

Source: Web Services API, authentication (HTTP Basic, cookie `JSESSIONID`).
"""

import asyncio
import base64
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import Directory, User
from calltag.core.identity.http_sessions import USUAL_COOKIES, CookieFlags, HttpSession, HttpSessions
from calltag.core.identity.login_attempts import LockedOut, SessionOver, TooManyLogins, WrongCredentials
from calltag.core.identity.passwords import Passwords

__all__ = ["COOKIE", "Authenticator", "Identified", "LockedOut", "SessionOver", "TooManyLogins", "WrongCredentials"]

COOKIE: Final = "JSESSIONID"
_REUSE_S: Final = 60.0
_REUSE_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Identified:
    """User and session of a request.

    `by_cookie` is True if the request had the session's cookie; otherwise `set_cookie` is the Set-Cookie value for the
    response.
    """

    user: User
    session: HttpSession
    by_cookie: bool
    set_cookie: str | None = None


class Authenticator:
    """Identifies requests by their `Authorization` header and their session cookie.

    A client that ignores cookies and sends its password each time gets the same session for a minute, so that the
    number of sessions does not grow with its requests.
    """

    def __init__(
        self,
        directory: Directory,
        passwords: Passwords,
        sessions: HttpSessions,
        *,
        cookies: CookieFlags = USUAL_COOKIES,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._passwords = passwords
        self._sessions = sessions
        self._cookies = cookies
        self._clock_s = clock_s
        self._recent: OrderedDict[UserId, tuple[float, HttpSession]] = OrderedDict()
        self._turns: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()

    async def identify(
        self, authorization: Sequence[str], cookies: Sequence[str], address: str = ""
    ) -> Identified | None:
        """Return the authenticated user and session; None without credentials.

        Takes the values of the `Authorization` header and of the session cookies, and the client's address. Credentials
        must be right even beside a valid cookie, and take precedence over the cookie of another user. Cookies of ended
        sessions are ignored; live sessions of several users are refused.
        Raises WrongCredentials (SessionOver if only cookies were sent), TooManyLogins, StoreUnavailable.
        """
        user = await self.check_header(authorization, address) if authorization else None
        shown = await self._live_sessions(cookies)
        sessions = [each for each in shown if user is None or each.user == user.id]
        if sessions:
            if len({each.user for each in sessions}) > 1:
                raise WrongCredentials("the session cookies are of several users: send one")
            return Identified(self._directory.users[sessions[0].user], sessions[0], by_cookie=True)
        if user is not None:
            return await self._with_session(user)
        if cookies:
            raise SessionOver
        return None

    async def check_header(self, authorization: Sequence[str], address: str = "") -> User:
        """Return the user of the `Authorization` header; creates no session. Raises WrongCredentials, TooManyLogins."""
        if len(authorization) != 1:
            raise WrongCredentials("there are several Authorization headers: send one")
        user = await self._passwords.check(*_basic(authorization[0]), address)
        if user is None:
            raise WrongCredentials("user name or password is wrong")
        return user

    async def check(self, name: str, password: str, address: str = "") -> User | None:
        """Return the user if the password is right; creates no session. Raises TooManyLogins."""
        return await self._passwords.check(name, password, address)

    async def log_in(self, name: str, password: str, address: str = "") -> Identified | None:
        """Return a session if the password is right, for `ext.authentication` of a handshake.

        Raises TooManyLogins, StoreUnavailable.
        """
        user = await self._passwords.check(name, password, address)
        return await self._with_session(user) if user else None

    async def log_out(self, known: Identified) -> str:
        """End the session of a request; return the value of Set-Cookie that removes the cookie.

        Raises StoreUnavailable.
        """
        await self._sessions.end(known.session.token)
        self._recent.pop(known.user.id, None)
        return f"{self._cookies.set_cookie(COOKIE, '')}; Max-Age=0"

    async def _live_sessions(self, tokens: Sequence[str]) -> list[HttpSession]:
        if len(tokens) == 1:
            # Without a task, so that the command joins the current batch.
            found = [await self._live_session(tokens[0])]
        else:
            found = await asyncio.gather(*map(self._live_session, tokens))
        # The directory may have changed since the first of several was found.
        return [each for each in found if each is not None and each.user in self._directory.users]

    async def _live_session(self, token: str) -> HttpSession | None:
        """Return the session of that token; end it if its user was removed or the password has changed since."""
        session = await self._sessions.find(token)
        if session is None or session.credential == self._directory.credential_of(session.user):
            return session
        await self._sessions.end(token)
        return None

    async def _with_session(self, user: User) -> Identified:
        # Serialized per user: a burst of first requests creates one session, not one each.
        async with self._turns.setdefault(user.id, asyncio.Lock()):
            session = await self._recent_session(user.id) or await self._new_session(user)
        return Identified(user, session, by_cookie=False, set_cookie=self._cookies.set_cookie(COOKIE, session.token))

    async def _recent_session(self, user: UserId) -> HttpSession | None:
        made_at, session = self._recent.get(user, (float("-inf"), None))
        if session is None or self._clock_s() - made_at > _REUSE_S:
            return None
        return await self._live_session(session.token)

    async def _new_session(self, user: User) -> HttpSession:
        session = await self._sessions.create(user.id, user.credential)
        self._recent[user.id] = (self._clock_s(), session)
        self._recent.move_to_end(user.id)
        if len(self._recent) > _REUSE_MOST:
            self._recent.popitem(last=False)
        return session


def _basic(authorization: str) -> tuple[str, str]:
    """Return user name and password of a Basic header (RFC 7617). Raises WrongCredentials."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise WrongCredentials("only HTTP Basic is served")
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        raise WrongCredentials("the Authorization header is not well formed") from None
    if not colon:
        raise WrongCredentials("the Authorization header is not well formed")
    return name, password
