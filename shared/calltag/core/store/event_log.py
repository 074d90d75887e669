"""Bounded stream of each user's recent events, from which sessions resume on any node."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from calltag.core.bayeux.events import Position
from calltag.core.broker.ports import NodeId, Partition
from calltag.core.domain.ids import UserId
from calltag.core.process.limits import MAX_BATCH_BYTES
from calltag.core.store.client import RedisClient
from calltag.core.store.connection import Request
from calltag.core.store.keys import Keys
from calltag.core.store.lua_script import lua_script
from calltag.core.store.ports import CommitPosition, Epoch
from calltag.core.store.scripts import ScriptBatcher

PER_MS = 100
_MAX_WRITTEN_BYTES: Final = 8_388_608
"""Event bytes written by one script, unless a single event is larger: takes some milliseconds in Redis."""


@dataclass(frozen=True, slots=True)
class Addition:
    """An event for a user's stream. For one subject (such as a call) only rising versions are appended, each once."""

    subject: str
    version: int
    event: bytes


@dataclass(frozen=True, slots=True)
class Added:
    """Position of an event; it directly follows the one at `previous`."""

    position: Position
    previous: Position


@dataclass(frozen=True, slots=True)
class Entry:
    """An event read from a stream."""

    position: Position
    previous: Position
    event: bytes


@dataclass(frozen=True, slots=True)
class Appended:
    """Result of an append: the nodes with sessions of the user, the place of each event, and the user's watchers.

    The place is None for an event superseded by a later one of the same subject: the writer of that one has notified
    the nodes, or they detect the gap before it. `deferred`: not appended; a watcher's own events are appended together
    with the watched ones to keep per-call order.
    """

    nodes: Sequence[NodeId]
    places: Sequence[Added | None]
    watchers: Sequence[UserId] = ()
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Events read from a stream, oldest first; `has_more` if further ones follow."""

    entries: Sequence[Entry]
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class AppendWithCommit:
    """An append in the exchange of a commit; it takes effect right after the commit, if that does."""

    request: Request
    users: Sequence[UserId]

    def appended(self) -> tuple[Sequence[UserId], Mapping[UserId, Appended]] | None:
        """Return the watchers of all calls, and the result by user; None if the append did not take effect."""
        answer = self.request.replies[0] if self.request.replies else ()
        if isinstance(answer, Exception) or not answer:
            return None
        watchers_of_all, *of_users = cast("list[list[object]]", answer)
        watchers = [UserId(user.decode()) for user in cast("list[bytes]", watchers_of_all)]
        return watchers, {user: _appended(each) for user, each in zip(self.users, of_users, strict=True)}


class EventLog(Protocol):
    """Streams by user. Every method may raise StoreUnavailable."""

    shares_events: bool
    """True if an event for several users is sent to Redis only once."""

    async def append(
        self, additions: Mapping[UserId, Sequence[Addition]], *, to_watchers: bool = False
    ) -> Mapping[UserId, Appended]:
        """Append events to streams, per user in the given order. Idempotent.

        All additions go in one exchange; `fitting` bounds them.

        For users who watch calls of others the append is deferred unless `to_watchers`, which states that no watched
        event has to come before.
        """
        ...

    def append_with_commit(
        self,
        additions: Mapping[UserId, Sequence[Addition]],
        partition: Partition,
        epoch: Epoch,
        position: CommitPosition,
    ) -> AppendWithCommit:
        """Return an append for the exchange of the commit that raises the partition to `position`.

        Only if `shares_events`: in a cluster, streams and partition are on different servers.
        """
        ...

    async def read(self, user: UserId, after: Position, most: int) -> Page:
        """Return the next events after a position: at most `most`, within the size of one batch."""
        ...

    async def forget(self, node: NodeId, users: Sequence[UserId]) -> None:
        """Stop routing the events of these users to a node that is unavailable."""
        ...


class RedisEventLog:
    """Streams in Redis, trimmed to about `most_events` and `most_bytes`; TTL `retention_ms` after the last event."""

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
        self._append_script = lua_script("append")
        self._append = batcher.calls(self._append_script)
        self._read = client.script("read_stream")
        self._max_batch_bytes = max_batch_bytes
        self.shares_events = not client.has_slots

    async def append(
        self, additions: Mapping[UserId, Sequence[Addition]], *, to_watchers: bool = False
    ) -> Mapping[UserId, Appended]:
        users = list(additions)
        # In a cluster the keys of each user have their own slot, and a script may access one slot only.
        groups = [users] if self.shares_events else [[user] for user in users]
        asked = [
            self._append(*self._appending({user: additions[user] for user in group}, to_watchers=to_watchers))
            for group in groups
        ]
        # Most appends are one script, and `gather` of one costs more than an await.
        answers = [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked)
        of_users = (each for answer in answers for each in cast("list[list[object]]", answer))
        return {user: _appended(answer) for user, answer in zip(users, of_users, strict=True)}

    def append_with_commit(
        self,
        additions: Mapping[UserId, Sequence[Addition]],
        partition: Partition,
        epoch: Epoch,
        position: CommitPosition,
    ) -> AppendWithCommit:
        keys, arguments = self._appending(additions, after=(epoch, position))
        names = self._keys.epoch(partition), self._keys.position(partition), self._keys.watchers_of_all()
        return AppendWithCommit(self._append_script.request([*names, *keys], arguments), list(additions))

    def _appending(
        self,
        additions: Mapping[UserId, Sequence[Addition]],
        *,
        to_watchers: bool = False,
        after: tuple[Epoch | str, CommitPosition | str] = ("", ""),
    ) -> tuple[list[str], list[str | bytes | int]]:
        keys: list[str] = []
        events: list[str | bytes | int] = []
        of_users: list[str | bytes | int] = []
        numbers: dict[int, int] = {}
        for user, of_user in additions.items():
            keys += [each(user) for each in self._keys_of_user]
            of_users.append(len(of_user))
            for each in of_user:
                # An event for several users is the same object, and is sent once.
                number = numbers.setdefault(id(each), len(numbers) + 1)
                if number > len(events) // 2:
                    events += (each.version, each.event)
                keys.append(self._keys.added_to(user, each.subject))
                of_users.append(number)
        return keys, [*self._bounds, int(to_watchers), *after, len(numbers), *events, *of_users]

    async def read(self, user: UserId, after: Position, most: int) -> Page:
        key = self._keys.stream_of(user)
        raw, has_more = cast(
            "tuple[list[tuple[bytes, list[bytes]]], int]",
            await self._read([key], [f"({stream_id(after)}", most, self._max_batch_bytes]),
        )
        return Page([_entry(entry_id, fields) for entry_id, fields in raw], bool(has_more))

    async def forget(self, node: NodeId, users: Sequence[UserId]) -> None:
        await self._client.execute_all(("SREM", self._keys.nodes_of(user), node) for user in users)


def fitting(
    additions: Iterable[tuple[UserId, Addition]], max_bytes: int, *, shares_events: bool
) -> tuple[Sequence[tuple[UserId, Addition]], int]:
    """Return the first additions that fit in one exchange, and the number of event bytes that it sends.

    A shared event is sent once, so all additions of one event go together where they fit. The bytes written are
    bounded as well, as a script blocks Redis while it runs. At least one addition is returned.
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
    """Return the position of a stream entry from its id, as in `1700000000000-3`."""
    ms, _, sequence = entry_id.partition(b"-")
    return Position(int(ms) * PER_MS + int(sequence))


def stream_id(position: Position) -> str:
    """Return the id of the stream entry at a position."""
    return "{}-{}".format(*divmod(position, PER_MS))
