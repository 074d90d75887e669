"""HTTP sessions in Redis, which every gateway and notifier accepts; their cookies and CSRF tokens."""

import asyncio
import base64
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Literal, Protocol, cast

import orjson

from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import User
from calltag.core.store.client import RedisClient
from calltag.core.store.scripts import ScriptBatcher

SameSite = Literal["lax", "strict", "none"]
_MOST_COOKIES: Final = 8
"""Maximum number of cookies of one name that are read."""
_TOKEN_BYTES: Final = 32
CSRF_HEADER: Final = "X-CSRF-TOKEN"
CSRF_NAME_HEADER: Final = "X-CSRF-HEADER"
CSRF_EXPOSED_HEADERS: Final = (CSRF_NAME_HEADER, CSRF_HEADER)
"""Value of `Access-Control-Expose-Headers`, which lets scripts of other origins read the token."""
CSRF_MESSAGE: Final = "Missing or invalid Csrf token"
_CSRF_LABEL: Final = b"calltag X-CSRF-TOKEN"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class CookieFlags:
    """`secure`: for HTTPS only; `same_site`: on which cross-site requests browsers send them (RFC 6265bis, 5.6.7)."""

    secure: bool = False
    same_site: SameSite = "lax"

    def set_cookie(self, name: str, value: str) -> str:
        """Return the value of a Set-Cookie header."""
        secure = "; Secure" if self.secure else ""
        return f"{name}={value}; Path=/; HttpOnly; SameSite={self.same_site.capitalize()}{secure}"


USUAL_COOKIES: Final = CookieFlags()


def values_of(name: str, headers: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct values of the cookies of that name in `Cookie` headers, in order, 8 at most.

    Other applications on the host or domain may set a cookie of the same name, and browsers send all of them, in an
    order that no server can choose (RFC 6265, 5.4).
    """
    pairs = (part.partition("=") for header in headers for part in header.split(";"))
    values = (value.strip().removeprefix('"').removesuffix('"') for key, _, value in pairs if key.strip() == name)
    return tuple(dict.fromkeys(value for value in values if value))[:_MOST_COOKIES]


@dataclass(frozen=True, slots=True)
class HttpSession:
    """A session; `token` is the value of the cookie.

    `credential` is that of the user when the session began; "" if an older version created it. `ends_at` is the Unix
    time at which the token that began it ends; None without one.
    """

    token: str = field(repr=False)
    user: UserId
    credential: str = field(repr=False)
    ends_at: float | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """A user who has proved who it is; `ends_at` is the Unix time at which the proof ends, if it does."""

    user: User
    ends_at: float | None = None


class HttpSessions(Protocol):
    """Port of the session storage. Every method may raise StoreUnavailable."""

    async def create(self, login: Login) -> HttpSession:
        """Create a session, which ends with the login. May end another session of the user."""
        ...

    async def find(self, token: str) -> HttpSession | None:
        """Return the session of that token unless it has ended; restart its idle time (to within a tenth)."""
        ...

    async def end(self, token: str) -> None:
        """End the session."""
        ...


class RedisHttpSessions:
    """Sessions in Redis, under `<prefix>:http:<SHA-256 of the token>`: read access to Redis reveals no tokens.

    They end after `idle_s` seconds without use and `lifetime_s` seconds in total. A user has at most `most_of_user`: a
    new one evicts the least recently used; `displaced` is called with the number of evictions.
    """

    def __init__(
        self,
        client: RedisClient,
        batcher: ScriptBatcher,
        prefix: str = "calltag",
        *,
        idle_s: int = 1_800,
        lifetime_s: int = 43_200,
        most_of_user: int = 100,
        displaced: Callable[[int], None] = lambda _: None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._idle_s = idle_s
        self._lifetime_s = lifetime_s
        self._most_of_user = most_of_user
        self._displaced = displaced
        self._clock_s = clock_s
        self._batcher = batcher
        self._find = batcher.script("find_session")
        self._list = batcher.script("list_session")

    async def create(self, login: Login) -> HttpSession:
        user = login.user
        session = HttpSession(secrets.token_urlsafe(_TOKEN_BYTES), user.id, user.credential, login.ends_at)
        ends_at = self._clock_s() + self._lifetime_s
        fields: dict[str, object] = {"user": user.id, "ends_at": ends_at, "credential": user.credential}
        if login.ends_at is not None:
            fields |= {"ends_at": min(ends_at, login.ends_at), "token_ends_at": login.ends_at}
        record = orjson.dumps(fields)
        await self._client.execute("SET", self._name(session.token), record, "EX", min(self._idle_s, self._lifetime_s))
        await self._make_room(session)
        return session

    async def _make_room(self, session: HttpSession) -> None:
        """List the session, and evict those of its user beyond the limit."""
        listed = self._listed(session.user)
        surplus = await self._list(
            [listed], [_digest_of(session.token), self._now_ms(), self._idle_s * 1_000, self._most_of_user]
        )
        if surplus:
            names = [each.decode() for each in cast("list[bytes]", surplus)]
            ended = await asyncio.gather(*(self._batcher.command("DEL", self._named(each)) for each in names))
            await self._batcher.command("ZREM", listed, *names)
            self._displaced(sum(cast("list[int]", ended)))

    async def find(self, token: str) -> HttpSession | None:
        raw, renewed = cast("tuple[bytes | None, int]", await self._find([self._name(token)], [self._idle_s * 1_000]))
        if raw is None:
            return None
        record = orjson.loads(raw)
        user = UserId(record["user"])
        if record["ends_at"] <= self._clock_s():
            await self.end(token)
            return None
        if renewed:
            await self._batcher.command("ZADD", self._listed(user), "XX", self._now_ms(), _digest_of(token))
        return HttpSession(token, user, record.get("credential", ""), record.get("token_ends_at"))

    async def end(self, token: str) -> None:
        await self._client.execute("DEL", self._name(token))

    def _now_ms(self) -> int:
        return round(self._clock_s() * 1_000)

    def _name(self, token: str) -> str:
        return self._named(_digest_of(token))

    def _named(self, digest: str) -> str:
        return f"{self._prefix}:http:{digest}"

    def _listed(self, user: UserId) -> str:
        """Key of a sorted set: digests of the user's sessions by last use, to a tenth of the idle time, in Unix ms."""
        return f"{self._prefix}:http-of:{user}"


def _digest_of(token: str) -> str:
    return sha256(token.encode(errors="replace")).hexdigest()


def csrf_headers(session: HttpSession) -> dict[str, str]:
    """Return the headers of the response to a GET."""
    return {CSRF_NAME_HEADER: CSRF_HEADER, CSRF_HEADER: csrf_token(session)}


def csrf_token(session: HttpSession) -> str:
    """Derive the token from that of the session's cookie, so that Redis need not store it."""
    return base64.urlsafe_b64encode(hmac.digest(session.token.encode(), _CSRF_LABEL, "sha256")).decode().rstrip("=")


def csrf_passes(method: str, session: HttpSession, tokens: Sequence[str], *, by_cookie: bool) -> bool:
    """Return whether a request with these values of X-CSRF-TOKEN (usually one) passes.

    `by_cookie` is True if it had the session's cookie.
    """
    if method.upper() in _SAFE_METHODS:
        return True
    if len(tokens) != 1 or not by_cookie:
        return False
    return hmac.compare_digest(tokens[0].encode(errors="replace"), csrf_token(session).encode())
