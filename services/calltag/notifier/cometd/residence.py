"""Which users' events come to this node: those of users with sessions here."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from calltag.core.domain.ids import UserId
from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.side_tasks import SideTasks


@dataclass(slots=True)
class Residence:
    """Arriving registers a user with the node, in the store; the last session that goes ends that.

    The two must not cross.
    """

    store: RedisCometdSessions
    local: Local
    side_tasks: SideTasks
    _arriving: dict[str, int] = field(default_factory=dict)
    _leaving: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _put_off: set[str] = field(default_factory=set)
    _overlooked: set[str] = field(default_factory=set)

    @asynccontextmanager
    async def arrival(self, user: str) -> AsyncIterator[None]:
        """Inside, a session of the user arrives."""
        while (leaving := self._leaving.get(user)) is not None:
            # When it is over, another may have begun before this task has its turn.
            await asyncio.wait({leaving})
        self._arriving[user] = self._arriving.get(user, 0) + 1
        try:
            yield
        finally:
            self._arriving[user] -= 1
            if not self._arriving[user]:
                del self._arriving[user]
                if user in self._put_off:
                    # Perhaps no session came after all.
                    self._put_off.discard(user)
                    self.leave(user)
                self._overlooked.discard(user)

    def overlook(self, user: str) -> None:
        """An event came for a user of whom no session is here (yet), or any more: then it came by mistake."""
        if user in self._arriving:
            self._overlooked.add(user)
        else:
            self.leave(user)

    def has_overlooked(self, user: str) -> bool:
        """Whether an event came while the user's session arrived, and before it was here."""
        return user in self._overlooked

    def stay(self) -> None:
        """Workers may have taken this node for gone: its users are registered again."""
        users = [UserId(user) for user in self.local.feeds]
        if users:
            self.side_tasks.begin(self.store.stay(users))

    def leave(self, user: str) -> None:
        """The user has no session here any more."""
        if user not in self._leaving:
            self._leaving[user] = self.side_tasks.begin(self._leave(user))

    async def _leave(self, user: str) -> None:
        try:
            if user in self._arriving:
                self._put_off.add(user)
            elif user not in self.local.feeds:
                await self.store.leave(UserId(user))
        finally:
            del self._leaving[user]
