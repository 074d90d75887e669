"""The lease of the node, the users whose events are routed to it, and its background work."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from calltag.core.domain.ids import UserId
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.sessions import SessionStore
from calltag.core.telemetry.conditions import Condition
from calltag.notifier.session_registry import SessionRegistry

log = structlog.get_logger()
_NOT_DONE: Final = Condition("background_work_left_out", level="info")
_RENEWED_PER_LEASE: Final = 5
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_ms() -> int:
    """Return milliseconds of a clock that includes suspension of the machine."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


@dataclass(slots=True)
class Background:
    """Background tasks. A failure because Redis is unavailable is counted and ignored: their effect is optional."""

    failed: Callable[[], None] = lambda: None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, work: Coroutine[object, object, None], name: str = "notifier-background") -> asyncio.Task[None]:
        """Start a task."""
        task = asyncio.create_task(self._until_done(work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step never awaits the coroutine.
        task.add_done_callback(lambda _: work.close())
        return task

    async def _until_done(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except StoreUnavailable as error:
            self.failed()
            _NOT_DONE.fails(error)
        except Exception:
            self.failed()
            log.exception("background_work_failed")

    async def finish(self) -> None:
        """Wait until all tasks have finished."""
        while self._tasks:
            await asyncio.wait(self._tasks)


@dataclass(slots=True)
class NodeLease:
    """While the lease is valid, this node answers the sessions at home here from memory.

    It is compared with the clock at each use: a process or machine that was suspended must not answer before its timers
    have run. After each lapse a new period begins, in which Redis has to confirm every session first. It is renewed
    only while the inbox receives: other nodes must be able to claim a session by notice, or by waiting for the lapse.
    """

    store: SessionStore
    lease_ms: int = 3_000
    clock_ms: Callable[[], int] = boot_ms
    period: int = 0
    valid_until_ms: int = 0
    """End of the lease by the local clock."""
    _receives: bool = False

    @property
    def is_valid(self) -> bool:
        return self.clock_ms() < self.valid_until_ms

    def covers(self, period: int, now_ms: int | None = None) -> bool:
        """Return whether it has not lapsed since a period began, so that no other node has taken a session over."""
        return period == self.period and (self.clock_ms() if now_ms is None else now_ms) < self.valid_until_ms

    async def renew(self) -> None:
        """Renew the lease in Redis. Raises StoreUnavailable."""
        asked_at_ms = self.clock_ms()
        await self.store.renew_lease(self.lease_ms)
        if not self.is_valid:
            self.period += 1
        # Safety margin: locally the lease ends earlier than in Redis.
        self.valid_until_ms = asked_at_ms + self.lease_ms * 4 // 5

    async def receives(self) -> None:
        """Note that the inbox receives, and renew the lease."""
        self._receives = True
        with suppress(StoreUnavailable):
            await self.renew()

    def receives_not(self) -> None:
        """Note that the inbox does not receive: the lease is not renewed."""
        self._receives = False

    async def keep(self) -> None:
        """Renew the lease periodically, until the task is cancelled."""
        unreachable = Condition("lease_not_renewed", over="lease_renewed", level="warning")
        while True:
            try:
                if self._receives:
                    await self.renew()
            except StoreUnavailable as error:
                unreachable.fails(error)
            else:
                unreachable.holds()
            await asyncio.sleep(self.lease_ms / 1000 / _RENEWED_PER_LEASE)


@dataclass(slots=True)
class Registrations:
    """Event routing per user: a user with sessions here is registered in Redis. Registration and removal of one user
    are serialized."""

    store: SessionStore
    registry: SessionRegistry
    background: Background
    _arriving: dict[str, int] = field(default_factory=dict)
    _leaving: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _postponed: set[str] = field(default_factory=set)
    _unrouted: set[str] = field(default_factory=set)

    @asynccontextmanager
    async def arrival(self, user: str) -> AsyncIterator[None]:
        """Register the user while a session is added inside the context."""
        while (leaving := self._leaving.get(user)) is not None:
            # Another removal may begin before this task runs again.
            await asyncio.wait({leaving})
        self._arriving[user] = self._arriving.get(user, 0) + 1
        try:
            yield
        finally:
            self._arriving[user] -= 1
            if not self._arriving[user]:
                del self._arriving[user]
                if user in self._postponed:
                    # The session may not have been added.
                    self._postponed.discard(user)
                    self.leave(user)
                self._unrouted.discard(user)

    def note_unrouted_event(self, user: str) -> None:
        """Note an event for a user without a session here; unless one is being added, end the registration."""
        if user in self._arriving:
            self._unrouted.add(user)
        else:
            self.leave(user)

    def has_unrouted_event(self, user: str) -> bool:
        """Return whether an event was received while the session of the user was being added."""
        return user in self._unrouted

    def renew(self) -> None:
        """Register all users again, because workers may have removed this node."""
        users = [UserId(user) for user in self.registry.feeds]
        if users:
            self.background.begin(self.store.register(users))

    def leave(self, user: str) -> None:
        """End the registration of a user whose last session here has ended."""
        if user not in self._leaving:
            self._leaving[user] = self.background.begin(self._leave(user))

    async def _leave(self, user: str) -> None:
        try:
            if user in self._arriving:
                self._postponed.add(user)
            elif user not in self.registry.feeds:
                await self.store.unregister(UserId(user))
        finally:
            del self._leaving[user]
