"""Sending: events into the streams of those whom they concern and on to the nodes where these have sessions, replies to
the gateways that wait.

The streams are what counts: a node that an event did not come to finds it there.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import structlog

from calltag.core.bus.ports import Bus, BusUnavailable, NodeId
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, OperationRefused
from calltag.core.domain.ids import UserId
from calltag.core.runtime.waiting import together
from calltag.core.store.ports import CallIndex
from calltag.core.store.user_streams import Addition, Appended, UserStreams
from calltag.core.store.watches import Watchers
from calltag.core.telemetry.conditions import Condition
from calltag.core.wire.messages import OperationReply, StreamPlace, node_message
from calltag.worker.owing import Owing

log = structlog.get_logger()
_NOT_REACHED: Final = Condition("node_not_reached")
Encoded = tuple[Event, bytes]
_LISTS_FRESH_S: Final = 10.0
"""A list may lose a call without a sign (a fail-over between a commit and the list, or of the server that has the list
alone): the next change of the call that comes later than this puts it back."""


@dataclass(slots=True)
class _Parcel:
    events: dict[int, bytes] = field(default_factory=dict)
    places: list[StreamPlace] = field(default_factory=list)
    replies: list[OperationReply] = field(default_factory=list)

    def add(self, number: int, body: bytes, user: UserId, position: int, previous: int) -> None:
        """Add a place of an event; the event itself goes along once."""
        self.events.setdefault(number, body)
        at = list(self.events).index(number)
        self.places.append(StreamPlace(user=user, event=at, position=position, previous=previous))


@dataclass(frozen=True, slots=True)
class _Placed:
    """What came of adding the events of these numbers to one user's stream."""

    user: UserId
    numbers: Sequence[int]
    appended: Appended


class Outgoing:
    """Hands events and replies over, one message for each node."""

    def __init__(self, bus: Bus, index: CallIndex, streams: UserStreams, watchers: Watchers) -> None:
        self._bus = bus
        self._index = index
        self._streams = streams
        self._watchers = watchers
        self._owing = Owing(bus)
        self.lists_fresh_s = min(index.lifetime_ms / 4_000, _LISTS_FRESH_S)
        """For how many seconds lists of calls need not be written again."""

    async def send(
        self, calls: Sequence[Call], events: Sequence[Encoded], replies: Sequence[tuple[NodeId, OperationReply]]
    ) -> int:
        """Bring the lists of calls up to date, add the events to the streams, and tell the nodes.

        `events` come with their encoded form. Returns the number of messages sent. To send again is harmless: an event
        is added to a stream once. Raises StoreError.
        """
        if calls:
            _, placed = await asyncio.gather(self._index.settle(calls), self._append(events))
        else:
            placed = await self._append(events)
        parcels = _parcels(events, replies, placed)
        return sum(await together([self._deliver(node, parcel) for node, parcel in parcels.items()]))

    async def finish(self) -> None:
        """Wait until every node knows of what did not come to it."""
        await self._owing.paid()

    async def _append(self, events: Sequence[Encoded]) -> Sequence[_Placed]:
        """Add the events to the streams of their recipients, and of those who watch these.

        A watcher's own events come with what is watched, so that those of one call stay in order.
        """
        if not events:
            return []
        own = _by_user(events)
        of_all, first = await asyncio.gather(self._watchers.of_all(), self._added(events, own))
        watched = _watched(events, {each.user: each.appended for each in first}, of_all)
        second = await self._added(events, watched, to_watchers=True) if watched else []
        return [each for each in first if not each.appended.put_off] + second

    async def _added(
        self, events: Sequence[Encoded], wanted: Mapping[UserId, Sequence[int]], *, to_watchers: bool = False
    ) -> list[_Placed]:
        additions = {user: [_addition(*events[number]) for number in numbers] for user, numbers in wanted.items()}
        appended = await self._streams.append(additions, to_watchers=to_watchers)
        return [_Placed(user, numbers, appended[user]) for user, numbers in wanted.items()]

    async def _deliver(self, node: NodeId, parcel: _Parcel) -> bool:
        body = node_message(list(parcel.events.values()), parcel.places, parcel.replies)
        users = list(dict.fromkeys(place.user for place in parcel.places))
        try:
            if await self._bus.send(node, body, uuid4().hex):
                return True
        except BusUnavailable as error:
            # One node that cannot be reached holds nobody up: its sessions find in the streams what did not come, once
            # they know of it, and who waits for a reply is told in time that the outcome is not known.
            _NOT_REACHED.fails(error, node=node)
            self._owing.add(node, users)
            return False
        # The inbox outlives its node by minutes: where there is none, nobody will come back to it.
        log.info("node_gone", node=node)
        await self._streams.forget(node, users)
        return False


def _addition(event: Event, body: bytes) -> Addition:
    """What orders the events of one call, or of one agent; a refusal stands for itself."""
    match event:
        case CallChanged():
            return Addition(f"call:{event.call.id}", event.call.version, body)
        case DevicesChanged():
            return Addition("agent", event.version, body)
        case OperationRefused():
            return Addition(f"refused:{event.id}", 1, body)


def _by_user(events: Sequence[Encoded]) -> dict[UserId, list[int]]:
    """The numbers of the events for each recipient."""
    numbers: dict[UserId, list[int]] = {}
    for number, (event, _) in enumerate(events):
        for user in event.recipients:
            numbers.setdefault(user, []).append(number)
    return numbers


def _watched(
    events: Sequence[Encoded], appended: Mapping[UserId, Appended], of_all: Sequence[UserId]
) -> dict[UserId, list[int]]:
    """The numbers of the events still to be added: to streams of watchers, their own events among them if put off."""
    numbers: dict[UserId, list[int]] = {}
    for number, (event, _) in enumerate(events):
        late = {user: None for user in event.recipients if appended[user].put_off}
        if isinstance(event, CallChanged):
            watching = [*of_all, *(each for user in event.recipients for each in appended[user].watchers)]
            late |= dict.fromkeys(each for each in watching if each not in event.recipients)
        for user in late:
            numbers.setdefault(user, []).append(number)
    return numbers


def _parcels(
    events: Sequence[Encoded],
    replies: Sequence[tuple[NodeId, OperationReply]],
    placed: Sequence[_Placed],
) -> dict[NodeId, _Parcel]:
    parcels: dict[NodeId, _Parcel] = {}
    for each in placed:
        for number, place in zip(each.numbers, each.appended.places, strict=True):
            for node in each.appended.nodes if place is not None else ():
                if place is not None:
                    parcel = parcels.setdefault(node, _Parcel())
                    parcel.add(number, events[number][1], each.user, place.position, place.previous)
    for node, reply in replies:
        parcels.setdefault(node, _Parcel()).replies.append(reply)
    return parcels
