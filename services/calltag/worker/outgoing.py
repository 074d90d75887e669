"""Sending: events to the nodes where their recipients have sessions, replies to the gateways that wait."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import structlog

from calltag.core.bus.ports import Bus, BusUnavailable, NodeId
from calltag.core.domain.call import Call
from calltag.core.domain.events import Event
from calltag.core.domain.ids import UserId
from calltag.core.store.ports import CallIndex, NodeRegistry
from calltag.core.wire.messages import OperationReply, node_message

log = structlog.get_logger()


@dataclass(slots=True)
class _Parcel:
    events: list[bytes] = field(default_factory=list)
    replies: list[OperationReply] = field(default_factory=list)


class Outgoing:
    """Hands events and replies over to the bus, one message for each node."""

    def __init__(self, bus: Bus, index: CallIndex, nodes: NodeRegistry) -> None:
        self._bus = bus
        self._index = index
        self._nodes = nodes

    async def send(
        self,
        calls: Sequence[Call],
        events: Sequence[tuple[Event, bytes]],
        replies: Sequence[tuple[NodeId, OperationReply]],
    ) -> int:
        """Bring the lists of calls up to date, then send everything; returns when the broker has it.

        `events` come with their encoded form. Returns the number of messages sent. To send again is harmless:
        events have ids. Raises BusError, StoreError.
        """
        users = tuple(dict.fromkeys(user for event, _ in events for user in event.recipients))
        where = await self._index.settle(calls, users) if calls or users else {}
        parcels = _parcels(events, replies, where)
        sent = await asyncio.gather(*(self._deliver(node, parcel) for node, parcel in parcels.items()))
        return sum(sent)

    async def _deliver(self, node: NodeId, parcel: _Parcel) -> bool:
        body = node_message(parcel.events, parcel.replies)
        try:
            if await self._bus.send(node, body, uuid4().hex):
                return True
        except BusUnavailable as error:
            if parcel.events:
                raise
            # A reply alone holds nobody up: whoever waits for it is told in time that the outcome is not known.
            log.warning("reply_not_sent", node=node, reason=str(error))
            return False
        # The inbox outlives its node by minutes: where there is none, nobody will come back to it.
        log.info("node_gone", node=node)
        await self._nodes.leave(node)
        return False


def _parcels(
    events: Sequence[tuple[Event, bytes]],
    replies: Sequence[tuple[NodeId, OperationReply]],
    where: Mapping[UserId, Sequence[NodeId]],
) -> dict[NodeId, _Parcel]:
    parcels: dict[NodeId, _Parcel] = {}
    for event, encoded in events:
        for node in dict.fromkeys(node for user in event.recipients for node in where.get(user, ())):
            parcels.setdefault(node, _Parcel()).events.append(encoded)
    for node, reply in replies:
        parcels.setdefault(node, _Parcel()).replies.append(reply)
    return parcels
