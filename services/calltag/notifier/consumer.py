"""From the node's inbox to the sessions."""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from calltag.core.bayeux.events import Published
from calltag.core.bayeux.position import Position
from calltag.core.bus.ports import Bus, BusError, NodeId
from calltag.core.domain.events import Event
from calltag.core.domain.ids import UserId
from calltag.core.runtime.backoff import backoff_s
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.conditions import Condition
from calltag.core.telemetry.metrics import Metrics
from calltag.core.wire.messages import NODE, NodeMessage, SessionNotice, StreamPlace, WireError
from calltag.notifier.cometd.feeding import Feeding
from calltag.notifier.cometd.hub import Hub
from calltag.notifier.messages import Translator, services_event

log = structlog.get_logger()
_NOT_SENT: Final = Condition("notice_not_sent", level="info")
_NOT_HEEDED: Final = Condition("notice_not_heeded", level="info")
_INTERRUPTED: Final = Condition("inbox_interrupted", over="inbox_received_again")
_WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class NodePost:
    """Implements Post on the bus."""

    bus: Bus

    async def tell(self, node: NodeId, notice: SessionNotice) -> None:
        message = NodeMessage(notices=(notice,))
        try:
            await self.bus.send(node, NODE.encode(message), f"{notice.kind}-{notice.cycle}")
        except BusError as error:
            _NOT_SENT.fails(error, node=node)


@dataclass(slots=True)
class EventConsumer:
    """Gives what comes to this node to the sessions here, each event in the view of each recipient."""

    hub: Hub
    translator: Translator
    metrics: Metrics

    @property
    def feeding(self) -> Feeding:
        return self.hub.connects.feeding

    async def run(self, bus: Bus, node: NodeId) -> None:
        """Receive for as long as the task runs."""
        delays = backoff_s(0.05, 2.0)
        while True:
            try:
                async with bus.inbox(node) as inbox:
                    self.hub.reachable = True
                    _INTERRUPTED.holds()
                    # While the inbox was away, events went into the streams alone.
                    self.hub.connects.residence.stay()
                    self.feeding.look_at_all()
                    while True:
                        await self.handle(await inbox.receive())
                        delays = backoff_s(0.05, 2.0)
            except BusError as error:
                _INTERRUPTED.fails(error)
            await asyncio.sleep(next(delays))

    async def handle(self, body: bytes) -> None:
        """Deliver what one message of the inbox holds."""
        try:
            message = NODE.decode(body)
        except WireError as error:
            log.error("events_unreadable", reason=str(error))
            return
        self.metrics.events_received.inc(len(message.events))
        entries: dict[UserId, list[Published]] = {}
        for place in message.places:
            if place.event < len(message.events):
                if self._is_here(place.user):
                    entries.setdefault(place.user, []).append(self._entry(message.events[place.event], place))
            elif place.user in self.hub.connects.local.feeds:
                self.feeding.look_at(place.user)
            else:
                self.hub.connects.residence.overlook(place.user)
        for user, of_user in entries.items():
            self.feeding.publish(user, *of_user)
        for notice in message.notices:
            try:
                await self.hub.heed(notice)
            except StoreUnavailable as error:
                _NOT_HEEDED.fails(error)

    def _is_here(self, user: UserId) -> bool:
        if user in self.hub.connects.local.feeds:
            return True
        self.hub.connects.residence.overlook(user)
        return False

    def _entry(self, event: Event, place: StreamPlace) -> Published:
        return self.translator.published(place.user, event, Position(place.position), Position(place.previous))


async def tell_services(bus: Bus, hub: Hub) -> None:
    """Tell subscribers of `/notifications/services` whether the broker is available, for as long as the task runs.

    Each session is compared with the present state, so one that begins during an outage is told of it as well.
    """
    while True:
        active = bus.connected()
        hub.connects.tell_services(services_event(available=active), active=active)
        await asyncio.sleep(_WATCH_S)
