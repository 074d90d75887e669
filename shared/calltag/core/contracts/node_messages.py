"""Packing of events and replies for a node into messages of bounded size; events are encoded once for all nodes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from calltag.core.contracts.operations import REPLY, OperationReply
from calltag.core.domain.ids import UserId

_FRAME: Final = (b'{"v":1,"events":[', b'],"places":[', b'],"replies":[', b'],"stale_users":[', b"]}")
_FRAME_BYTES: Final = sum(map(len, _FRAME))


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """Position of an event in a user's stream; `previous` is that of the event before."""

    user: UserId
    position: int
    previous: int


@dataclass(frozen=True, slots=True)
class PackedMessage:
    """An encoded NodeMessage, and the users whose streams it names."""

    body: bytes
    users: Sequence[UserId]


@dataclass(slots=True)
class _Packing:
    max_bytes: int
    _events: list[bytes] = field(default_factory=list)
    _places: list[bytes] = field(default_factory=list)
    _replies: list[bytes] = field(default_factory=list)
    _stale_users: list[bytes] = field(default_factory=list)
    _users: dict[UserId, None] = field(default_factory=dict)
    _size_bytes: int = _FRAME_BYTES

    def take_place(self, event: bytes, place: StreamPosition) -> bool:
        """Add a place of an event, and the event unless it was the last one added; return False if there is no room."""
        is_new = not self._events or self._events[-1] is not event
        number = len(self._events) if is_new else len(self._events) - 1
        items = [(self._places, _encoded(place, number))]
        if not self._take([(self._events, event), *items] if is_new else items):
            return False
        self._users[place.user] = None
        return True

    def take_stale_user(self, user: UserId) -> bool:
        """Add a user whose stream the node has to read; return False if there is no room."""
        # Older notifiers ignore `stale_users`, and read the stream for each place without an event. In a message with
        # events such a place would point to one of them.
        place = _encoded(StreamPosition(user, 1, 0), 0)
        if not self._take([(self._stale_users, orjson.dumps(user)), (self._places, place)]):
            return False
        self._users[user] = None
        return True

    def take_reply(self, reply: bytes) -> bool:
        """Add a reply; return False if there is no room."""
        return self._take([(self._replies, reply)])

    def _take(self, items: Sequence[tuple[list[bytes], bytes]]) -> bool:
        grown = self._size_bytes + sum(len(item) + bool(kind) for kind, item in items)
        if grown > self.max_bytes and self._size_bytes > _FRAME_BYTES:
            return False
        self._size_bytes = grown
        for kind, item in items:
            kind.append(item)
        return True

    def messages(self) -> Iterator[PackedMessage]:
        """Yield the message unless it is empty."""
        if self._size_bytes > _FRAME_BYTES:
            kinds = (self._events, self._places, self._replies, self._stale_users)
            pieces = [part for begin, kind in zip(_FRAME, kinds, strict=False) for part in (begin, b",".join(kind))]
            yield PackedMessage(b"".join((*pieces, _FRAME[-1])), list(self._users))


def node_messages(
    events: Iterable[tuple[bytes, Sequence[StreamPosition]]], replies: Iterable[OperationReply], max_bytes: int
) -> Iterator[PackedMessage]:
    """Yield the messages with the events and their places, then the replies, in order.

    None is longer than `max_bytes`, unless it carries a single item that is. If the places of an event do not fit in
    one message, the next one repeats the event.
    """
    packing = _Packing(max_bytes)
    for event, places in events:
        for place in places:
            if not packing.take_place(event, place):
                yield from packing.messages()
                packing = _Packing(max_bytes)
                packing.take_place(event, place)
    for encoded in map(REPLY.encode, replies):
        if not packing.take_reply(encoded):
            yield from packing.messages()
            packing = _Packing(max_bytes)
            packing.take_reply(encoded)
    yield from packing.messages()


def stale_messages(users: Iterable[UserId], max_bytes: int) -> Iterator[PackedMessage]:
    """Yield the messages, without events, that name users whose streams the node has to read."""
    packing = _Packing(max_bytes)
    for user in users:
        if not packing.take_stale_user(user):
            yield from packing.messages()
            packing = _Packing(max_bytes)
            packing.take_stale_user(user)
    yield from packing.messages()


def _encoded(place: StreamPosition, event: int) -> bytes:
    return orjson.dumps({"user": place.user, "event": event, "position": place.position, "previous": place.previous})
