"""Limits on failed logins per user and per address, counted in Redis for all processes.

An attempt is counted before its password is checked, so that concurrent ones cannot exceed the limit, and given back if
the password was right. Unknown names are counted like others: a lock-out does not reveal whether a name exists.
Attempts are stored by number, so that a command retried after a lost reply counts once."""

import asyncio
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, Protocol, cast

import structlog

from calltag.core.store.scripts import ScriptBatcher

log = structlog.get_logger()
By = Literal["user", "address"]
_REMEMBERED: Final = 10_000
_NUMBER_BITS: Final = 63
"""Redis stores sets of 64-bit integers compactly (intset)."""


class AuthenticationError(Exception):
    """Root of the errors of authentication."""


class WrongCredentials(AuthenticationError):
    """The credentials are wrong or malformed. The message does not say which part is wrong."""


class SessionOver(WrongCredentials):
    """The session of the cookie has ended or never existed."""

    def __init__(self) -> None:
        super().__init__("the session is over: sign in again")


class LoginUnavailable(AuthenticationError):
    """The credentials cannot be checked at present; retryable."""


class TooManyLogins(LoginUnavailable):
    """The queue of password checks is full."""


class LockedOut(LoginUnavailable):
    """Too many wrong passwords, for this user or from this address; a right one is refused as well."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = max(1, math.ceil(wait_s))
        super().__init__(f"too many failed logins; try again in {self.wait_s} s")


class LoginAttempts(Protocol):
    """Counts attempts. `address` is "" if unknown."""

    def check(self, name: str, address: str) -> None:
        """Raise LockedOut if this process knows of the lock-out; without I/O, so also called for cached passwords."""
        ...

    async def take(self, name: str, address: str) -> int:
        """Count an attempt before its password is checked; returns its number. Raises LockedOut, StoreUnavailable."""
        ...

    async def give_back(self, name: str, address: str, attempt: int) -> None:
        """Uncount an attempt whose password was right. Raises StoreUnavailable."""
        ...

    def failed(self) -> None:
        """Count a wrong password for metrics."""
        ...


class UnlimitedAttempts:
    """Implements LoginAttempts: no limit."""

    def check(self, name: str, address: str) -> None: ...

    async def take(self, name: str, address: str) -> int:  # noqa: ARG002 - a protocol's method
        return 0

    async def give_back(self, name: str, address: str, attempt: int) -> None: ...

    def failed(self) -> None: ...


class AttemptObserver(Protocol):
    """Observer of failed logins, for metrics."""

    def login_failed(self) -> None:
        """A password was wrong."""
        ...

    def login_locked_out(self, by: By) -> None:
        """A login was refused without checking its password."""
        ...


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """Maximum wrong passwords within `window_s` seconds; 0 is no limit."""

    per_user: int = 10
    per_address: int = 100
    window_s: int = 300


class RedisLoginAttempts:
    """Implements LoginAttempts with sets under `<prefix>:attempts:<user or address>:<SHA-256>`."""

    def __init__(
        self,
        batcher: ScriptBatcher,
        prefix: str,
        limits: AttemptLimits,
        observer: AttemptObserver,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batcher = batcher
        self._take = batcher.script("take_attempt")
        self._prefix = prefix
        self._limits = limits
        self._observer = observer
        self._clock_s = clock_s
        self._locked: OrderedDict[str, float] = OrderedDict()

    def check(self, name: str, address: str) -> None:
        for by, key, _ in self._counted(name, address):
            left_s = self._locked.get(key, 0.0) - self._clock_s()
            if left_s > 0:
                self._refuse(by, left_s)

    async def take(self, name: str, address: str) -> int:
        counted, attempt = self._counted(name, address), secrets.randbits(_NUMBER_BITS)
        asked = (self._take([key], [self._limits.window_s * 1_000, most, attempt]) for _, key, most in counted)
        waits_s = [cast("int", wait_ms) / 1_000 for wait_ms in await asyncio.gather(*asked)]
        if not any(waits_s):
            return attempt
        for (by, key, _), wait_s in zip(counted, waits_s, strict=True):
            if wait_s:
                self._lock(by, key, address, wait_s)
            else:
                await self._batcher.command("SREM", key, attempt)
        self.check(name, address)
        return attempt

    async def give_back(self, name: str, address: str, attempt: int) -> None:
        keys = [key for _, key, _ in self._counted(name, address)]
        await asyncio.gather(*(self._batcher.command("SREM", key, attempt) for key in keys))

    def failed(self) -> None:
        self._observer.login_failed()

    def _counted(self, name: str, address: str) -> list[tuple[By, str, int]]:
        """Return the counters of an attempt: kind, key and limit."""
        of_user: tuple[By, str, int] = ("user", name, self._limits.per_user)
        of_address: tuple[By, str, int] = ("address", address, self._limits.per_address)
        return [(by, self._key(by, of), most) for by, of, most in (of_user, of_address) if of and most]

    def _key(self, by: By, of: str) -> str:
        return f"{self._prefix}:attempts:{by}:{sha256(of.encode(errors='replace')).hexdigest()}"

    def _lock(self, by: By, key: str, address: str, wait_s: float) -> None:
        if key not in self._locked:
            # Without the name: users type passwords there by mistake.
            log.warning("login_locked_out", by=by, address=address, wait_s=round(wait_s))
        self._locked[key] = self._clock_s() + wait_s
        self._locked.move_to_end(key)
        if len(self._locked) > _REMEMBERED:
            self._locked.popitem(last=False)

    def _refuse(self, by: By, left_s: float) -> None:
        self._observer.login_locked_out(by)
        raise LockedOut(left_s)
