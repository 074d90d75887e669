"""Permissions on channels, and the registration of watches: subscriptions to calls of other users."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from operator import or_
from typing import Final, Protocol

from calltag.core.bayeux.channels import is_service
from calltag.core.bayeux.events import BEGINNING, Position
from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import Directory
from calltag.core.store.event_log import PER_MS
from calltag.core.store.sessions import NotKept
from calltag.core.store.watches import Watched

ALL_CALLS_CHANNEL: Final = "/v2/calls"
_OWN: Final = re.compile(r"/v2/me/(?:[A-Za-z0-9_-]+|\*|\*\*)")
_SERVICES: Final = ("/notifications/services", "/notifications/*", "/notifications/**")
_PATTERNS: Final = ("/v2/*", "/v2/**", "/v2/users/**", "/**", "/*")
"""Patterns that deliver what the subscriber may have of them."""
_OF_USER: Final = re.compile(r"/v2/users/([^/*]+)/(?:calls|\*|\*\*)")
_NOTHING: Final = Watched()
_CACHED_CHANNELS: Final = 4_096
_CACHED_WATCHES: Final = 10_000


def calls_channel_of(user: UserId) -> str:
    """Return the channel of the user's calls, for the user's supervisors."""
    return f"/v2/users/{user}/calls"


@lru_cache(_CACHED_CHANNELS)
def watched_on(channel: str) -> Watched:
    """Return the users whose calls a subscription to the channel or pattern watches, beside the subscriber. For a
    pattern these are all users; `watched_by` selects."""
    if channel == ALL_CALLS_CHANNEL or channel in _PATTERNS:
        return Watched(all=True)
    of_user = _OF_USER.fullmatch(channel)
    return Watched(frozenset({UserId(of_user[1])})) if of_user else _NOTHING


def watched_on_all(channels: Iterable[str]) -> Watched:
    """Return the union for several channels."""
    return reduce(or_, map(watched_on, channels), _NOTHING)


@dataclass(frozen=True, slots=True)
class ChannelPolicy:
    """Permissions from the directory."""

    directory: Directory

    def may_subscribe(self, user: str, channel: str) -> bool:
        """Return whether the user may subscribe to the channel or pattern; "me" channels have the user's own events.

        Web Services has more channels of a user than calltag, which sends nothing on them. A user who is not in the
        directory may subscribe to nothing.
        """
        who = self.directory.users.get(UserId(user))
        if who is None:
            return False
        if channel == ALL_CALLS_CHANNEL:
            return who.is_administrator
        watched = watched_on(channel).users
        if watched:
            return all(self.directory.oversees(UserId(user), other) for other in watched)
        return channel in _SERVICES or channel in _PATTERNS or _OWN.fullmatch(channel) is not None

    def watched_by(self, user: str, channels: Iterable[str]) -> Watched:
        """Return the users whose calls the user watches by subscriptions to these channels."""
        watched = watched_on_all(channels)
        who = self.directory.users.get(UserId(user))
        if not watched.all or (who is not None and who.is_administrator):
            return watched
        return Watched(watched.users | self.directory.overseen_by(UserId(user)))

    def may_publish(self, _user: str, channel: str) -> bool:
        """Return whether the user may publish on the channel: on service channels, where messages go to no client."""
        return is_service(channel)


class Watches(Protocol):
    """Registration of watches. Methods raise StoreUnavailable."""

    lease_ms: int

    async def begin(self, watcher: UserId, watched: Watched) -> int:
        """Route events of these calls to the watcher's stream from now on, for the time of the lease.

        Return the time since which the stream has the events of all of them, in milliseconds of Redis' clock.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Watch:
    """Registered watches: time of registration by the local clock, and start of their validity by Redis' clock."""

    at_ms: int = 0
    watched: Watched = _NOTHING
    since_ms: int = 0


@dataclass(slots=True)
class WatchRenewal:
    """Renews watches when an eighth of their lease has passed: connects are far more frequent."""

    policy: ChannelPolicy
    watches: Watches
    clock_ms: Callable[[], int]
    _begun: OrderedDict[str, _Watch] = field(default_factory=OrderedDict)

    async def begin(self, user: str, channels: Iterable[str]) -> int:
        """Register the watches of a subscription to the channels. Raises StoreUnavailable.

        Return the time since which the user's stream has all watched events, in milliseconds of Redis' clock; 0 if
        nothing is watched.
        """
        watched = self.policy.watched_by(user, channels)
        if not watched:
            return 0
        if not self._is_fresh(user, watched):
            await self._begin(user, watched)
        return self._begun[user].since_ms

    def is_due(self, user: str, channels: Iterable[str]) -> bool:
        """Return whether `begin` has watches to renew for a session with these subscriptions."""
        watched = self.policy.watched_by(user, channels)
        return bool(watched) and not self._is_fresh(user, watched)

    def _is_fresh(self, user: str, watched: Watched) -> bool:
        begun = self._begun.get(user, _Watch())
        is_known = (begun.watched | watched) == begun.watched
        return is_known and self.clock_ms() - begun.at_ms < self.watches.lease_ms // 8

    async def _begin(self, user: str, watched: Watched) -> None:
        now_ms = self.clock_ms()
        known = self._begun.get(user, _Watch()).watched
        wanted = known | watched if self._is_fresh(user, known) else watched
        since_ms = await self.watches.begin(UserId(user), wanted)
        self._begun[user] = _Watch(now_ms, wanted, since_ms)
        self._begun.move_to_end(user)
        if len(self._begun) > _CACHED_WATCHES:
            self._begun.popitem(last=False)


def check_watched(channels: Mapping[str, Position | None], since_ms: int) -> None:
    """Check that no replay begins before the time since which the user's stream has watched events. Raises NotKept.

    A replay of all retained events (-2), or of new ones only, always passes.
    """
    for channel, wanted in channels.items():
        if wanted is not None and wanted > BEGINNING and watched_on(channel) and wanted // PER_MS < since_ms:
            raise NotKept(wanted)
