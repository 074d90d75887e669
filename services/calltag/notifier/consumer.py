"""From the node's inbox to the sessions."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from calltag.core.bus.ports import Bus, BusError, NodeId
from calltag.core.domain.events import Event
from calltag.core.domain.ids import UserId
from calltag.core.runtime.backoff import backoff_s
from calltag.core.store.ports import NodeRegistry, StoreUnavailable
from calltag.core.telemetry.metrics import Metrics
from calltag.core.wire.messages import NODE, WireError
from calltag.notifier.cometd.hub import Hub
from calltag.notifier.messages import message_for, services_message
from calltag.notifier.repeats import SeenEvents

log = structlog.get_logger()
_WATCH_S = 1.0
_REGISTER_S = 5.0


@dataclass(slots=True)
class NodePresence:
    """Implements Presence: the users with sessions here are in the registry."""

    node: NodeId
    registry: NodeRegistry

    async def online(self, user: str) -> None:
        await self.registry.add(self.node, [UserId(user)])

    async def offline(self, user: str) -> None:
        await self.registry.remove(self.node, UserId(user))

    async def still_online(self, users: Sequence[str]) -> None:
        """Be registered for all of them, even if the store, or a worker that found no inbox, has forgotten it."""
        try:
            await self.registry.add(self.node, [UserId(user) for user in users])
        except StoreUnavailable as error:
            log.warning("presence_not_renewed", reason=str(error))


@dataclass(slots=True)
class EventConsumer:
    """Delivers each event to its recipients' sessions, each time in the recipient's own view, and never twice."""

    hub: Hub
    presence: NodePresence
    metrics: Metrics
    base_url: str
    seen: SeenEvents = field(default_factory=SeenEvents)

    async def run(self, bus: Bus, node: NodeId) -> None:
        """Receive for as long as the task runs."""
        delays = backoff_s(0.05, 2.0)
        while True:
            try:
                async with bus.inbox(node) as inbox:
                    self.hub.reachable = True
                    await self.presence.still_online(self.hub.engine.users())
                    while True:
                        self.handle(await inbox.receive())
                        delays = backoff_s(0.05, 2.0)
            except BusError as error:
                log.warning("inbox_interrupted", reason=str(error))
            await asyncio.sleep(next(delays))

    def handle(self, body: bytes) -> None:
        """Deliver what one message of the inbox holds."""
        try:
            events = NODE.decode(body).events
        except WireError as error:
            log.error("events_unreadable", reason=str(error))
            return
        for event in events:
            self.metrics.events_received.inc()
            if self.seen.first_time(event.id):
                self._deliver(event)
            else:
                self.metrics.events_repeated.inc()

    def _deliver(self, event: Event) -> None:
        for user in event.recipients:
            if not self.hub.engine.has_sessions(user):
                continue
            message = message_for(user, event, self.base_url)
            if message is not None and self.hub.deliver(user, message.channel, message.data, message.ext):
                self.metrics.delivery_seconds.observe(max(0.0, time.time() - event.accepted_at_ms / 1000))


async def keep_present(presence: NodePresence, hub: Hub) -> None:
    """Keep the users who are here registered, for as long as the task runs."""
    while True:
        await presence.still_online(hub.engine.users())
        await asyncio.sleep(_REGISTER_S)


async def tell_services(bus: Bus, hub: Hub) -> None:
    """Tell subscribers of `/notifications/services` when the service behind goes away or comes back."""
    known = True
    while True:
        available = bus.connected()
        if available != known:
            message = services_message(available=available)
            hub.broadcast(message.channel, message.data)
            known = available
        await asyncio.sleep(_WATCH_S)
