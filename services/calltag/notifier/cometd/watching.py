"""Sessions that watch calls of others: what they want is registered with the store, and stays so."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from calltag.core.domain.ids import UserId
from calltag.core.store.watches import Watched
from calltag.notifier.cometd.authorizing import watched_on_all
from calltag.notifier.cometd.side_tasks import SideTasks

_REMEMBERED: Final = 10_000


class Watches(Protocol):
    """Where watches are. May raise StoreUnavailable."""

    lease_ms: int

    async def begin(self, watcher: UserId, watched: Watched) -> None:
        """The watcher gets what concerns these calls from now on, for the time of the lease."""
        ...


@dataclass(slots=True)
class Watching:
    """Renews watches when a quarter of their lease has passed: connects come far more often."""

    watches: Watches
    side_tasks: SideTasks
    clock_ms: Callable[[], int]
    _begun: OrderedDict[str, tuple[int, Watched]] = field(default_factory=OrderedDict)

    async def begin(self, user: str, channels: Iterable[str]) -> None:
        """A session is about to subscribe to the channels. Raises StoreUnavailable."""
        watched = watched_on_all(channels)
        if watched and not self._is_fresh(user, watched):
            await self._begin(user, watched)

    def stay(self, user: str, channels: Iterable[str]) -> None:
        """A session that is subscribed to the channels is here (still)."""
        watched = watched_on_all(channels)
        if watched and not self._is_fresh(user, watched):
            self.side_tasks.begin(self._begin(user, watched))

    def _is_fresh(self, user: str, watched: Watched) -> bool:
        begun_ms, known = self._begun.get(user, (0, Watched()))
        return (known | watched) == known and self.clock_ms() - begun_ms < self.watches.lease_ms // 4

    async def _begin(self, user: str, watched: Watched) -> None:
        now_ms = self.clock_ms()
        _, known = self._begun.get(user, (0, Watched()))
        wanted = known | watched if self._is_fresh(user, known) else watched
        await self.watches.begin(UserId(user), wanted)
        self._begun[user] = (now_ms, wanted)
        self._begun.move_to_end(user)
        if len(self._begun) > _REMEMBERED:
            self._begun.popitem(last=False)
