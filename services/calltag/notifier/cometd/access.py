"""Who a CometD request is of: what the HTTP request proves, or what the handshake message itself shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.requests import HTTPConnection

from calltag.core.bayeux.engine import Caller, handshake_in

_NAMES: Final = ("username", "user", "userName", "login")


@dataclass(frozen=True, slots=True)
class Login:
    """A proven user, and the Set-Cookie value to answer with, if there is one."""

    user: str
    set_cookie: str | None = None


class Access(Protocol):
    """How users are proven. Every method may raise StoreUnavailable and TooManyLogins."""

    async def of_request(self, connection: HTTPConnection) -> Login | None:
        """Whom the request's credentials or cookie prove."""
        ...

    async def of_credentials(self, name: str, password: str) -> Login | None:
        """Whom a name and a password prove."""
        ...


async def caller_of(
    messages: Sequence[object], login: Login | None, access: Access, *, streaming: bool
) -> tuple[Caller, Login | None]:
    """The caller, and the login to set a cookie for. Credentials in a handshake count where the request proves nobody.

    Source: `ext.authentication` as clients of Web Services send it.
    """
    if login is not None:
        return Caller(login.user, streaming), login
    credentials = _credentials(messages)
    shown = await access.of_credentials(*credentials) if credentials else None
    return Caller(shown.user if shown else None, streaming, by_ext=shown is not None), shown


def _credentials(messages: Sequence[object]) -> tuple[str, str] | None:
    handshake = handshake_in(messages)
    ext = handshake.get("ext") if handshake else None
    authentication = ext.get("authentication") if isinstance(ext, Mapping) else None
    if not isinstance(authentication, Mapping):
        return None
    name = next((authentication[each] for each in _NAMES if each in authentication), None)
    password = authentication.get("password")
    return (name, password) if isinstance(name, str) and isinstance(password, str) else None
