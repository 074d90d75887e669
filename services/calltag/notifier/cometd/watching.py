"""Sessions that watch calls of others: what they want is registered with the store, and stays so."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from calltag.core.bayeux.position import BEGINNING, Position
from calltag.core.domain.ids import UserId
from calltag.core.store.session_records import NotKept
from calltag.core.store.user_streams import PER_MS
from calltag.core.store.watches import Watched
from calltag.notifier.cometd.authorizing import watched_on, watched_on_all
from calltag.notifier.cometd.side_tasks import SideTasks

_REMEMBERED: Final = 10_000
_NOTHING: Final = Watched()


class Watches(Protocol):
    """Where watches are. May raise StoreUnavailable."""

    lease_ms: int

    async def begin(self, watcher: UserId, watched: Watched) -> int:
        """The watcher gets what concerns these calls from now on, for the time of the lease.

        Returns since when that has been so for all of them, in milliseconds of the store's clock.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Begun:
    """What was registered when, by the clock here, and since when it is watched, by the store's."""

    at_ms: int = 0
    watched: Watched = _NOTHING
    since_ms: int = 0


@dataclass(slots=True)
class Watching:
    """Renews watches when a quarter of the time that events are kept has passed: connects come far more often."""

    watches: Watches
    side_tasks: SideTasks
    clock_ms: Callable[[], int]
    _begun: OrderedDict[str, _Begun] = field(default_factory=OrderedDict)

    async def begin(self, user: str, channels: Iterable[str]) -> int:
        """A session is about to subscribe to the channels. Raises StoreUnavailable.

        Returns since when the user's stream has had all that is watched, in milliseconds of the store's clock; 0 where
        nothing is watched.
        """
        watched = watched_on_all(channels)
        if not watched:
            return 0
        if not self._is_fresh(user, watched):
            await self._begin(user, watched)
        return self._begun[user].since_ms

    def stay(self, user: str, channels: Iterable[str]) -> None:
        """A session that is subscribed to the channels is here (still)."""
        watched = watched_on_all(channels)
        if watched and not self._is_fresh(user, watched):
            self.side_tasks.begin(self._begin(user, watched))

    def _is_fresh(self, user: str, watched: Watched) -> bool:
        begun = self._begun.get(user, _Begun())
        is_known = (begun.watched | watched) == begun.watched
        return is_known and self.clock_ms() - begun.at_ms < self.watches.lease_ms // 8

    async def _begin(self, user: str, watched: Watched) -> None:
        now_ms = self.clock_ms()
        known = self._begun.get(user, _Begun()).watched
        wanted = known | watched if self._is_fresh(user, known) else watched
        since_ms = await self.watches.begin(UserId(user), wanted)
        self._begun[user] = _Begun(now_ms, wanted, since_ms)
        self._begun.move_to_end(user)
        if len(self._begun) > _REMEMBERED:
            self._begun.popitem(last=False)


def check_watched(channels: Mapping[str, Position | None], since_ms: int) -> None:
    """Nothing may be wanted from a time when it was not watched: of that the user's stream has nothing. Raises NotKept.

    To want all there is (-2), or what is new, is no such wish.
    """
    for channel, wanted in channels.items():
        if wanted is not None and wanted > BEGINNING and watched_on(channel) and wanted // PER_MS < since_ms:
            raise NotKept(wanted)
