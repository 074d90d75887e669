"""The recent events of each user, in a bounded stream: what sessions resume from, on whatever node."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from calltag.core.bayeux.position import Position
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.store.batching import ScriptBatcher
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys

PER_MS = 100


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
    put_off: bool = False


class UserStreams(Protocol):
    """Streams by user. Every method may raise StoreUnavailable."""

    async def append(
        self, additions: Mapping[UserId, Sequence[Addition]], *, to_watchers: bool = False
    ) -> Mapping[UserId, Appended]:
        """Add events to streams, those of a user in the order given. To add again is harmless.

        For users who watch calls of others it is put off, unless `to_watchers` says that nothing has to come before.
        """
        ...

    async def read(self, user: UserId, after: Position, most: int) -> Sequence[Entry]:
        """The next events after a position, oldest first."""
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
    ) -> None:
        self._client = client
        self._keys = keys
        self._keys_of_user = (keys.stream_of, keys.nodes_of, keys.watchers_of, keys.watching)
        self._bounds = (retention_ms, most_events, most_bytes, most_events_of_watcher, most_bytes_of_watcher)
        self._append = batcher.script("append")

    async def append(
        self, additions: Mapping[UserId, Sequence[Addition]], *, to_watchers: bool = False
    ) -> Mapping[UserId, Appended]:
        asked = [
            self._append(*self._appending(user, events, to_watchers=to_watchers)) for user, events in additions.items()
        ]
        # The usual event is for one user, and a gathering of one costs more than to wait for it.
        answers = [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked)
        return {user: _appended(cast("list[object]", answer)) for user, answer in zip(additions, answers, strict=True)}

    def _appending(
        self, user: UserId, additions: Sequence[Addition], *, to_watchers: bool
    ) -> tuple[list[str], list[str | bytes | int]]:
        keys = [each(user) for each in self._keys_of_user]
        arguments: list[str | bytes | int] = [*self._bounds, int(to_watchers)]
        for each in additions:
            keys.append(self._keys.added_to(user, each.subject))
            arguments += (each.version, each.event)
        return keys, arguments

    async def read(self, user: UserId, after: Position, most: int) -> Sequence[Entry]:
        async with self._client.exchange() as connection:
            raw = await connection.xrange(self._keys.stream_of(user), min=f"({stream_id(after)}", count=most)
        return [
            Entry(position_of(entry_id), Position(int(fields[b"p"])), fields[b"e"])
            for entry_id, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", raw)
        ]

    async def forget(self, node: NodeId, users: Sequence[UserId]) -> None:
        pipeline = self._client.pipeline()
        for user in users:
            pipeline.srem(self._keys.nodes_of(user), node)
        await self._client.run(pipeline)


def _appended(answer: list[object]) -> Appended:
    added, nodes, watchers, *numbers = answer
    positions = [Position(int(cast("bytes", number))) for number in numbers]
    return Appended(
        sorted(NodeId(node.decode()) for node in cast("list[bytes]", nodes)),
        [Added(here, before) if here else None for here, before in zip(positions[::2], positions[1::2], strict=True)],
        [UserId(user.decode()) for user in cast("list[bytes]", watchers)],
        put_off=not added,
    )


def position_of(entry_id: bytes) -> Position:
    """The position of a stream entry by its id, as in `1700000000000-3`."""
    ms, _, sequence = entry_id.partition(b"-")
    return Position(int(ms) * PER_MS + int(sequence))


def stream_id(position: Position) -> str:
    """The id of the stream entry at a position."""
    return "{}-{}".format(*divmod(position, PER_MS))
