"""Watches of calls: supervisors watch their agents' calls, administrators all calls.

Watched events are appended to the watcher's own stream as well, so that sessions resume them like other events. A watch
has a lease, renewed while a session needs it; events that arrive after that, until the lease ends, are not shown.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from calltag.core.domain.ids import UserId
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.scripts import ScriptBatcher

_LONGER_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Watched:
    """Scope of a watch: the calls of `users`, or all calls."""

    users: frozenset[UserId] = frozenset()
    all: bool = False

    def __bool__(self) -> bool:
        return self.all or bool(self.users)

    def __or__(self, other: "Watched") -> "Watched":
        return Watched(self.users | other.users, all=self.all or other.all)


class Watchers(Protocol):
    """Watchers as the worker reads them. May raise StoreUnavailable."""

    async def of_all(self) -> Sequence[UserId]:
        """Return the users who watch all calls."""
        ...


class RedisWatches:
    """Implements Watchers in Redis. Every method may raise StoreUnavailable."""

    def __init__(self, client: RedisClient, batcher: ScriptBatcher, keys: Keys, *, lease_ms: int = 3_600_000) -> None:
        self._client = client
        self._keys = keys
        self.lease_ms = lease_ms
        self._watch = batcher.script("watch")
        self._watchers = batcher.script("watchers")

    async def of_all(self) -> Sequence[UserId]:
        watchers = await self._watchers([self._keys.watchers_of_all()], [])
        return [UserId(user.decode()) for user in cast("list[bytes]", watchers)]

    async def begin(self, watcher: UserId, watched: Watched) -> int:
        """Begin or renew a watch for the time of the lease.

        Returns the time since which all of these calls are watched, in milliseconds of the server's clock.
        """
        # First: a writer that finds the watcher has to know that the watcher's own events wait for the watched ones.
        await self._client.execute("SET", self._keys.watching(watcher), "1", "PX", self.lease_ms + _LONGER_MS)
        keys = self._keys
        places = [[keys.watchers_of(user), keys.watched_since(user)] for user in sorted(watched.users)]
        if watched.all:
            places.append([keys.watchers_of_all(), keys.all_watched_since()])
        began = await asyncio.gather(*(self._watch(place, [watcher, self.lease_ms]) for place in places))
        return max((int(cast("bytes", each)) for each in began), default=0)
