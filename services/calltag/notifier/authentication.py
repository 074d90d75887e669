"""Authentication of CometD requests, by HTTP credentials or by those in a handshake message."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from typing import Final

from calltag.core.bayeux.engine import handshake_in
from calltag.core.identity.authentication import COOKIE, Authenticator, Identified, SessionOver, WrongCredentials
from calltag.core.identity.http_sessions import CSRF_HEADER, csrf_passes, values_of

_NAMES: Final = ("username", "user", "userName", "login")
_CSRF: Final = CSRF_HEADER.lower().encode()
_CREDENTIALS: Final = frozenset({b"authorization", b"cookie", _CSRF})
_PROOF_BYTES: Final = 16


class CsrfRefused(Exception):
    """The CSRF token of the request is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated user of a request (None: nobody). `bearer`: by credentials in the handshake message;
    `is_session_over`: the request's only credential was a session cookie whose session has ended."""

    user: str | None
    bearer: bool = False
    set_cookie: str | None = None
    """Set-Cookie value for the response."""
    is_session_over: bool = False
    ends_at: float | None = None
    """Unix time at which the token ends that proved the user; None without one."""


@dataclass(frozen=True, slots=True)
class InHandshake:
    """Credentials in `ext.authentication`: name and password, or an access token."""

    name: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials of a request, without those that a browser adds to the request of a foreign page. `is_http` is False
    for messages on a WebSocket."""

    authorization: Sequence[str] = ()
    cookies: Sequence[str] = ()
    tokens: Sequence[str] = ()
    address: str = ""
    is_http: bool = True
    user: str = ""
    """The user whom a trusted proxy has authenticated."""

    @property
    def login(self) -> str:
        """Return the digest of the session cookie; "" if the request has an Authorization header or a user, which are
        checked without Redis, or several cookies."""
        if len(self.cookies) != 1 or self.authorization or self.user:
            return ""
        return sha256(self.cookies[0].encode(errors="replace")).hexdigest()


def proof_of(headers: Iterable[tuple[bytes, bytes]], user: str = "", *, is_http: bool = True) -> bytes:
    """Return a digest of all credentials: requests with the same digest come from the same user.

    `user` is the one whom a trusted proxy has authenticated.
    """
    shown = [part for name, value in headers if name in _CREDENTIALS for part in (name, value)]
    if user:
        shown.append(user.encode())
    # Distinct digests: on a WebSocket the credentials are accepted without a CSRF token.
    return blake2b(b"\0".join((b"" if is_http else b"ws", *shown)), digest_size=_PROOF_BYTES).digest()


def credentials_of(
    headers: Sequence[tuple[bytes, bytes]], address: str, user: str = "", *, is_http: bool = True, counts: bool = True
) -> Credentials:
    """Return the credentials in the request's headers; none unless they count (`counts`)."""
    if not counts:
        return Credentials(address=address, is_http=is_http)
    found = {name: [value.decode("latin-1") for each, value in headers if each == name] for name in _CREDENTIALS}
    cookies = values_of(COOKIE, found[b"cookie"])
    return Credentials(found[b"authorization"], cookies, found[_CSRF], address, is_http, user)


@dataclass(frozen=True, slots=True)
class Authentication:
    """Credentials of GWS clients: HTTP Basic, the session cookie, or `ext.authentication` of a handshake."""

    authenticator: Authenticator
    csrf_protection: bool = False

    def claim(self, messages: Sequence[object], shown: Credentials) -> "CallerClaim":
        """Return the claim of a request with these messages.

        Credentials in a handshake are used if those of the request authenticate nobody.
        """
        handshake = handshake_in(messages)
        return CallerClaim(self, shown, handshake is not None, _in_handshake(handshake))

    async def caller(self, shown: Credentials, handshake: InHandshake | None, *, begins: bool) -> Caller:
        """Return the authenticated caller. Raises CsrfRefused, LoginUnavailable, StoreUnavailable."""
        known, is_over = None, False
        try:
            known = await self._of_request(shown, begins=begins)
        except SessionOver:
            is_over = True
        except WrongCredentials:
            known = None
        if known is not None:
            return known
        if handshake is None:
            return Caller(None, is_session_over=is_over)
        if handshake.token:
            login = await self.authenticator.check_token(handshake.token)
        else:
            login = await self.authenticator.check(handshake.name, handshake.password, shown.address)
        if login is None:
            return Caller(None)
        if self.csrf_protection:
            # No cookie: with it, requests would need a CSRF token, which such a client does not know.
            return Caller(login.user.id, bearer=True, ends_at=login.ends_at)
        begun = await self.authenticator.begin_session(login)
        return Caller(login.user.id, bearer=True, set_cookie=begun.set_cookie, ends_at=login.ends_at)

    async def _of_request(self, shown: Credentials, *, begins: bool) -> Caller | None:
        if shown.authorization and not shown.user and not begins and not self.csrf_protection:
            login = await self.authenticator.check_header(shown.authorization, shown.address)
            return Caller(login.user.id, ends_at=login.ends_at)
        known = await self.authenticator.identify(shown.authorization, shown.cookies, shown.address, shown.user)
        if known is not None and self.csrf_protection and shown.is_http:
            self._check_token(known, shown)
        return Caller(known.user.id, set_cookie=known.set_cookie, ends_at=known.session.ends_at) if known else None

    def _check_token(self, known: Identified, shown: Credentials) -> None:
        if not csrf_passes("POST", known.session, shown.tokens, by_cookie=known.by_cookie):
            raise CsrfRefused


@dataclass(slots=True)
class CallerClaim:
    """The unproven caller of a request; `caller` checks the credentials, at most once and possibly in Redis."""

    authentication: Authentication
    shown: Credentials
    begins: bool
    handshake: InHandshake | None
    _looking: "asyncio.Task[Caller] | None" = field(default=None)

    @property
    def shows_credentials(self) -> bool:
        """Return whether there are credentials to check."""
        shown = self.shown
        return self.handshake is not None or bool(shown.authorization or shown.cookies or shown.user)

    def caller(self) -> "asyncio.Task[Caller]":
        """Return the check of the credentials, which the first call starts."""
        if self._looking is None:
            look = self.authentication.caller(self.shown, self.handshake, begins=self.begins)
            self._looking = asyncio.create_task(look, name="cometd-caller")
        return self._looking

    @property
    def set_cookie(self) -> str | None:
        """Return the Set-Cookie value for the response, after the check."""
        looking = self._looking
        is_found = looking is not None and looking.done() and not looking.cancelled() and not looking.exception()
        return looking.result().set_cookie if looking is not None and is_found else None

    def drop(self) -> None:
        """Cancel the check of the credentials."""
        if self._looking is not None:
            self._looking.cancel()
            if self._looking.done() and not self._looking.cancelled():
                self._looking.exception()


def _in_handshake(handshake: Mapping[str, object] | None) -> InHandshake | None:
    """Return the credentials in `ext.authentication`: name and password as clients of Web Services send them, or a
    token."""
    ext = handshake.get("ext") if handshake else None
    authentication = ext.get("authentication") if isinstance(ext, Mapping) else None
    if not isinstance(authentication, Mapping):
        return None
    token = authentication.get("token")
    if isinstance(token, str):
        return InHandshake(token=token)
    name = next((authentication[each] for each in _NAMES if each in authentication), None)
    password = authentication.get("password")
    return InHandshake(name, password) if isinstance(name, str) and isinstance(password, str) else None
