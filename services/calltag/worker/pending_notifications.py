"""Notifications that RabbitMQ did not confirm: retried per node until it knows which user streams to read."""

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
_MAX_USERS: Final = 100_000


@dataclass(slots=True)
class PendingNotifications:
    """Names the users with missed events to their node, whose sessions then read the users' streams.

    Only names are kept, however many events a user missed.
    """

    bus: Bus
    max_message_bytes: int
    _users: dict[NodeId, dict[UserId, None]] = field(default_factory=dict)
    _senders: dict[NodeId, asyncio.Task[None]] = field(default_factory=dict)

    def add(self, node: NodeId, users: Sequence[UserId]) -> None:
        """Note that a message with events of these users may not have reached the node."""
        if not users:
            return
        pending = self._users.setdefault(node, {})
        pending.update(dict.fromkeys(users))
        while len(pending) > _MAX_USERS:
            # The sessions of a user who is dropped detect the gap with the user's next event.
            pending.pop(next(iter(pending)))
        if node not in self._senders:
            self._senders[node] = asyncio.create_task(self._send(node), name=f"pending-notifications-{node}")

    async def drained(self) -> None:
        """Wait until all nodes were notified."""
        while self._senders:
            await asyncio.wait(list(self._senders.values()))

    async def _send(self, node: NodeId) -> None:
        delays = backoff_s(0.1, 2.0)
        try:
            while users := self._users.pop(node, {}):
                await asyncio.sleep(next(delays))
                try:
                    for message in stale_messages(users, self.max_message_bytes):
                        await self.bus.send(node, message.body, uuid4().hex)
                except (BusUnavailable, BusRefused):
                    self._users[node] = users | self._users.get(node, {})
                else:
                    log.info("node_notification_retried", node=node, users=len(users))
        finally:
            del self._senders[node]
