"""State of calls and agents in Redis: loads and commits for the worker, reads for the gateway."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import structlog

from calltag.core.broker.ports import Partition, partition_of
from calltag.core.contracts.stored_call import (
    STATE_FIELDS,
    Lifetimes,
    block_arguments,
    commit_arguments,
    decode_block,
    decode_dones,
    decode_state,
)
from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call
from calltag.core.domain.ids import (
    CallId,
    OperationId,
    UserId,
    agent_key,
    call_key,
    order_key,
    partition_key,
    root_of,
    subject_id,
)
from calltag.core.process.limits import MAX_BATCH_BYTES
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.connection import Request, is_refusal
from calltag.core.store.keys import Keys, StateKeys
from calltag.core.store.lua_script import lua_script
from calltag.core.store.ports import (
    NEVER,
    NO_BLOCKS,
    NOTHING,
    CallBlock,
    CallBlocks,
    Change,
    CommitConflict,
    CommitPosition,
    Committal,
    Done,
    Epoch,
    Fenced,
    Loaded,
    PendingCall,
    Published,
    State,
    StateUnreadable,
    StoreUnavailable,
    TakeOver,
    TooMuch,
    WriteRefused,
    WritesLost,
)
from calltag.core.store.replica_wait import Durability, ReplicaWait
from calltag.core.store.scripts import ScriptBatcher

log = structlog.get_logger()
# Lua numbers are exact up to 2^53: enough for millions of take-overs.
_LARGEST_STEP: Final = 2**30
_PAGE: Final = 16
"""Calls of a user that are read at once: with the default user-data limit they fit in one batch."""
_WITHOUT_USER_DATA: Final = STATE_FIELDS[:2]
_ATTEMPTS_KEPT_MS: Final = 24 * 3600 * 1000


class RedisCallBlocks:
    """All blocks of an installation. Every method may raise StoreUnavailable."""

    def __init__(self, client: RedisClient, keys: Keys, partitions: int) -> None:
        self._client = client
        self._keys = keys
        self._partitions = partitions
        self._unblock = client.script("unblock")

    async def all(self) -> Mapping[str, CallBlock]:
        """Return the blocks by key (`call:<id>`, `agent:<user>`)."""
        names = [self._keys.blocks(Partition(number)) for number in range(self._partitions)]
        found = map(fields_of, await self._client.execute_all(("HGETALL", name) for name in names))
        return {key.decode(): decode_block(raw) for blocks in found for key, raw in blocks.items()}

    async def counts(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Return the number of blocks of each partition."""
        counts = await self._client.execute_all(("HLEN", self._keys.blocks(partition)) for partition in partitions)
        return dict(zip(partitions, cast("list[int]", counts), strict=True))

    async def clear(self, key: str, operation_id: OperationId) -> bool:
        """Delete a block if it is for this operation; return whether it was."""
        partition = partition_of(partition_key(key), self._partitions)
        return await self._unblock([self._keys.blocks(partition)], [key, operation_id]) == 1

    async def forget(self) -> int:
        """Delete all blocks, after the parked operations are lost; return the number deleted."""
        blocks = await self.all()
        return sum([await self.clear(key, block.operation_id) for key, block in blocks.items()])


