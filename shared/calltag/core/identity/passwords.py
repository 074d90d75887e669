"""Verification of passwords against argon2 hashes, without blocking the event loop."""

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final

from argon2 import Parameters, PasswordHasher, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError
from argon2.profiles import RFC_9106_LOW_MEMORY

from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import Directory, User
from calltag.core.identity.login_attempts import LoginAttempts, TooManyLogins, UnlimitedAttempts
from calltag.core.process.limits import QueueFull, SharedQueue

MAX_PASSWORD_BYTES: Final = 1_024
HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
"""Hashes new passwords, with the least parameters that OWASP recommends: a login takes a core for some 20 ms."""


class Passwords:
    """Verifies passwords in a thread pool of its own, `concurrency` at a time; at most `max_waiting` wait, fewer from
    one address.

    Hashing for a client that sends credentials with every request would occupy a core, so a success is cached for
    `remember_s` seconds, under a keyed digest whose key exists in this process only.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        concurrency: int = 2,
        max_waiting: int = 200,
        remember_s: float = 300.0,
        remember_most: int = 10_000,
        clock_s: Callable[[], float] = time.monotonic,
        attempts: LoginAttempts | None = None,
    ) -> None:
        self._directory = directory
        self._hasher = PasswordHasher.from_parameters(_usual_parameters(directory))
        self._nobody = self._hasher.hash(secrets.token_hex())
        self._key = secrets.token_bytes(32)
        self._turns = asyncio.Semaphore(concurrency)
        # Not the loop's pool: a cancelled caller releases its turn while its thread is still hashing.
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="passwords")
        self._queue = SharedQueue(max_waiting)
        self._remember_s = remember_s
        self._remember_most = remember_most
        self._clock_s = clock_s
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._attempts = attempts or UnlimitedAttempts()

    async def check(self, name: str, password: str, address: str = "") -> User | None:
        """Return the user of that name if the password is right. An unknown name takes as long as a wrong password.

        `address` is that of the client. Raises LoginUnavailable, StoreUnavailable.
        """
        if not _is_possible(password):
            return None
        # Before the cache of right passwords: a locked-out client must not learn that one is right.
        self._attempts.check(name, address)
        user = self._directory.users.get(UserId(name))
        stored = user.password_hash if user and user.password_hash else self._nobody
        digest = self._digest(name, password, stored)
        if self._is_known(digest):
            return user
        return user if await self._is_right(digest, stored, password, (name, address)) else None

    async def _is_right(self, digest: bytes, stored: str, password: str, login: tuple[str, str]) -> bool:
        with self._place_in_line(login[1]):
            async with self._turns:
                # A request with the same credentials may have succeeded meanwhile.
                if self._is_known(digest):
                    return True
                # Counted within the turn: no more than `concurrency` right passwords are counted for a moment.
                attempt = await self._attempts.take(*login)
                loop = asyncio.get_running_loop()
                right = await loop.run_in_executor(self._threads, self._verify, stored, password)
                if right:
                    self._remember(digest)
                    await self._attempts.give_back(*login, attempt)
                else:
                    self._attempts.failed()
                return right

    @contextmanager
    def _place_in_line(self, address: str) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(self._queue.place(address))
            except QueueFull:
                raise TooManyLogins("too many passwords wait for being checked; try again in a moment") from None
            yield

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (Argon2Error, InvalidHashError):
            return False

    def _digest(self, name: str, password: str, stored: str) -> bytes:
        text = "\0".join((name, password, stored)).encode(errors="surrogatepass")
        return hmac.digest(self._key, text, "sha256")

    def _is_known(self, digest: bytes) -> bool:
        return self._known.get(digest, float("-inf")) > self._clock_s()

    def _remember(self, digest: bytes) -> None:
        self._known[digest] = self._clock_s() + self._remember_s
        self._known.move_to_end(digest)
        if len(self._known) > self._remember_most:
            self._known.popitem(last=False)


def _is_possible(password: str) -> bool:
    try:
        return len(password.encode()) <= MAX_PASSWORD_BYTES
    except UnicodeEncodeError:
        return False


def _usual_parameters(directory: Directory) -> Parameters:
    """Return those of the directory's first hash, so that unknown names cost as much as those of users."""
    first = next((each for each in directory.users.values() if each.password_hash), None)
    try:
        return extract_parameters(first.password_hash) if first else RFC_9106_LOW_MEMORY
    except InvalidHashError:
        return RFC_9106_LOW_MEMORY
