"""Sending: events into the streams of their recipients and on to the nodes where these have sessions, replies to the
gateways that wait.

The streams are what counts: a node that an event did not come to finds it there.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import structlog

from calltag.core.bus.ports import Bus, BusUnavailable, NodeId
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, OperationRefused
from calltag.core.domain.ids import UserId
from calltag.core.store.ports import CallIndex
from calltag.core.store.user_streams import Addition, Appended, UserStreams
from calltag.core.wire.messages import OperationReply, StreamPlace, node_message

log = structlog.get_logger()
Encoded = tuple[Event, bytes]


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


class Outgoing:
    """Hands events and replies over, one message for each node."""

    def __init__(self, bus: Bus, index: CallIndex, streams: UserStreams) -> None:
        self._bus = bus
        self._index = index
        self._streams = streams

    async def send(
        self, calls: Sequence[Call], events: Sequence[Encoded], replies: Sequence[tuple[NodeId, OperationReply]]
    ) -> int:
        """Bring the lists of calls up to date, add the events to the streams, and tell the nodes.

        `events` come with their encoded form. Returns the number of messages sent. To send again is harmless: an event
        is added to a stream once. Raises StoreError.
        """
        _, appended = await asyncio.gather(self._settle(calls), self._append(events))
        parcels = _parcels(events, replies, appended)
        sent = await asyncio.gather(*(self._deliver(node, parcel) for node, parcel in parcels.items()))
        return sum(sent)

    async def _settle(self, calls: Sequence[Call]) -> None:
        if calls:
            await self._index.settle(calls)

    async def _append(self, events: Sequence[Encoded]) -> Mapping[UserId, Appended]:
        additions: dict[UserId, list[Addition]] = {}
        for event, body in events:
            for user in event.recipients:
                additions.setdefault(user, []).append(_addition(event, body))
        return await self._streams.append(additions) if additions else {}

    async def _deliver(self, node: NodeId, parcel: _Parcel) -> bool:
        body = node_message(list(parcel.events.values()), parcel.places, parcel.replies)
        try:
            if await self._bus.send(node, body, uuid4().hex):
                return True
        except BusUnavailable as error:
            # One node that cannot be reached holds nobody up: its sessions find in the streams what did not come, and
            # who waits for a reply is told in time that the outcome is not known.
            log.warning("node_not_reached", node=node, reason=str(error))
            return False
        # The inbox outlives its node by minutes: where there is none, nobody will come back to it.
        log.info("node_gone", node=node)
        await self._streams.forget(node, list(dict.fromkeys(place.user for place in parcel.places)))
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


def _parcels(
    events: Sequence[Encoded],
    replies: Sequence[tuple[NodeId, OperationReply]],
    appended: Mapping[UserId, Appended],
) -> dict[NodeId, _Parcel]:
    parcels: dict[NodeId, _Parcel] = {}
    places = {user: iter(each.places) for user, each in appended.items()}
    for number, (event, body) in enumerate(events):
        for user in event.recipients:
            place = next(places[user])
            for node in appended[user].nodes if place is not None else ():
                if place is not None:
                    parcel = parcels.setdefault(node, _Parcel())
                    parcel.add(number, body, user, place.position, place.previous)
    for node, reply in replies:
        parcels.setdefault(node, _Parcel()).replies.append(reply)
    return parcels