class RedisCallStore:
    """Implements the worker's CallStore in Redis."""

    def __init__(
        self,
        client: RedisClient,
        keys: Keys,
        *,
        lifetimes: Lifetimes | None = None,
        remembered_operations: int = 10_000,
        durability: Durability | None = None,
        max_batch_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        self._client = client
        self._keys = keys
        self._lifetimes = lifetimes or Lifetimes()
        self._remembered_operations = remembered_operations
        self._max_batch_bytes = max_batch_bytes
        self._load = client.script("load")
        self._kept = client.script("kept")
        self._commit = lua_script("commit")
        self._commit_of_events = replace(self._commit, idempotent=False)
        self._take_over = client.script("take_over")
        self._sent = client.script("sent")
        self._silent = client.script("silent")
        self._durability = durability or Durability()
        self.waits_for_replicas = self._durability.replicas > 0
        self._replica_wait = ReplicaWait(client, keys, self._durability)
        self._attempt = client.script("attempt")
        self._withdraw = client.script("attempt_withdraw")

    async def take_over(
        self, partition: Partition, after: Epoch = NEVER, published: Published | None = None
    ) -> TakeOver:
        step = 1 + secrets.randbelow(_LARGEST_STEP)
        answer = await self._take_over(self._partition_keys(partition), [after, step, *(published or ("", ""))])
        epoch, former, position, kept = map(int, cast(list[bytes], answer))
        return TakeOver(Epoch(epoch), kept, Epoch(former), CommitPosition(position))

    async def kept(
        self, partition: Partition, epoch: Epoch, skip: int = 0, max_bytes: int | None = None
    ) -> Sequence[bytes]:
        keys = [self._keys.epoch(partition), self._keys.outbox(partition)]
        answer = await self._kept(keys, [epoch, skip, max_bytes or self._max_batch_bytes])
        verdict, detail = cast("tuple[bytes, bytes | list[bytes]]", answer)
        if isinstance(detail, bytes):
            _check(partition, epoch, [verdict, detail])
            return ()
        return detail

    def _partition_keys(self, partition: Partition) -> list[str]:
        return [self._keys.epoch(partition), self._keys.outbox(partition), self._keys.position(partition)]

    async def load(
        self, partition: Partition, wanted: Mapping[str, Sequence[OperationId]], max_bytes: int | None = None
    ) -> Mapping[str, Loaded]:
        keys = [self._keys.blocks(partition)]
        arguments: list[str | int] = [max_bytes or self._max_batch_bytes]
        for key, operations in wanted.items():
            keys += self._keys.state(partition, key).all()[:3]
            arguments += (order_key(key), len(operations), *operations)
        answers = cast("list[list[object]]", await self._load(keys, arguments))
        # Keys that did not fit are omitted.
        return {
            key: _loaded(key, operations, raw, cast("bytes | None", block))
            for (key, operations), (*raw, block) in zip(wanted.items(), answers, strict=False)
        }

    async def commit(
        self,
        partition: Partition,
        epoch: Epoch,
        changes: Sequence[Change],
        events: Sequence[bytes],
        blocks: CallBlocks = NO_BLOCKS,
        *,
        after: CommitPosition = NOTHING,
        published: CommitPosition | None = None,
        following: Sequence[Request] = (),
    ) -> Committal:
        keys = [*self._partition_keys(partition), self._keys.live(partition), self._keys.blocks(partition)]
        remember = (self._remembered_operations, self._lifetimes.operations_ms)
        arguments: list[str | bytes | int] = [
            epoch,
            after,
            "" if published is None else published,
            *remember,
            len(events),
            *events,
        ]
        for change in changes:
            keys.extend(self._keys.state(partition, change.key).all())
            arguments.extend(commit_arguments(change, self._lifetimes))
        arguments.extend(block_arguments(blocks))
        # Without a change there is no version or operation by which a repeat is recognised.
        script = self._commit if any(change.done for change in changes) else self._commit_of_events
        try:
            answer = await self._client.run(script, keys, arguments, following)
        except StoreUnavailable as error:
            # Redis answered and refused this write. The next take-over shows whether it accepts writes at all.
            if is_refusal(error.__cause__):
                raise WriteRefused(str(error)) from error
            raise
        position, blocked = _check(partition, epoch, answer)
        return Committal(CommitPosition(int(position)), int(blocked))

    async def wait_for_replicas(self, partition: Partition, epoch: Epoch, position: CommitPosition) -> None:
        await self._replica_wait.wait_for_replicas(partition, epoch, position)

    async def read_position(self, partition: Partition) -> tuple[Epoch, CommitPosition]:
        return await self._replica_wait.read_position(partition)

    async def note_loss(self, partition: Partition, loss: str, commits: int, lost_for_good: int, at_ms: int) -> None:
        await self._replica_wait.note_loss(partition, loss, commits, lost_for_good, at_ms)

    async def silent(self, partition: Partition, silent_ms: int, most: int, skip: int = 0) -> Sequence[CallId]:
        name = self._keys.live(partition)
        found = cast("list[bytes]", await self._silent([name], [silent_ms, most, skip]))
        if not found:
            return ()
        states = (self._keys.state(partition, raw.decode()).state for raw in found)
        there = await self._client.execute_all(("EXISTS", state) for state in states)
        gone = [raw for raw, exists in zip(found, there, strict=True) if not exists]
        if gone:
            # Calls whose TTL ended before a release removed them from the set.
            await self._client.execute("ZREM", name, *gone)
        return [CallId(subject_id(raw.decode())) for raw in found if raw not in gone]

    async def attempt(self, partition: Partition, epoch: Epoch, name: str, attempt: str) -> int:
        keys = [self._keys.epoch(partition), self._keys.attempts(partition)]
        [count] = _check(partition, epoch, await self._attempt(keys, [epoch, name, attempt, _ATTEMPTS_KEPT_MS]))
        return int(count)

    async def clear_attempts(self, partition: Partition, name: str) -> None:
        await self._client.execute("HDEL", self._keys.attempts(partition), name)

    async def withdraw_attempt(self, partition: Partition, name: str, attempt: str) -> None:
        await self._withdraw([self._keys.attempts(partition)], [name, attempt])

    async def is_done(self, partition: Partition, key: str, operation: OperationId) -> bool:
        try:
            return bool(await self._client.execute("HEXISTS", self._keys.state(partition, key).done, operation))
        except StoreUnavailable as error:
            if str(error.__cause__).startswith("WRONGTYPE"):
                # A key that is not a hash holds no done operations.
                return False
            raise

    async def sent(self, partition: Partition, epoch: Epoch, position: CommitPosition) -> None:
        _check(partition, epoch, await self._sent(self._partition_keys(partition), [epoch, position]))


def _loaded(key: str, operations: Sequence[OperationId], raw: Sequence[object], blocked: bytes | None) -> Loaded:
    block = decode_block(blocked) if blocked is not None else None
    if len(raw) == 1:
        return Loaded(None, {}, StateUnreadable(f"the record of {key} is no hash"), block)
    fields, flat, dones = cast("tuple[list[bytes | None], list[bytes], list[bytes | None]]", raw)
    data = dict(zip(flat[::2], flat[1::2], strict=True))
    done: Mapping[OperationId, Done] = {}
    try:
        done = decode_dones(key, operations, dones)
        return Loaded(decode_state(key, fields, data), done, None, block)
    except StateUnreadable as unreadable:
        return Loaded(None, done, unreadable, block)


def _check(partition: Partition, epoch: Epoch, answer: object) -> Sequence[str]:
    verdict, *detail = (part.decode() for part in cast(list[bytes], answer))
    if verdict == "fenced":
        raise Fenced(f"partition {partition} is in epoch {detail[0]}; this worker took it over in {epoch}")
    if verdict == "lost":
        raise WritesLost(f"partition {partition}: the store is back at commit {detail[0]}")
    if verdict == "conflict":
        raise CommitConflict(f"partition {partition}: {detail[0]} is not as it was when it was loaded")
    if verdict == "refused":
        raise WriteRefused(f"the value at {detail[0]} has the wrong type")
    return detail


@dataclass(slots=True)
class _Reading:
    """PendingCall whose reply holds the fields of the call."""

    key: str
    answer: asyncio.Future[object]

    def __await__(self) -> Generator[object, None, Call | None]:
        version, doc = cast("list[bytes | None]", (yield from self.answer.__await__()))
        state = decode_state(self.key, (version, doc, None), {})
        return state if isinstance(state, Call) else None

    def drop(self) -> None:
        if not self.answer.cancel() and not self.answer.cancelled():
            # Retrieved, so that asyncio does not log an exception that was never retrieved.
            self.answer.exception()


class RedisCallReader:
    """Implements the gateway's CallReader in Redis."""

    def __init__(self, client: RedisClient, keys: Keys, partitions: int, batcher: ScriptBatcher | None = None) -> None:
        """Share the round trips of `batcher`."""
        self._client = client
        self._keys = keys
        self._partitions = partitions
        self._batcher = ScriptBatcher(client) if batcher is None else batcher
        self._read = self._batcher.script("read")

    async def call(self, call_id: CallId, *, with_user_data: bool = True) -> Call | None:
        key = call_key(call_id)
        if not with_user_data:
            return await self.begin_call(call_id)
        state = await self._state(key)
        return state if isinstance(state, Call) else None

    def begin_call(self, call_id: CallId) -> PendingCall:
        key = call_key(call_id)
        return _Reading(key, self._batcher.command("HMGET", self._names(key).state, "version", "doc"))

    async def block(self, call_id: CallId) -> CallBlock | None:
        root = root_of(call_id)
        name = self._keys.blocks(partition_of(root, self._partitions))
        raw = cast("bytes | None", await self._client.execute("HGET", name, call_key(root)))
        return decode_block(raw) if raw is not None else None

    async def calls_of(
        self, user: UserId, *, with_user_data: bool = True, max_bytes: int | None = None
    ) -> Sequence[Call]:
        calls: list[Call] = []
        taken = 0
        async for call, size in self._calls_of(user, with_user_data=with_user_data):
            calls.append(call)
            taken += size
            if max_bytes is not None and taken > max_bytes:
                raise TooMuch(f"the user data of the calls of {user} takes more than {max_bytes} bytes")
        return sorted(calls, key=lambda call: (call.began_at_ms, call.id))

    async def with_calls(self, users: Sequence[UserId]) -> Sequence[UserId]:
        counts = await self._client.execute_all(("SCARD", self._keys.calls_of(user)) for user in users)
        return [user for user, count in zip(users, counts, strict=True) if count]

    async def is_on(self, user: UserId, count: int) -> bool:
        if cast("int", await self._client.execute("SCARD", self._keys.calls_of(user))) < count:
            return False
        # Listed calls may be released or expired.
        found = 0
        async for _ in self._calls_of(user, with_user_data=False):
            found += 1
            if found >= count:
                return True
        return False

    async def _calls_of(self, user: UserId, *, with_user_data: bool) -> AsyncIterator[tuple[Call, int]]:
        """Yield the user's calls, unordered, each with the size of its user data in bytes; read one page at a time."""
        name = self._keys.calls_of(user)
        ids = cast("list[bytes]", await self._client.execute("SMEMBERS", name))
        for begin in range(0, len(ids), _PAGE):
            page = ids[begin : begin + _PAGE]
            raw = await self._raw([call_key(each.decode()) for each in page], with_user_data=with_user_data)
            found = [
                (_decoded(call_key(each.decode()), answer), answer) for each, answer in zip(page, raw, strict=True)
            ]
            gone = [each for each, (state, _) in zip(page, found, strict=True) if state is None]
            if gone:
                # Calls whose TTL has ended: no later operation removes them from the list.
                await self._client.execute("SREM", name, *gone)
            for state, answer in found:
                if isinstance(state, Call) and not state.released and state.is_open_to(user):
                    yield state, sum(map(len, answer[1]))

    async def agent(self, user: UserId) -> Agent | None:
        state = await self._state(agent_key(user))
        return state if isinstance(state, Agent) else None

    async def _state(self, key: str) -> State | None:
        [found] = await self._found([key])
        if isinstance(found, StateUnreadable):
            raise found
        return found

    def _names(self, key: str) -> StateKeys:
        return self._keys.state(partition_of(partition_key(key), self._partitions), key)

    async def _found(self, keys: Sequence[str]) -> list[State | StateUnreadable | None]:
        """Return the state under each key, read atomically, or the error of an unreadable one."""
        if not keys:
            return []
        raw = await self._raw(keys, with_user_data=True)
        return [_decoded(key, each) for key, each in zip(keys, raw, strict=True)]

    async def _raw(self, keys: Sequence[str], *, with_user_data: bool) -> Sequence[Sequence[Sequence[bytes]]]:
        """Return the replies of the script `read`."""
        fields = STATE_FIELDS if with_user_data else _WITHOUT_USER_DATA
        names = [[each.state, each.data] if with_user_data else [each.state] for each in map(self._names, keys)]
        answers = await asyncio.gather(*(self._read(each, fields) for each in names))
        return cast("list[list[list[bytes]]]", answers)


def _decoded(key: str, answer: Sequence[Sequence[bytes]]) -> State | StateUnreadable | None:
    try:
        return _state_in(key, answer)
    except StateUnreadable as error:
        log.error("state_unreadable", reason=str(error))
        return error


def _state_in(key: str, answer: Sequence[Sequence[bytes]]) -> State | None:
    if not answer:
        raise StateUnreadable(f"the record of {key} is no hash")
    given, data = answer
    fields = [*given, *[None] * (len(STATE_FIELDS) - len(given))]
    return decode_state(key, fields, dict(zip(data[::2], data[1::2], strict=True)))
