"""HTTP sessions: they live in the store, so that every gateway and every notifier accepts them."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from importlib import resources
from typing import Final, Protocol, cast

import orjson

from calltag.core.domain.ids import UserId
from calltag.core.store.batching import ScriptBatcher
from calltag.core.store.client import RedisClient

_REMEMBERED: Final = 20_000
_TOKEN_BYTES: Final = 32
_LENGTH: Final = len(secrets.token_urlsafe(_TOKEN_BYTES))


@dataclass(frozen=True, slots=True)
class HttpSession:
    """A session: `token` is the value of the cookie, `csrf_token` what requests that change something must show.

    `credential` is the user's as it was when the session began; "" where an older version began it.
    """

    token: str = field(repr=False)
    user: UserId
    csrf_token: str = field(repr=False)
    credential: str = field(repr=False)


class HttpSessions(Protocol):
    """Where sessions are. Every method may raise StoreUnavailable."""

    async def create(self, user: UserId, credential: str) -> HttpSession:
        """A new session of the user's, whose credential is this one now."""
        ...

    async def find(self, token: str) -> HttpSession | None:
        """The session with that token, if it has not ended; its idle time begins anew (to a tenth)."""
        ...

    async def end(self, token: str) -> None:
        """End the session."""
        ...


class RedisHttpSessions:
    """Sessions in Redis, under `<prefix>:http:<SHA-256 of the token>`: who reads the store cannot use them.

    They end after `idle_s` seconds without use and `lifetime_s` seconds in all.
    """

    def __init__(
        self,
        client: RedisClient,
        batcher: ScriptBatcher,
        prefix: str = "calltag",
        *,
        idle_s: int = 1_800,
        lifetime_s: int = 43_200,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._idle_s = idle_s
        self._lifetime_s = lifetime_s
        self._clock_s = clock_s
        source = resources.files("calltag.core.identity").joinpath("find_session.lua").read_text(encoding="utf-8")
        self._find = batcher.source(source)

    async def create(self, user: UserId, credential: str) -> HttpSession:
        session = HttpSession(secrets.token_urlsafe(_TOKEN_BYTES), user, secrets.token_urlsafe(24), credential)
        ends_at = self._clock_s() + self._lifetime_s
        record = orjson.dumps({"user": user, "csrf": session.csrf_token, "ends_at": ends_at, "credential": credential})
        async with self._client.exchange() as connection:
            await connection.set(self._name(session.token), record, ex=min(self._idle_s, self._lifetime_s))
        return session

    async def find(self, token: str) -> HttpSession | None:
        raw = await self._find([self._name(token)], [self._idle_s * 1_000])
        if raw is None:
            return None
        record = orjson.loads(cast("bytes", raw))
        if record["ends_at"] <= self._clock_s():
            await self.end(token)
            return None
        return HttpSession(token, UserId(record["user"]), record["csrf"], record.get("credential", ""))

    async def end(self, token: str) -> None:
        async with self._client.exchange() as connection:
            await connection.delete(self._name(token))

    def _name(self, token: str) -> str:
        digest = _digest_of_ours(token) if len(token) == _LENGTH else _digest(token)
        return f"{self._prefix}:http:{digest}"


def _digest(token: str) -> str:
    return sha256(token.encode(errors="replace")).hexdigest()


@lru_cache(maxsize=_REMEMBERED)
def _digest_of_ours(token: str) -> str:
    """A session sends requests again and again. What cannot be one of ours is not kept, long as it may be."""
    return _digest(token)
