"""Publishing the outcome of batches: events to user streams and to the nodes with sessions of these users, replies to
gateways.

User streams are authoritative: a node that misses a message reads the events from there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from calltag.core.broker.ports import NodeId, Partition
from calltag.core.contracts.node_messages import StreamPosition
from calltag.core.contracts.operations import OperationReply
from calltag.core.domain.call import Call
from calltag.core.domain.events import CallChanged, DevicesChanged, Event, OperationRefused
from calltag.core.domain.ids import UserId, call_key
from calltag.core.process.waiting import all_of, together
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.event_log import Added, Addition, Appended, AppendWithCommit, EventLog, fitting
from calltag.core.store.ports import CallIndex, CommitPosition, Epoch
from calltag.core.store.watches import Watchers
from calltag.worker.node_sender import NodeSender, Parcel

Encoded = tuple[Event, bytes]
_LARGE_BYTES: Final = 16_384
"""Size of events from which on one read of the watchers costs less than to send the events twice."""
_LISTS_FRESH_S: Final = 10.0
"""A failover may lose an entry of the index unnoticed: the next change of the call after this time restores it."""


@dataclass(slots=True)
class _StreamAppend:
    """Events being appended to streams: `pairs` are user and index of the event.

    `places` has the results so far; None where the event was deferred, or a later one is in the stream already.
    """

    pairs: Sequence[tuple[UserId, int]]
    to_watchers: bool = False
    places: list[Added | None] = field(default_factory=list)
    deferred: list[bool] = field(default_factory=list)
    nodes: dict[UserId, Sequence[NodeId]] = field(default_factory=dict)
    watchers: dict[UserId, dict[UserId, None]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return len(self.places) == len(self.pairs)

    def left(self) -> Iterator[tuple[UserId, int]]:
        """The pairs that are not appended yet."""
        return islice(self.pairs, len(self.places), None)

    def placed(self) -> Iterator[tuple[UserId, int, Added]]:
        """User, index and position of each appended event."""
        for (user, number), place in zip(self.pairs, self.places, strict=True):
            if place is not None:
                yield user, number, place

    def note(self, count: int, appended: Mapping[UserId, Appended]) -> None:
        """Note the results of the next pairs."""
        places = {user: iter(each.places) for user, each in appended.items()}
        for user, _ in list(islice(self.left(), count)):
            self.places.append(next(places[user], None))
            self.deferred.append(appended[user].deferred)
        self._note_users(appended)

    def defer_all(self, appended: Mapping[UserId, Appended]) -> None:
        """Note that all events are deferred, and the watchers of the users."""
        self.places = [None] * len(self.pairs)
        self.deferred = [True] * len(self.pairs)
        self._note_users(appended)

    def _note_users(self, appended: Mapping[UserId, Appended]) -> None:
        for user, each in appended.items():
            self.nodes[user] = each.nodes
            self.watchers.setdefault(user, {}).update(dict.fromkeys(each.watchers))


@dataclass(slots=True)
class Publication:
    """The output of a batch and the progress of its publication, which a retry continues; `events` have their encoded
    form.
    """

    calls: Sequence[Call]
    events: Sequence[Encoded]
    replies: Sequence[tuple[NodeId, OperationReply]]
    watchers_of_all: Sequence[UserId] | None = None
    to_recipients: _StreamAppend = field(init=False)
    to_watchers: _StreamAppend | None = None
    additions: Sequence[Addition] = field(init=False)
    are_listed: bool = False

    def __post_init__(self) -> None:
        self.to_recipients = _StreamAppend(
            [(user, number) for number, (event, _) in enumerate(self.events) for user in event.recipients]
        )
        self.additions = [_addition(*each) for each in self.events]


class EventPublisher:
    """Publishes events and replies to user streams and nodes."""

    def __init__(
        self,
        nodes: NodeSender,
        index: CallIndex,
        streams: EventLog,
        watchers: Watchers,
        window: ByteWindow | None = None,
    ) -> None:
        self._nodes = nodes
        self._index = index
        self._streams = streams
        self._watchers = watchers
        self._window = ByteWindow() if window is None else window
        self.index_fresh_s = min(index.lifetime_ms / 4_000, _LISTS_FRESH_S)
        """Seconds for which an entry of the call index is fresh."""

    def append_with_commit(
        self, publication: Publication, partition: Partition, epoch: Epoch, position: CommitPosition
    ) -> AppendWithCommit | None:
        """Return an append of all events for the exchange of their commit; None if they are to be appended later."""
        adding = publication.to_recipients
        size_bytes = sum(len(raw) for _, raw in publication.events)
        if not adding.pairs or not self._streams.shares_events or size_bytes > _LARGE_BYTES:
            return None
        additions = _by_user((user, publication.additions[number]) for user, number in adding.pairs)
        return self._streams.append_with_commit(additions, partition, epoch, position)

    def committed(self, publication: Publication, append: AppendWithCommit) -> None:
        """Note the result of an append whose commit took effect; without one, `send` appends the events."""
        if (appended := append.appended()) is not None:
            publication.watchers_of_all, of_users = appended
            publication.to_recipients.note(len(publication.to_recipients.pairs), of_users)

    async def send(self, publication: Publication) -> None:
        """Update the call index, append the events to the streams, and notify the nodes.

        Idempotent: a stream takes each event once. Raises StoreError.
        """
        if publication.are_listed or not publication.calls:
            await self._add(publication)
        else:
            await all_of(self._list(publication), self._add(publication))
        parcels = _parcels(publication)
        await together([self._nodes.send(node, parcel) for node, parcel in parcels.items()])

    async def finish(self) -> None:
        """Wait until every node was notified of missed events."""
        await self._nodes.finish()

    async def _list(self, publication: Publication) -> None:
        await self._index.update(publication.calls)
        publication.are_listed = True

    async def _add(self, publication: Publication) -> None:
        """Append the events to the streams of recipients and watchers.

        A watcher's own events are appended together with the watched ones, which keeps the order per call.
        """
        if not publication.events:
            return
        if publication.watchers_of_all is None or not publication.to_recipients.is_whole:
            is_large = sum(len(raw) for _, raw in publication.events) > _LARGE_BYTES
            adding = self._defer(publication) if is_large else self._append(publication, publication.to_recipients)
            await all_of(self._find_watchers(publication), adding)
        if publication.to_watchers is None:
            publication.to_watchers = _StreamAppend(_watched(publication), to_watchers=True)
        await self._append(publication, publication.to_watchers)

    async def _find_watchers(self, publication: Publication) -> None:
        if publication.watchers_of_all is None:
            publication.watchers_of_all = await self._watchers.of_all()

    async def _defer(self, publication: Publication) -> None:
        """Read the watchers of the recipients, so that large events are sent once, to all together."""
        adding = publication.to_recipients
        if not adding.is_whole:
            recipients = dict.fromkeys(user for user, _ in adding.pairs)
            adding.defer_all(await self._streams.append(dict.fromkeys(recipients, ())))

    async def _append(self, publication: Publication, adding: _StreamAppend) -> None:
        while not adding.is_whole:
            shares_events = self._streams.shares_events
            left = ((user, publication.additions[number]) for user, number in adding.left())
            pairs, size_bytes = fitting(left, self._window.batch_bytes, shares_events=shares_events)
            additions = _by_user(pairs)
            async with self._window.exchange(size_bytes):
                appended = await self._streams.append(additions, to_watchers=adding.to_watchers)
            adding.note(len(pairs), appended)


def _by_user(pairs: Iterable[tuple[UserId, Addition]]) -> dict[UserId, list[Addition]]:
    additions: dict[UserId, list[Addition]] = {}
    for user, addition in pairs:
        additions.setdefault(user, []).append(addition)
    return additions


def _addition(event: Event, body: bytes) -> Addition:
    """Return the event with the subject and version that order it in a stream."""
    match event:
        case CallChanged():
            return Addition(call_key(event.call.id), event.call.version, body)
        case DevicesChanged():
            return Addition("agent", event.version, body)
        case OperationRefused():
            return Addition(f"refused:{event.id}", 1, body)


def _watched(publication: Publication) -> Sequence[tuple[UserId, int]]:
    """Return the pairs for the streams of watchers, including their own deferred events."""
    adding, watchers_of_all = publication.to_recipients, publication.watchers_of_all or ()
    deferred = {pair for pair, is_deferred in zip(adding.pairs, adding.deferred, strict=True) if is_deferred}
    pairs: list[tuple[UserId, int]] = []
    for number, (event, _) in enumerate(publication.events):
        late = dict.fromkeys(user for user in event.recipients if (user, number) in deferred)
        if isinstance(event, CallChanged):
            watching = [
                *watchers_of_all,
                *(each for user in event.recipients for each in adding.watchers.get(user, ())),
            ]
            late |= dict.fromkeys(each for each in watching if each not in event.recipients)
        pairs += ((user, number) for user in late)
    return pairs


def _parcels(publication: Publication) -> dict[NodeId, Parcel]:
    bodies = [body for _, body in publication.events]
    parcels: dict[NodeId, Parcel] = {}

    def of(node: NodeId) -> Parcel:
        return parcels.setdefault(node, Parcel(bodies))

    for adding in filter(None, (publication.to_recipients, publication.to_watchers)):
        for user, number, place in adding.placed():
            for node in adding.nodes[user]:
                of(node).places.setdefault(number, []).append(StreamPosition(user, place.position, place.previous))
    for node, reply in publication.replies:
        of(node).replies.append(reply)
    return parcels
