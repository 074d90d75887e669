"""Checking passwords against argon2 hashes without blocking the event loop."""

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from calltag.core.domain.ids import UserId
from calltag.core.identity.model import Directory, User

_MAX_PASSWORD_BYTES: Final = 1_024


class Passwords:
    """Verifies passwords in threads, `concurrency` at a time.

    A client that sends credentials with every request would spend a core on hashing, so a success is remembered for
    `remember_s` seconds, under a keyed digest whose key lives in this process only.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        concurrency: int = 2,
        remember_s: float = 300.0,
        remember_most: int = 10_000,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._nobody = self._hasher.hash(secrets.token_hex())
        self._key = secrets.token_bytes(32)
        self._slots = asyncio.Semaphore(concurrency)
        self._remember_s = remember_s
        self._remember_most = remember_most
        self._clock_s = clock_s
        self._known: OrderedDict[bytes, float] = OrderedDict()

    async def check(self, name: str, password: str) -> User | None:
        """The user of that name, if the password is right. An unknown name takes as long as a wrong password."""
        if len(password.encode(errors="replace")) > _MAX_PASSWORD_BYTES:
            return None
        user = self._directory.users.get(UserId(name))
        stored = user.password_hash if user else self._nobody
        digest = self._digest(name, password, stored)
        if self._known.get(digest, 0.0) > self._clock_s():
            return user
        async with self._slots:
            right = await asyncio.to_thread(self._verify, stored, password)
        if not right or user is None:
            return None
        self._remember(digest)
        return user

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (Argon2Error, InvalidHashError):
            return False

    def _digest(self, name: str, password: str, stored: str) -> bytes:
        text = "\0".join((name, password, stored)).encode(errors="replace")
        return hmac.digest(self._key, text, "sha256")

    def _remember(self, digest: bytes) -> None:
        self._known[digest] = self._clock_s() + self._remember_s
        self._known.move_to_end(digest)
        if len(self._known) > self._remember_most:
            self._known.popitem(last=False)
