"""Publishing the outcome of batches: events to user streams and to the nodes with sessions of these users, replies to
gateways.

User streams are authoritative: a node that misses a message reads the events from there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from calltag.core.bus.ports import NodeId
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, OperationRefused
from calltag.core.domain.ids import UserId
from calltag.core.runtime.waiting import all_of, together
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.ports import CallIndex
from calltag.core.store.user_streams import Added, Addition, Appended, UserStreams, fitting
from calltag.core.store.watches import Watchers
from calltag.core.wire.messages import OperationReply
from calltag.core.wire.node_messages import UserPlace
from calltag.worker.node_sender import NodeSender, Parcel

Encoded = tuple[Event, bytes]
_LARGE_BYTES: Final = 16_384
"""Of events, from where on to ask who watches takes less than to send them twice."""
_LISTS_FRESH_S: Final = 10.0
"""A list may lose a call without a sign (a fail-over between a commit and the list, or of the server that has the list
alone): the next change of the call that comes later than this puts it back."""


@dataclass(slots=True)
class _Adding:
    """Events on their way into streams: `pairs` are user and number of the event.

    `places` has what came of the first of them; None where the event was put off, or a later one has overtaken it.
    """

    pairs: Sequence[tuple[UserId, int]]
    to_watchers: bool = False
    places: list[Added | None] = field(default_factory=list)
    put_off: list[bool] = field(default_factory=list)
    nodes: dict[UserId, Sequence[NodeId]] = field(default_factory=dict)
    watchers: dict[UserId, dict[UserId, None]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return len(self.places) == len(self.pairs)

    def left(self) -> Iterator[tuple[UserId, int]]:
        """The pairs that are still to be added."""
        return islice(self.pairs, len(self.places), None)

    def placed(self) -> Iterator[tuple[UserId, int, Added]]:
        """User, number and place of each event that has one."""
        for (user, number), place in zip(self.pairs, self.places, strict=True):
            if place is not None:
                yield user, number, place

    def note(self, count: int, appended: Mapping[UserId, Appended]) -> None:
        """The next additions were made."""
        places = {user: iter(each.places) for user, each in appended.items()}
        for user, _ in list(islice(self.left(), count)):
            self.places.append(next(places[user], None))
            self.put_off.append(appended[user].put_off)
        self._note_users(appended)

    def put_all_off(self, appended: Mapping[UserId, Appended]) -> None:
        """Nothing is added: it was asked who watches the users."""
        self.places = [None] * len(self.pairs)
        self.put_off = [True] * len(self.pairs)
        self._note_users(appended)

    def _note_users(self, appended: Mapping[UserId, Appended]) -> None:
        for user, each in appended.items():
            self.nodes[user] = each.nodes
            self.watchers.setdefault(user, {}).update(dict.fromkeys(each.watchers))


@dataclass(slots=True)
class Sending:
    """What one batch has to say, and how far it has come: one that was interrupted goes on there.

    `events` come with their encoded form.
    """

    calls: Sequence[Call]
    events: Sequence[Encoded]
    replies: Sequence[tuple[NodeId, OperationReply]]
    of_all: Sequence[UserId] | None = None
    to_recipients: _Adding = field(init=False)
    to_watchers: _Adding | None = None
    additions: Sequence[Addition] = field(init=False)
    are_listed: bool = False

    def __post_init__(self) -> None:
        self.to_recipients = _Adding(
            [(user, number) for number, (event, _) in enumerate(self.events) for user in event.recipients]
        )
        self.additions = [_addition(*each) for each in self.events]


class Outgoing:
    """Hands events and replies over to streams and nodes."""

    def __init__(
        self,
        nodes: NodeSender,
        index: CallIndex,
        streams: UserStreams,
        watchers: Watchers,
        window: ByteWindow | None = None,
    ) -> None:
        self._nodes = nodes
        self._index = index
        self._streams = streams
        self._watchers = watchers
        self._window = ByteWindow() if window is None else window
        self.lists_fresh_s = min(index.lifetime_ms / 4_000, _LISTS_FRESH_S)
        """For how many seconds lists of calls need not be written again."""

    async def send(self, sending: Sending) -> None:
        """Bring the lists of calls up to date, add the events to the streams, and tell the nodes.

        To send again is harmless: an event is added to a stream once. Raises StoreError.
        """
        if sending.are_listed or not sending.calls:
            await self._add(sending)
        else:
            await all_of(self._list(sending), self._add(sending))
        parcels = _parcels(sending)
        await together([self._nodes.send(node, parcel) for node, parcel in parcels.items()])

    async def finish(self) -> None:
        """Wait until every node knows of what did not come to it."""
        await self._nodes.finish()

    async def _list(self, sending: Sending) -> None:
        await self._index.settle(sending.calls)
        sending.are_listed = True

    async def _add(self, sending: Sending) -> None:
        """Add the events to the streams of their recipients, and of those who watch these.

        A watcher's own events come with what is watched, so that those of one call stay in order.
        """
        if not sending.events:
            return
        is_large = sum(len(raw) for _, raw in sending.events) > _LARGE_BYTES
        adding = self._put_off(sending) if is_large else self._append(sending, sending.to_recipients)
        await all_of(self._find_watchers(sending), adding)
        if sending.to_watchers is None:
            sending.to_watchers = _Adding(_watched(sending), to_watchers=True)
        await self._append(sending, sending.to_watchers)

    async def _find_watchers(self, sending: Sending) -> None:
        if sending.of_all is None:
            sending.of_all = await self._watchers.of_all()

    async def _put_off(self, sending: Sending) -> None:
        """Ask who watches the recipients, so that large events are sent once, to recipients and watchers together."""
        adding = sending.to_recipients
        if not adding.is_whole:
            recipients = dict.fromkeys(user for user, _ in adding.pairs)
            adding.put_all_off(await self._streams.append(dict.fromkeys(recipients, ())))

    async def _append(self, sending: Sending, adding: _Adding) -> None:
        while not adding.is_whole:
            shares_events = self._streams.shares_events
            left = ((user, sending.additions[number]) for user, number in adding.left())
            pairs, size_bytes = fitting(left, self._window.batch_bytes, shares_events=shares_events)
            additions: dict[UserId, list[Addition]] = {}
            for user, addition in pairs:
                additions.setdefault(user, []).append(addition)
            async with self._window.exchange(size_bytes):
                appended = await self._streams.append(additions, to_watchers=adding.to_watchers)
            adding.note(len(pairs), appended)


def _addition(event: Event, body: bytes) -> Addition:
    """What orders the events of one call, or of one agent; a refusal stands for itself."""
    match event:
        case CallChanged():
            return Addition(f"call:{event.call.id}", event.call.version, body)
        case DevicesChanged():
            return Addition("agent", event.version, body)
        case OperationRefused():
            return Addition(f"refused:{event.id}", 1, body)


def _watched(sending: Sending) -> Sequence[tuple[UserId, int]]:
    """What is still to be added: to streams of watchers, their own events among them if put off."""
    adding, of_all = sending.to_recipients, sending.of_all or ()
    put_off = {pair for pair, is_put_off in zip(adding.pairs, adding.put_off, strict=True) if is_put_off}
    pairs: list[tuple[UserId, int]] = []
    for number, (event, _) in enumerate(sending.events):
        late = dict.fromkeys(user for user in event.recipients if (user, number) in put_off)
        if isinstance(event, CallChanged):
            watching = [*of_all, *(each for user in event.recipients for each in adding.watchers.get(user, ()))]
            late |= dict.fromkeys(each for each in watching if each not in event.recipients)
        pairs += ((user, number) for user in late)
    return pairs


def _parcels(sending: Sending) -> dict[NodeId, Parcel]:
    bodies = [body for _, body in sending.events]
    parcels: dict[NodeId, Parcel] = {}

    def of(node: NodeId) -> Parcel:
        return parcels.setdefault(node, Parcel(bodies))

    for adding in filter(None, (sending.to_recipients, sending.to_watchers)):
        for user, number, place in adding.placed():
            for node in adding.nodes[user]:
                of(node).places.setdefault(number, []).append(UserPlace(user, place.position, place.previous))
    for node, reply in sending.replies:
        of(node).replies.append(reply)
    return parcels
