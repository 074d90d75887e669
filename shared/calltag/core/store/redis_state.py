"""State in Redis: what the worker loads and commits, and what the gateway reads."""

from collections.abc import Mapping, Sequence
from typing import cast

from calltag.core.bus.partitioning import partition_of
from calltag.core.bus.ports import Partition
from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call
from calltag.core.domain.ids import CallId, OperationId, UserId
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys, StateKeys
from calltag.core.store.ports import Change, CommitConflict, Epoch, Fenced, Loaded, State, TakeOver
from calltag.core.store.records import STATE_FIELDS, Lifetimes, commit_arguments, decode_dones, decode_state


class RedisStateStore:
    """The worker's StateStore."""

    def __init__(
        self,
        client: RedisClient,
        keys: Keys,
        *,
        lifetimes: Lifetimes | None = None,
        remembered_operations: int = 10_000,
    ) -> None:
        self._client = client
        self._keys = keys
        self._lifetimes = lifetimes or Lifetimes()
        self._remembered_operations = remembered_operations
        self._commit = client.script("commit")
        self._take_over = client.script("take_over")
        self._sent = client.script("sent")

    async def take_over(self, partition: Partition) -> TakeOver:
        answer = await self._take_over([self._keys.epoch(partition), self._keys.outbox(partition)], [])
        epoch, *outbox = cast(list[bytes], answer)
        return TakeOver(Epoch(int(epoch)), outbox)

    async def load(self, partition: Partition, wanted: Mapping[str, Sequence[OperationId]]) -> Mapping[str, Loaded]:
        pipeline = self._client.pipeline()
        for key, operations in wanted.items():
            names = self._keys.state(partition, key)
            pipeline.hmget(names.state, STATE_FIELDS)
            pipeline.hgetall(names.data)
            pipeline.hmget(names.done, operations)
        raw = iter(await self._client.run(pipeline))
        return {
            key: Loaded(
                decode_state(key, cast(list[bytes | None], next(raw)), cast(dict[bytes, bytes], next(raw))),
                decode_dones(operations, cast(list[bytes | None], next(raw))),
            )
            for key, operations in wanted.items()
        }

    async def commit(
        self, partition: Partition, epoch: Epoch, changes: Sequence[Change], events: Sequence[bytes]
    ) -> None:
        keys = [self._keys.epoch(partition), self._keys.outbox(partition)]
        arguments: list[str | bytes | int] = [epoch, self._remembered_operations, len(events), *events]
        for change in changes:
            keys.extend(self._keys.state(partition, change.key).all())
            arguments.extend(commit_arguments(change, self._lifetimes))
        _check(partition, epoch, await self._commit(keys, arguments))

    async def sent(self, partition: Partition, epoch: Epoch, count: int) -> None:
        keys = [self._keys.epoch(partition), self._keys.outbox(partition)]
        _check(partition, epoch, await self._sent(keys, [epoch, count]))


def _check(partition: Partition, epoch: Epoch, answer: object) -> None:
    verdict, *detail = (part.decode() for part in cast(list[bytes], answer))
    if verdict == "fenced":
        raise Fenced(f"partition {partition} is in epoch {detail[0]}; this worker took it over in {epoch}")
    if verdict == "conflict":
        raise CommitConflict(f"partition {partition}: {detail[0]} is not as it was when it was loaded")


class RedisCallReader:
    """The gateway's CallReader."""

    def __init__(self, client: RedisClient, keys: Keys, partitions: int) -> None:
        self._client = client
        self._keys = keys
        self._partitions = partitions

    async def call(self, call_id: CallId, *, with_user_data: bool = True) -> Call | None:
        key = f"call:{call_id}"
        state = await self._state(key) if with_user_data else await self._without_user_data(key)
        return state if isinstance(state, Call) else None

    async def calls_of(self, user: UserId) -> Sequence[Call]:
        async with self._client.exchange() as connection:
            ids = cast(set[bytes], await connection.smembers(self._keys.calls_of(user)))
        found = await self._states([f"call:{raw.decode()}" for raw in ids])
        calls = [state for state in found if isinstance(state, Call) and not state.released and state.leg_of(user)]
        return sorted(calls, key=lambda call: (call.began_at_ms, call.id))

    async def agent(self, user: UserId) -> Agent | None:
        state = await self._state(f"agent:{user}")
        return state if isinstance(state, Agent) else None

    async def _state(self, key: str) -> State | None:
        return (await self._states([key]))[0]

    async def _without_user_data(self, key: str) -> State | None:
        async with self._client.exchange() as connection:
            version, doc = await connection.hmget(self._names(key).state, ["version", "doc"])
        return decode_state(key, cast("list[bytes | None]", (version, doc, None)), {})

    def _names(self, key: str) -> StateKeys:
        return self._keys.state(partition_of(key.partition(":")[2], self._partitions), key)

    async def _states(self, keys: Sequence[str]) -> list[State | None]:
        """The states under the keys, each read at one moment."""
        if not keys:
            return []
        pipeline = self._client.pipeline(atomic=True)
        for key in keys:
            names = self._names(key)
            pipeline.hmget(names.state, STATE_FIELDS)
            pipeline.hgetall(names.data)
        raw = await self._client.run(pipeline)
        return [
            decode_state(key, cast(list[bytes | None], fields), cast(dict[bytes, bytes], data))
            for key, fields, data in zip(keys, raw[::2], raw[1::2], strict=True)
        ]
