"""Snapshots: the present state of calls and devices, for a client that subscribes."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Reads and renders snapshots of at most `max_bytes`."""

    reader: CallReader
    views: EventViews
    policy: ChannelPolicy
    max_bytes: int
    clock_ms: Callable[[], int] = wall_ms

    async def of(self, user: UserId, channels: Collection[str]) -> list[bytes] | None:
        """Return the state that the channels are about, as messages; None if they would be too long.

        Raises StoreUnavailable.
        """
        messages, left = list[bytes](), self.max_bytes
        try:
            for event in await self._events(user, channels):
                for message in self.views.snapshot(user, event):
                    if any(matches(name, message.channel) for name in channels):
                        messages.append(message.plain())
                        left -= len(messages[-1])
                        if left < 0:
                            return None
        except TooMuch:
            return None
        return messages

    async def _events(self, user: UserId, channels: Collection[str]) -> Sequence[Event]:
        now_ms, events = self.clock_ms(), list[Event]()
        if any(matches(name, DEVICES_CHANNEL) for name in channels):
            agent = await self.reader.agent(user)
            events += [] if agent is None else [_devices(agent, now_ms)]
        calls = await self._calls(user, channels)
        return [*events, *(_call(each, now_ms) for each in sorted(calls, key=lambda call: call.began_at_ms))]

    async def _calls(self, user: UserId, channels: Collection[str]) -> Collection[Call]:
        """Return the calls of the user, and of those whom the user watches on the channels."""
        watched = self.policy.watched_by(user, channels)
        users = set(self.policy.directory.users) if watched.all else set(watched.users)
        if any(matches(name, CALLS_CHANNEL) for name in channels):
            users.add(user)
        ordered, found = sorted(users), dict[CallId, Call]()
        for begin in range(0, len(ordered), _USERS_AT_ONCE):
            for each in await self.reader.with_calls(ordered[begin : begin + _USERS_AT_ONCE]):
                calls = await self.reader.calls_of(each, max_bytes=self.max_bytes)
                found |= {call.id: call for call in calls}
        return found.values()


def _call(call: Call, now_ms: int) -> CallChanged:
    parties = tuple(each for each in call.users() if call.is_open_to(each))
    return CallChanged(
        EventId(f"snapshot-{call.id}-{call.version}"), NotificationType.STATUS_CHANGE, call, parties, now_ms
    )


def _devices(agent: Agent, now_ms: int) -> DevicesChanged:
    return DevicesChanged(
        EventId(f"snapshot-{agent.user}-{agent.version}"), agent.user, agent.devices, agent.version, now_ms
    )
