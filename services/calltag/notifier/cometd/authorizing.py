"""Who may subscribe to what: users to what is theirs, supervisors to calls of their agents, administrators to all.

And who may publish on what: everybody where only the server could listen.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_
from typing import Final

from calltag.core.bayeux.channels import is_service
from calltag.core.domain.ids import UserId
from calltag.core.identity.model import Directory
from calltag.core.store.watches import Watched

ALL_CALLS_CHANNEL: Final = "/v2/calls"
_CHANNELS: Final = ("/v2/me/calls", "/v2/me/devices", "/notifications/services")
_PATTERNS: Final = ("/v2/me/*", "/v2/me/**", "/notifications/*", "/notifications/**")
_OF_ALL: Final = (ALL_CALLS_CHANNEL, "/v2/*", "/v2/**", "/v2/users/**")
_OF_USER: Final = re.compile(r"/v2/users/([^/*]+)/(?:calls|\*|\*\*)")
_NOTHING: Final = Watched()
_REMEMBERED: Final = 4_096


def calls_channel_of(user: UserId) -> str:
    """The channel of the user's calls, for those who oversee the user."""
    return f"/v2/users/{user}/calls"


@lru_cache(_REMEMBERED)
def watched_on(channel: str) -> Watched:
    """Whose calls a subscription to the channel, or pattern, is about, beside the subscriber's own."""
    if channel in _OF_ALL:
        return Watched(all=True)
    of_user = _OF_USER.fullmatch(channel)
    return Watched(frozenset({UserId(of_user[1])})) if of_user else _NOTHING


def watched_on_all(channels: Iterable[str]) -> Watched:
    """The same for several channels."""
    return reduce(or_, map(watched_on, channels), _NOTHING)


@dataclass(frozen=True, slots=True)
class Authorizer:
    """Judges by the directory."""

    directory: Directory

    def may_subscribe(self, user: str, channel: str) -> bool:
        """Whether the user may subscribe to the channel or pattern; on "me" channels all see what is theirs.

        Who is not in the directory (any more) may to nothing.
        """
        who = self.directory.users.get(UserId(user))
        if who is None:
            return False
        watched = watched_on(channel)
        if watched.all:
            return who.is_administrator
        if watched.users:
            return all(self.directory.oversees(UserId(user), other) for other in watched.users)
        return channel in _CHANNELS or channel in _PATTERNS

    def may_publish(self, _user: str, channel: str) -> bool:
        """Whether the user may publish on the channel: on service channels, where what is taken goes nowhere."""
        return is_service(channel)
