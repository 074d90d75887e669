"""Snapshots: the present state of calls and devices, for a client that subscribes."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bayeux.channels import matches
from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, NotificationType
from calltag.core.domain.ids import CallId, EventId, UserId
from calltag.core.store.ports import CallReader, TooMuch
from calltag.notifier.channel_policy import ChannelPolicy
from calltag.notifier.event_views import CALLS_CHANNEL, DEVICES_CHANNEL, EventViews
from calltag.notifier.metrics import wall_ms

_USERS_AT_ONCE: Final = 200


@dataclass(slots=True)
class _Messages:
    """The messages of a snapshot for one user, of at most `left` bytes more."""

    views: EventViews
    user: UserId
    channels: Collection[str]
    left: int
    encoded: list[bytes] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Add those on the channels. Raises TooMuch."""
        for message in self.views.snapshot(self.user, event):
            if self.include(message.channel):
                self.encoded.append(message.plain())
                self.left -= len(self.encoded[-1])
        if self.left < 0:
            raise TooMuch

    def include(self, channel: str) -> bool:
        """Return whether the snapshot is about the channel."""
        return any(matches(name, channel) for name in self.channels)


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Reads and renders snapshots; those of one answer have at most `max_bytes` together."""

    reader: CallReader
    views: EventViews
    policy: ChannelPolicy
    max_bytes: int
    clock_ms: Callable[[], int] = wall_ms

    async def of(self, user: UserId, channels: Collection[str], taken: int) -> list[bytes] | None:
        """Return the state that the channels are about, as messages; None if they would be too long for an answer that
        has `taken` bytes already.

        Raises StoreUnavailable.
        """
        messages, now_ms = _Messages(self.views, user, channels, self.max_bytes - taken), self.clock_ms()
        try:
            if messages.include(DEVICES_CHANNEL) and (agent := await self.reader.agent(user)) is not None:
                messages.add(_devices(agent, now_ms))
            await self._add_calls(messages, now_ms)
        except TooMuch:
            return None
        return messages.encoded

    async def _add_calls(self, messages: _Messages, now_ms: int) -> None:
        """Add each call once; no more are read at a time than there is room for. Raises TooMuch."""
        watched = self.policy.watched_by(messages.user, messages.channels)
        users = set(self.policy.directory.users) if watched.all else set(watched.users)
        if messages.include(CALLS_CHANNEL):
            users.add(messages.user)
        ordered, seen = sorted(users), set[CallId]()
        for begin in range(0, len(ordered), _USERS_AT_ONCE):
            for each in await self.reader.with_calls(ordered[begin : begin + _USERS_AT_ONCE]):
                for call in await self.reader.calls_of(each, max_bytes=messages.left):
                    if call.id not in seen:
                        seen.add(call.id)
                        messages.add(_call(call, now_ms))


def _call(call: Call, now_ms: int) -> CallChanged:
    parties = tuple(each for each in call.users() if call.is_open_to(each))
    return CallChanged(
        EventId(f"snapshot-{call.id}-{call.version}"), NotificationType.STATUS_CHANGE, call, parties, now_ms
    )


def _devices(agent: Agent, now_ms: int) -> DevicesChanged:
    return DevicesChanged(
        EventId(f"snapshot-{agent.user}-{agent.version}"), agent.user, agent.devices, agent.version, now_ms
    )
