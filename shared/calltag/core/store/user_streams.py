"""The recent events of each user, in a bounded stream: what sessions resume from, on whatever node."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from calltag.core.bayeux.position import Position
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.runtime.byte_limits import MAX_BATCH_BYTES
from calltag.core.store.batching import ScriptBatcher
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys

PER_MS = 100
_MAX_WRITTEN_BYTES: Final = 8_388_608
"""Of events, by one script, unless a single one is larger: some milliseconds of the store's time."""


@dataclass(frozen=True, slots=True)
class Addition:
    """An event for a user's stream. Of one subject (a call, say) only rising versions are added, each once."""

    subject: str
    version: int
    event: bytes


@dataclass(frozen=True, slots=True)
class Added:
    """Where an event is: after the one at `previous`, with nothing between."""

    position: Position
    previous: Position


@dataclass(frozen=True, slots=True)
class Entry:
    """An event out of a stream."""

    position: Position
    previous: Position
    event: bytes


@dataclass(frozen=True, slots=True)
class Appended:
    """What came of adding: the nodes that hold sessions of the user, the place of each event, who watches the user.

    There is no place (None) for an event that a later one of the same subject has overtaken: whoever added that one has
    told the nodes, or they find the gap before it. `put_off` says that nothing was added yet, as the user watches
    others: what concerns these may have to come before.
    """

    nodes: Sequence[NodeId]
    places: Sequence[Added | None]
    watchers: Sequence[UserId] = ()
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Events out of a stream, oldest first, and whether there are more behind them."""

    entries: Sequence[Entry]
    has_more: bool = False


class UserStreams(Protocol):
    """Streams by user. Every method may raise StoreUnavailable."""

    shares_events: bool
    """Whether an event that goes to several users is sent to the store once."""

    async def append(
        self, additions: Mapping[UserId, Sequence[Addition]], *, to_watchers: bool = False
    ) -> Mapping[UserId, Appended]:
        """Add events to streams, those of a user in the order given. To add again is harmless.

        All that is given goes in one exchange: `fitting` tells how much that may be.

        For users who watch calls of others it is put off, unless `to_watchers` says that nothing has to come before.
        """
        ...

    async def read(self, user: UserId, after: Position, most: int) -> Page:
        """The next events after a position: at most so many, and no more bytes than one batch may have."""
        ...

    async def forget(self, node: NodeId, users: Sequence[UserId]) -> None:
        """The node is gone: events of these users need not go there."""
        ...


class RedisUserStreams:
    """Streams in Redis, each with about `most_events` and `most_bytes`, gone `retention_ms` after its last event."""

    def __init__(
        self,
        client: RedisClient,
        batcher: ScriptBatcher,
        keys: Keys,
        *,
        retention_ms: int = 3_600_000,
        most_events: int = 1_000,
        most_bytes: int = 4_194_304,
        most_events_of_watcher: int = 10_000,
        most_bytes_of_watcher: int = 41_943_040,
        max_batch_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        self._client = client
        self._keys = keys
        self._keys_of_user = (keys.stream_of, keys.nodes_of, keys.watchers_of, keys.watching)
        self._bounds = (retention_ms, most_events, most_bytes, most_events_of_watcher, most_bytes_of_watcher)
        self._append = batcher.script("append")
        self._read = client.script("read_stream")
        self._max_batch_bytes = max_batch_bytes
        self.shares_events = not client.has_slots

    async def append(
        self, additions: Mapping[UserId, Sequence[Addition]], *, to_watchers: bool = False
    ) -> Mapping[UserId, Appended]:
        users = list(additions)
        # Of a cluster each user's keys are in a slot of their own, which no script may leave.
        groups = [users] if self.shares_events else [[user] for user in users]
        asked = [
            self._append(*self._appending({user: additions[user] for user in group}, to_watchers)) for group in groups
        ]
        # The usual event is for few users, and a gathering of one costs more than to wait for it.
        answers = [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked)
        of_users = (each for answer in answers for each in cast("list[list[object]]", answer))
        return {user: _appended(answer) for user, answer in zip(users, of_users, strict=True)}

    def _appending(
        self, additions: Mapping[UserId, Sequence[Addition]], to_watchers: bool
    ) -> tuple[list[str], list[str | bytes | int]]:
        keys: list[str] = []
        events: list[str | bytes | int] = []
        of_users: list[str | bytes | int] = []
        numbers: dict[int, int] = {}
        for user, of_user in additions.items():
            keys += [each(user) for each in self._keys_of_user]
            of_users.append(len(of_user))
            for each in of_user:
                # The same object is the same event.
                number = numbers.setdefault(id(each), len(numbers) + 1)
                if number > len(events) // 2:
                    events += (each.version, each.event)
                keys.append(self._keys.added_to(user, each.subject))
                of_users.append(number)
        return keys, [*self._bounds, int(to_watchers), len(numbers), *events, *of_users]

    async def read(self, user: UserId, after: Position, most: int) -> Page:
        key = self._keys.stream_of(user)
        raw, has_more = cast(
            "tuple[list[tuple[bytes, list[bytes]]], int]",
            await self._read([key], [f"({stream_id(after)}", most, self._max_batch_bytes]),
        )
        return Page([_entry(entry_id, fields) for entry_id, fields in raw], bool(has_more))

    async def forget(self, node: NodeId, users: Sequence[UserId]) -> None:
        pipeline = self._client.pipeline()
        for user in users:
            pipeline.srem(self._keys.nodes_of(user), node)
        await self._client.run(pipeline)


def fitting(
    additions: Iterable[tuple[UserId, Addition]], max_bytes: int, *, shares_events: bool
) -> tuple[Sequence[tuple[UserId, Addition]], int]:
    """As many of the first additions as one exchange may carry, and how many bytes of events it then sends.

    An event that is shared is sent once, so all additions of one event go together where they fit. What is written is
    bounded as well: the store serves nobody else meanwhile. One addition is always possible.
    """
    fit: list[tuple[UserId, Addition]] = []
    sent, written, whole = 0, 0, (0, 0)
    for user, addition in additions:
        size = len(addition.event)
        is_next = not fit or fit[-1][1] is not addition
        if is_next:
            whole = len(fit), sent
        new = size if is_next or not shares_events else 0
        if fit and (sent + new > max_bytes or written + size > _MAX_WRITTEN_BYTES):
            return (fit[: whole[0]], whole[1]) if whole[0] else (fit, sent)
        fit.append((user, addition))
        sent, written = sent + new, written + size
    return fit, sent


def _entry(entry_id: bytes, fields: Sequence[bytes]) -> Entry:
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    return Entry(position_of(entry_id), Position(int(named[b"p"])), named[b"e"])


def _appended(answer: list[object]) -> Appended:
    added, nodes, watchers, *numbers = answer
    positions = [Position(int(cast("bytes", number))) for number in numbers]
    return Appended(
        sorted(NodeId(node.decode()) for node in cast("list[bytes]", nodes)),
        [Added(here, before) if here else None for here, before in zip(positions[::2], positions[1::2], strict=True)],
        [UserId(user.decode()) for user in cast("list[bytes]", watchers)],
        deferred=not added,
    )


def position_of(entry_id: bytes) -> Position:
    """The position of a stream entry by its id, as in `1700000000000-3`."""
    ms, _, sequence = entry_id.partition(b"-")
    return Position(int(ms) * PER_MS + int(sequence))


def stream_id(position: Position) -> str:
    """The id of the stream entry at a position."""
    return "{}-{}".format(*divmod(position, PER_MS))
