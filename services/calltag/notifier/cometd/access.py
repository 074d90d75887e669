"""Who a CometD request is of: what the HTTP request proves, or what the handshake message itself shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.requests import HTTPConnection

from calltag.core.bayeux.engine import handshake_in
from calltag.core.identity.errors import SessionOver
from calltag.notifier.cometd.claim import Caller, Claim

_NAMES: Final = ("username", "user", "userName", "login")


@dataclass(frozen=True, slots=True)
class Login:
    """A proven user, and the Set-Cookie value to answer with, if there is one."""

    user: str
    set_cookie: str | None = None


class Access(Protocol):
    """How users are proven. `of_request` and `of_credentials` may raise StoreUnavailable and TooManyLogins, the former
    SessionOver."""

    def login_of(self, connection: HTTPConnection) -> str:
        """What stands for the login that the request shows; "" for none."""
        ...

    def shows_credentials(self, connection: HTTPConnection) -> bool:
        """Whether the request has credentials or a cookie, right or wrong."""
        ...

    async def of_request(self, connection: HTTPConnection, *, begins: bool) -> Login | None:
        """Whom the request's credentials or cookie prove. `begins`: a session is to begin, so a login may too."""
        ...

    async def of_credentials(self, name: str, password: str, address: str) -> Login | None:
        """Whom a name and a password prove; `address` is where they come from."""
        ...


def claim_of(
    messages: Sequence[object], connection: HTTPConnection, access: Access, *, by_request: bool = True
) -> Claim:
    """What the request claims. Credentials in a handshake count where the request itself proves nobody.

    Without `by_request` it never does: what a browser adds to it is not looked at.

    Source: `ext.authentication` as clients of Web Services send it.
    """
    handshake = handshake_in(messages)
    credentials = _credentials(handshake)
    address = connection.client.host if connection.client else ""

    async def look() -> Caller:
        login, is_over = None, False
        try:
            login = await access.of_request(connection, begins=handshake is not None) if by_request else None
        except SessionOver:
            is_over = True
        if login is not None:
            return Caller(login.user, set_cookie=login.set_cookie)
        if credentials is None:
            return Caller(None, session_over=is_over)
        shown = await access.of_credentials(*credentials, address)
        return Caller(shown.user, bearer=True, set_cookie=shown.set_cookie) if shown else Caller(None)

    return Claim(
        look,
        access.login_of(connection) if by_request else "",
        address,
        shows_credentials=credentials is not None or (by_request and access.shows_credentials(connection)),
    )


def _credentials(handshake: Mapping[str, object] | None) -> tuple[str, str] | None:
    ext = handshake.get("ext") if handshake else None
    authentication = ext.get("authentication") if isinstance(ext, Mapping) else None
    if not isinstance(authentication, Mapping):
        return None
    name = next((authentication[each] for each in _NAMES if each in authentication), None)
    password = authentication.get("password")
    return (name, password) if isinstance(name, str) and isinstance(password, str) else None
