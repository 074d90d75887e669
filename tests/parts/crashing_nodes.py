"""Notifiers without broker and HTTP, any number of them on one store, that crash and are followed by others."""

import asyncio
from collections.abc import Sequence
from itertools import count

import orjson

from calltag.core.bayeux.events import Event, Position, StreamedEvent
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.store.client import RedisClient
from calltag.core.store.client_ids import digest_of
from calltag.core.store.event_log import Addition, Entry
from parts.hubs import KEYS, Installation, Node
from parts.store_commands import library


def translate(_: UserId, entry: Entry) -> StreamedEvent:
    """An entry is JSON `{"channel", "data"}`."""
    told = orjson.loads(entry.event)
    return StreamedEvent(entry.position, entry.previous, (Event(told["channel"], told["data"]),))


LEASE_MS = 600_000
"""So long that no lease lapses by itself."""


class Nodes(Installation):
    """The nodes by name; a node that crashed has a successor under the same name."""

    def __init__(self, client: RedisClient, limits: BayeuxLimits, *, roaming_ms: int = 30_000) -> None:
        super().__init__(client, limits, flush_timeout_s=0.05, roaming_ms=roaming_ms, lease_ms=LEASE_MS)
        self.nodes.clear()
        self.named: dict[str, Node] = {}
        self._limits = limits
        self._starts, self._versions = count(1), count(1)

    async def start(self, name: str) -> Node:
        """Start a node."""
        node = self.named[name] = Node(f"{name}-{next(self._starts)}", self, self._limits)
        node.dispatcher.translate = translate
        self.nodes[node.name] = node
        await node.lease.renew()
        return node

    async def crash(self, name: str) -> None:
        """A node crashes, with all that it has not saved."""
        node = self.nodes.pop(self.named.pop(name).name)
        node.client.cut.append("crashed")
        await self.lapse(node)
        tasks = list(node.background._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def send_notice(self, node: NodeId, notice: SessionNotice) -> bool:
        """Implements Post: to a node that crashed there is no way. A claim whose flush gets lost waits until the
        lease of the home lapses."""
        if self.loses_notices and notice.kind is NoticeKind.FLUSH and node in self.nodes:
            await self.lapse(self.nodes[node])
        return node in self.nodes and await super().send_notice(node, notice)

    async def lapse(self, node: Node) -> None:
        """Let so much time pass that the lease of a node lapses."""
        node.ahead_ms += LEASE_MS
        await library(self.client).delete(KEYS.notifier(node.name))

    async def add(
        self, user: UserId, told: Sequence[tuple[str, object]], *, by_broker: bool = True
    ) -> Sequence[Position]:
        """Add events, each a channel and data, to the user's stream, and notify the nodes. Returns their positions."""
        events = [orjson.dumps({"channel": channel, "data": data}) for channel, data in told]
        additions = [Addition("subject", next(self._versions), event) for event in events]
        appended = (await self.streams.append({user: additions}, to_watchers=True))[user]
        places = [place for place in appended.places if place is not None]
        for name in appended.nodes if by_broker else ():
            node = self.nodes.get(name)
            for place, event in zip(places, events, strict=True) if node is not None else ():
                assert node is not None
                node.dispatcher.publish(user, translate(user, Entry(place.position, place.previous, event)))
        return [place.position for place in places]

    async def expire(self, user: UserId, client_id: str) -> None:
        """The session's time is up in the store; the nodes do not know."""
        await library(self.client).delete(KEYS.cometd_session(user, digest_of(client_id)))

    async def trim(self, user: UserId, most: int) -> None:
        """Let the user's stream keep no more than its last events."""
        await library(self.client).xtrim(KEYS.stream_of(user), maxlen=most, approximate=False)
