"""Messages from a worker to nodes: events for their sessions, and replies for their waiting requests."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple
from uuid import uuid4

import structlog

from calltag.core.broker.ports import Broker, BrokerRefused, BrokerUnavailable, NodeId
from calltag.core.contracts.node_messages import PackedMessage, StreamPosition, node_messages, stale_messages
from calltag.core.contracts.operations import OperationReply
from calltag.core.domain.ids import UserId
from calltag.core.process.limits import MAX_BATCH_BYTES
from calltag.core.process.waiting import backoff_s
from calltag.core.store.event_log import EventLog
from calltag.core.telemetry.conditions import Condition

log = structlog.get_logger()
_MAX_USERS: Final = 100_000
_NOT_REACHED: Final = Condition("node_not_reached")
MOST_UNCONFIRMED: Final = 2
"""Maximum unconfirmed messages per node. With one, each message would wait for the confirm of the previous one."""


@dataclass(slots=True)
class PendingNotifications:
    """Names the users with missed events to their node, whose sessions then read the users' streams.

    Only names are kept, however many events a user missed.
    """

    broker: Broker
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
                        await self.broker.send(node, message.body, uuid4().hex)
                except (BrokerUnavailable, BrokerRefused):
                    self._users[node] = users | self._users.get(node, {})
                else:
                    log.info("node_notification_retried", node=node, users=len(users))
        finally:
            del self._senders[node]


@dataclass(slots=True)
class Parcel:
    """Events and replies of one batch for one node."""

    bodies: Sequence[bytes]
    """The encoded events of the batch."""
    places: dict[int, list[StreamPosition]] = field(default_factory=dict)
    """Positions of each event, by its number, in streams of users with sessions at the node."""
    replies: list[OperationReply] = field(default_factory=list)

    def events(self) -> Iterator[tuple[bytes, Sequence[StreamPosition]]]:
        """Return each event with its positions, in order."""
        return ((self.bodies[number], self.places[number]) for number in sorted(self.places))


class _Due(NamedTuple):
    parcel: Parcel
    done: asyncio.Future[None]


@dataclass(slots=True)
class _Outbox:
    """The queue of one node."""

    due: list[_Due] = field(default_factory=list)
    senders: set[asyncio.Task[None]] = field(default_factory=set)


class NodeSender:
    """Merges the parcels for a node: while its messages are unconfirmed, parcels queue, and the next message has all of
    them, bounded in bytes. The number of messages thus grows with the number of nodes, not of partitions.
    """

    def __init__(
        self,
        broker: Broker,
        streams: EventLog,
        max_message_bytes: int = MAX_BATCH_BYTES,
        on_sent: Callable[[], object] = lambda: None,
    ) -> None:
        self._broker = broker
        self._streams = streams
        self._max_message_bytes = max_message_bytes
        self._pending = PendingNotifications(broker, max_message_bytes)
        self._outboxes: defaultdict[NodeId, _Outbox] = defaultdict(_Outbox)
        self._on_sent = on_sent

    async def send(self, node: NodeId, parcel: Parcel) -> None:
        """Send a parcel, and return when it was confirmed, or when the node is to be notified later.

        Raises StoreUnavailable. A caller's parcels arrive in order if it awaits each.
        """
        outbox = self._outboxes[node]
        due = _Due(parcel, asyncio.get_running_loop().create_future())
        outbox.due.append(due)
        if len(outbox.senders) < MOST_UNCONFIRMED:
            sender = asyncio.create_task(self._send_due(node, outbox), name=f"node-sender-{node}")
            outbox.senders.add(sender)
        await due.done

    async def finish(self) -> None:
        """Wait until nodes were notified of all messages that were not confirmed."""
        await self._pending.drained()

    async def _send_due(self, node: NodeId, outbox: _Outbox) -> None:
        try:
            while outbox.due:
                together, outbox.due = outbox.due, []
                await self._send_together(node, together)
        finally:
            outbox.senders.discard(asyncio.current_task())
            if not outbox.senders and not outbox.due:
                self._outboxes.pop(node, None)

    async def _send_together(self, node: NodeId, together: Sequence[_Due]) -> None:
        try:
            await self._send_messages(node, [due.parcel for due in together])
        except Exception as error:  # noqa: BLE001 - the callers raise it
            for done in _unsettled(together):
                done.set_exception(error)
        else:
            for done in _unsettled(together):
                done.set_result(None)

    async def _send_messages(self, node: NodeId, parcels: Sequence[Parcel]) -> None:
        events = chain.from_iterable(parcel.events() for parcel in parcels)
        replies = chain.from_iterable(parcel.replies for parcel in parcels)
        messages = list(node_messages(events, replies, self._max_message_bytes))
        for number, message in enumerate(messages):
            try:
                is_taken = await self._broker.send(node, message.body, uuid4().hex)
            except (BrokerUnavailable, BrokerRefused) as error:
                # An unreachable node delays no other: its sessions read missed events from the streams once it is
                # notified, and requests that wait for a reply time out with an unknown outcome.
                _NOT_REACHED.fails(error, node=node)
                self._pending.add(node, _users(messages[number:]))
                return
            if not is_taken:
                # The inbox outlives its node by minutes: if it is missing, the node will not return.
                log.info("inbox_missing", node=node)
                await self._streams.forget(node, _users(messages))
                return
            self._on_sent()


def _users(messages: Sequence[PackedMessage]) -> Sequence[UserId]:
    return list(dict.fromkeys(user for message in messages for user in message.users))


def _unsettled(together: Sequence[_Due]) -> Sequence[asyncio.Future[None]]:
    """Return the futures of callers that were not cancelled."""
    return [due.done for due in together if not due.done.done()]
