"""What could not be sent to a node while the broker took nothing, or lost the confirm."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import structlog

from calltag.core.bus.ports import Bus, BusRefused, BusUnavailable, NodeId
from calltag.core.domain.ids import UserId
from calltag.core.runtime.backoff import backoff_s

log = structlog.get_logger()
_MOST_USERS: Final = 10_000


@dataclass(slots=True)
class Owing:
    """Sends the latest message of each user again until the node has it.

    From that its sessions see what they missed, and read it in the stream; what comes twice they know.
    """

    bus: Bus
    _latest: dict[NodeId, dict[UserId, bytes]] = field(default_factory=dict)
    _sending: dict[NodeId, asyncio.Task[None]] = field(default_factory=dict)

    def add(self, node: NodeId, users: Sequence[UserId], body: bytes) -> None:
        """The message did not reach the node, as far as is known."""
        latest = self._latest.setdefault(node, {})
        for user in users:
            latest.pop(user, None)
            latest[user] = body
        while len(latest) > _MOST_USERS:
            # Their sessions see with the next event that they missed one.
            latest.pop(next(iter(latest)))
        if node not in self._sending:
            self._sending[node] = asyncio.create_task(self._send(node), name=f"owing-{node}")

    async def _send(self, node: NodeId) -> None:
        delays = backoff_s(0.1, 2.0)
        try:
            while latest := self._latest.pop(node, {}):
                await asyncio.sleep(next(delays))
                bodies = list(dict.fromkeys(latest.values()))
                try:
                    for body in bodies:
                        await self.bus.send(node, body, uuid4().hex)
                except (BusUnavailable, BusRefused):
                    self._latest[node] = {**latest, **self._latest.get(node, {})}
                else:
                    log.info("node_reached_again", node=node, messages=len(bodies))
        finally:
            del self._sending[node]
