"""The inbox of a node: events, notices about sessions, and the state of the services."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from calltag.core.bayeux.events import Position, StreamedEvent
from calltag.core.broker.ports import Broker, BrokerError, NodeId
from calltag.core.contracts.operations import NODE, NodeMessage, NoticeKind, SessionNotice, StreamPlace, WireError
from calltag.core.domain.events import Event
from calltag.core.domain.ids import UserId
from calltag.core.process.waiting import backoff_s
from calltag.core.telemetry.conditions import Condition
from calltag.notifier.bayeux_server import BayeuxServer
from calltag.notifier.event_views import EventViews, services_event
from calltag.notifier.metrics import NotifierMetrics

log = structlog.get_logger()
_NOT_SENT: Final = Condition("notice_not_sent", level="info")
_INTERRUPTED: Final = Condition("inbox_interrupted", over="inbox_received_again")
_WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class NodePost:
    """Implements Post on the broker."""

    broker: Broker

    async def send_notice(self, node: NodeId, notice: SessionNotice) -> bool:
        message = NodeMessage(notices=(notice,))
        try:
            return await self.broker.send(node, NODE.encode(message), f"{notice.kind}-{notice.cycle}")
        except BrokerError as error:
            _NOT_SENT.fails(error, node=node)
            return False


@dataclass(slots=True)
class NotifierInbox:
    """Dispatches received messages: events to sessions, each in the view of its recipient, and notices.

    A notice is handled in a task, in order with others of its session, so that a slow one does not block the rest.
    """

    server: BayeuxServer
    views: EventViews
    metrics: NotifierMetrics
    _notices: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self, broker: Broker, node: NodeId) -> None:
        """Receive messages until the task is cancelled."""
        delays = backoff_s(0.05, 2.0)
        sessions = self.server.sessions
        while True:
            try:
                async with broker.inbox(node) as inbox:
                    self.server.opened()
                    await sessions.lease.receives()
                    _INTERRUPTED.holds()
                    # Events published while there was no inbox are in the streams only.
                    sessions.registrations.renew()
                    sessions.dispatcher.look_at_all()
                    while True:
                        self.handle(await inbox.receive())
                        delays = backoff_s(0.05, 2.0)
            except BrokerError as error:
                _INTERRUPTED.fails(error)
            sessions.lease.receives_not()
            await asyncio.sleep(next(delays))

    def handle(self, body: bytes) -> None:
        """Dispatch the content of one message."""
        try:
            message = NODE.decode(body)
        except WireError as error:
            log.error("events_unreadable", reason=str(error))
            return
        sessions = self.server.sessions
        self.metrics.events_received.inc(len(message.events))
        entries: dict[UserId, list[StreamedEvent]] = {}
        for place in message.places:
            if place.user not in sessions.registry.feeds:
                sessions.registrations.note_unrouted_event(place.user)
            elif place.event < len(message.events):
                entries.setdefault(place.user, []).append(self._entry(message.events[place.event], place))
        for user in message.stale_users:
            if user in sessions.registry.feeds:
                sessions.dispatcher.look_at(user)
            else:
                sessions.registrations.note_unrouted_event(user)
        for user, of_user in entries.items():
            sessions.dispatcher.publish(user, *of_user)
        for notice in message.notices:
            self._begin_notice(notice)

    def _entry(self, event: Event, place: StreamPlace) -> StreamedEvent:
        return self.views.published(place.user, event, Position(place.position), Position(place.previous))

    def _begin_notice(self, notice: SessionNotice) -> None:
        if notice.kind is NoticeKind.FLUSHED:
            # Not queued behind earlier notices: their tasks may wait for the claim that this notice completes.
            self.server.sessions.claims.flushed(notice)
            return
        subject = notice.client_id or notice.digest
        handling = self._handle_notice(notice, self._notices.get(subject))
        task = self._notices[subject] = self.server.sessions.background.begin(handling, "cometd-notice")
        task.add_done_callback(lambda done: self._forget(subject, done))

    def _forget(self, subject: str, task: asyncio.Task[None]) -> None:
        if self._notices.get(subject) is task:
            del self._notices[subject]

    async def _handle_notice(self, notice: SessionNotice, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await asyncio.wait({before})
        await self.server.handle_notice(notice)


async def publish_services(broker: Broker, server: BayeuxServer) -> None:
    """Notify subscribers of `/notifications/services` of the availability of RabbitMQ, until the task is cancelled.

    Each session is compared with the present state, so sessions that begin during an outage are notified as well.
    """
    while True:
        active = broker.connected()
        server.sessions.dispatcher.publish_services(services_event(available=active), active=active)
        await asyncio.sleep(_WATCH_S)
