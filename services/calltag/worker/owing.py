"""Whom something is owed: the users of whose events a node got no message, while the broker took nothing or lost the
confirm."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import structlog

from calltag.core.bus.ports import Bus, BusRefused, BusUnavailable, NodeId
from calltag.core.domain.ids import UserId
from calltag.core.runtime.backoff import backoff_s
from calltag.core.wire.node_messages import stale_messages

log = structlog.get_logger()
_MOST_USERS: Final = 100_000


@dataclass(slots=True)
class Owing:
    """Tells each node, until it has that, at whose streams it has to look: there its sessions find what they missed.

    What is kept is the users' names alone, however much is owed to them.
    """

    bus: Bus
    max_bytes: int
    _owed: dict[NodeId, dict[UserId, None]] = field(default_factory=dict)
    _sending: dict[NodeId, asyncio.Task[None]] = field(default_factory=dict)

    def add(self, node: NodeId, users: Sequence[UserId]) -> None:
        """A message about these users did not reach the node, as far as is known."""
        if not users:
            return
        owed = self._owed.setdefault(node, {})
        owed.update(dict.fromkeys(users))
        while len(owed) > _MOST_USERS:
            # Their sessions see with the next event that they missed one.
            owed.pop(next(iter(owed)))
        if node not in self._sending:
            self._sending[node] = asyncio.create_task(self._send(node), name=f"owing-{node}")

    async def paid(self) -> None:
        """Wait until nothing is owed any more."""
        while self._sending:
            await asyncio.wait(list(self._sending.values()))

    async def _send(self, node: NodeId) -> None:
        delays = backoff_s(0.1, 2.0)
        try:
            while owed := self._owed.pop(node, {}):
                await asyncio.sleep(next(delays))
                try:
                    for message in stale_messages(owed, self.max_bytes):
                        await self.bus.send(node, message.body, uuid4().hex)
                except (BusUnavailable, BusRefused):
                    self._owed[node] = owed | self._owed.get(node, {})
                else:
                    log.info("node_reached_again", node=node, users=len(owed))
        finally:
            del self._sending[node]
