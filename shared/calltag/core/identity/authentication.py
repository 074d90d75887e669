"""Authentication of requests: HTTP Basic or a bearer token on any request, or the session cookie that they yield.

Source: Web Services API, authentication (HTTP Basic, cookie `JSESSIONID`).
"""

import asyncio
import base64
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from weakref import WeakValueDictionary

from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import Directory, User
from calltag.core.identity.http_sessions import USUAL_COOKIES, CookieFlags, HttpSession, HttpSessions, Login
from calltag.core.identity.login_attempts import LockedOut, LoginUnavailable, SessionOver, WrongCredentials
from calltag.core.identity.passwords import Passwords

__all__ = ["COOKIE", "Authenticator", "Identified", "LockedOut", "LoginUnavailable", "SessionOver", "WrongCredentials"]

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


class Tokens(Protocol):
    """Users whose tokens an OpenID provider has issued."""

    async def log_in(self, token: str) -> Login:
        """Return the login of a token. Raises WrongCredentials, LoginUnavailable, StoreUnavailable."""
        ...

    async def refresh(self) -> None:
        """Learn of the users who have signed in at other processes. Raises StoreUnavailable."""
        ...


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
        tokens: Tokens | None = None,
        cookies: CookieFlags = USUAL_COOKIES,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._passwords = passwords
        self._sessions = sessions
        self._tokens = tokens
        self._cookies = cookies
        self._clock_s = clock_s
        self._recent: OrderedDict[UserId, tuple[float, HttpSession]] = OrderedDict()
        self._turns: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()

    async def identify(
        self, authorization: Sequence[str], cookies: Sequence[str], address: str = "", user: str = ""
    ) -> Identified | None:
        """Return the authenticated user and session; None without credentials.

        Takes the values of the `Authorization` header and of the session cookies, the client's address, and the user
        whom a trusted proxy has authenticated; that one takes the place of the header's. Credentials
        must be right even beside a valid cookie, and take precedence over the cookie of another user. Cookies of ended
        sessions are ignored; live sessions of several users are refused.
        Raises WrongCredentials (SessionOver if only cookies were sent), LoginUnavailable, StoreUnavailable.
        """
        if user:
            login: Login | None = self._of_proxy(user)
        else:
            login = await self.check_header(authorization, address) if authorization else None
        shown = await self._live_sessions(cookies)
        sessions = [each for each in shown if login is None or each.user == login.user.id]
        if sessions:
            if len({each.user for each in sessions}) > 1:
                raise WrongCredentials("the session cookies are of several users: send one")
            return Identified(self._directory.users[sessions[0].user], sessions[0], by_cookie=True)
        if login is not None:
            return await self._with_session(login)
        if cookies:
            raise SessionOver
        return None

    def _of_proxy(self, name: str) -> Login:
        user = self._directory.users.get(UserId(name))
        if user is None:
            raise WrongCredentials(f"user {name} is not in the directory")
        return Login(user)

    async def check_header(self, authorization: Sequence[str], address: str = "") -> Login:
        """Return the login of the `Authorization` header; creates no session.

        Raises WrongCredentials, LoginUnavailable, StoreUnavailable.
        """
        if len(authorization) != 1:
            raise WrongCredentials("there are several Authorization headers: send one")
        scheme, _, value = authorization[0].partition(" ")
        match scheme.lower():
            case "basic":
                login = await self.check(*_basic(value), address)
            case "bearer" if self._tokens is not None:
                login = await self._tokens.log_in(value.strip())
            case _:
                served = "HTTP Basic is" if self._tokens is None else "HTTP Basic and bearer tokens are"
                raise WrongCredentials(f"only {served} served")
        if login is None:
            raise WrongCredentials("user name or password is wrong")
        return login

    async def check(self, name: str, password: str, address: str = "") -> Login | None:
        """Return the login if the password is right; creates no session. Raises LoginUnavailable, StoreUnavailable."""
        user = await self._passwords.check(name, password, address)
        return Login(user) if user else None

    async def check_token(self, token: str) -> Login | None:
        """Return the login of an access token; None if it is not valid, or tokens are not served.

        Raises LoginUnavailable, StoreUnavailable.
        """
        try:
            return await self._tokens.log_in(token) if self._tokens is not None else None
        except WrongCredentials:
            return None

    async def begin_session(self, login: Login) -> Identified:
        """Return a session of the login, a recent one if there is one. Raises StoreUnavailable."""
        return await self._with_session(login)

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
        if self._tokens is not None and session.user not in self._directory.users:
            # The user may have signed in at another process a moment ago.
            await self._tokens.refresh()
            if session.credential == self._directory.credential_of(session.user):
                return session
        await self._sessions.end(token)
        return None

    async def _with_session(self, login: Login) -> Identified:
        # Serialized per user: a burst of first requests creates one session, not one each.
        async with self._turns.setdefault(login.user.id, asyncio.Lock()):
            session = await self._recent_session(login) or await self._new_session(login)
        return Identified(
            login.user, session, by_cookie=False, set_cookie=self._cookies.set_cookie(COOKIE, session.token)
        )

    async def _recent_session(self, login: Login) -> HttpSession | None:
        made_at, session = self._recent.get(login.user.id, (float("-inf"), None))
        if session is None or session.ends_at != login.ends_at or self._clock_s() - made_at > _REUSE_S:
            return None
        return await self._live_session(session.token)

    async def _new_session(self, login: Login) -> HttpSession:
        session = await self._sessions.create(login)
        self._recent[login.user.id] = (self._clock_s(), session)
        self._recent.move_to_end(login.user.id)
        if len(self._recent) > _REUSE_MOST:
            self._recent.popitem(last=False)
        return session


def _basic(encoded: str) -> tuple[str, str]:
    """Return user name and password of a Basic header (RFC 7617). Raises WrongCredentials."""
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        raise WrongCredentials("the Authorization header is not well formed") from None
    if not colon:
        raise WrongCredentials("the Authorization header is not well formed")
    return name, password
