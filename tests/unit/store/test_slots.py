"""All keys of one script, or of one command, are in one slot of a Redis Cluster."""

from collections.abc import AsyncIterator, Sequence
from importlib import resources

import pytest
from redis.crc import key_slot

from calltag.cli.sessions import SessionList
from calltag.core.backends import LoginMetrics
from calltag.core.bayeux.events import Position
from calltag.core.bayeux.session import Ending
from calltag.core.broker.ports import NodeId, Partition, PublishedCounts
from calltag.core.domain.call import Call, CallType
from calltag.core.domain.ids import CallId, ConnId, OperationId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.identity.directory import User
from calltag.core.identity.http_sessions import Login, RedisHttpSessions
from calltag.core.identity.login_attempts import AttemptLimits, RedisLoginAttempts
from calltag.core.store.backlog import RedisPublishedTotals
from calltag.core.store.calls import RedisCallBlocks, RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient, Script
from calltag.core.store.client_ids import new_client_id
from calltag.core.store.connection import Request
from calltag.core.store.embedded import embedded_store
from calltag.core.store.event_log import Addition, RedisEventLog
from calltag.core.store.keys import Keys
from calltag.core.store.lua_script import LuaScript, lua_script
from calltag.core.store.ports import Change, Done, StoreUnavailable, WorkerId
from calltag.core.store.replica_wait import Durability
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.sessions import ConnectCaller, Cursor, NewSession, Saved, SessionState, SessionStore
from calltag.core.store.watches import RedisWatches, Watched
from calltag.core.store.workers import RedisWorkerRegistry
from calltag.core.telemetry.metrics import Metrics

KEYS = Keys("slots")
SCRIPTS = {
    each.name.removesuffix(".lua") for each in resources.files("calltag.core.store").joinpath("lua").iterdir()
} - {"prelude"}
"""The prelude is no script of its own: others begin with it."""


class NotingClient(RedisClient):
    """Notes the keys that scripts are given, by script, as a client of a cluster would give them."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(client.router, client.deadline_s)
        self.noted: dict[str, list[Sequence[str]]] = {}

    @property
    def has_slots(self) -> bool:
        return True

    def note(self, script: LuaScript, keys: Sequence[str]) -> None:
        name = next(name for name in SCRIPTS if lua_script(name) == script)
        self.noted.setdefault(name, []).append(keys)

    async def run(
        self,
        script: LuaScript,
        keys: Sequence[str],
        args: Sequence[str | bytes | int],
        following: Sequence[Request] = (),
    ) -> object:
        self.note(script, keys)
        return await super().run(script, keys, args, following)

    async def run_and_wait(
        self, script: LuaScript, keys: Sequence[str], args: Sequence[str | bytes | int], replicas: int, timeout_ms: int
    ) -> tuple[object, int]:
        self.note(script, keys)
        raise StoreUnavailable(f"{args[:0]}there are no {replicas} replicas in {timeout_ms} ms")


class NotingBatcher(ScriptBatcher):
    def __init__(self, client: NotingClient) -> None:
        super().__init__(client)
        self._noting = client

    def calls(self, script: LuaScript) -> Script:
        run = super().calls(script)

        async def noting(keys: Sequence[str], args: Sequence[str | bytes | int]) -> object:
            self._noting.note(script, keys)
            return await run(keys, args)

        return noting


@pytest.fixture
async def client() -> AsyncIterator[NotingClient]:
    async with embedded_store(None, deadline_s=20) as store:
        yield NotingClient(store.client)


async def work_of_a_user(client: NotingClient, batcher: NotingBatcher, user: UserId) -> None:
    """What concerns a user: sessions, the stream, watches."""
    sessions = SessionStore(client, batcher, KEYS, NodeId("n"))
    cursor = Cursor(Position(0), Position(0))
    names = [new_client_id(each, bearer=True) for each in (user, user, UserId("zoe"))]
    for name in names:
        await sessions.create(name, NewSession(acknowledges=True, lifetime_ms=60_000, most_of_user=9))
        assert await sessions.read(name, ConnectCaller(), most=10) is not None
        assert await sessions.take_over(SessionState(name, 1, 1, cursor, 60_000), saved=0, has_moved=True)
        await sessions.subscribe(name, {"/c": None}, lifetime_ms=60_000, most=9)
        await sessions.touch(name, lifetime_ms=60_000)
    saved = await sessions.save([SessionState(name, 2, 1, cursor, 60_000) for name in names])
    assert all(isinstance(each, Saved) for each in saved)
    assert len(await SessionList(client, KEYS).of_user(user)) == 2
    for name in names:
        await sessions.expire(name, cycle=2, within_ms=1)
        await sessions.remove(name, Ending.CLOSED)
    # An id may be all that its client has to show.
    assert not [
        key for calls in client.noted.values() for keys in calls for key in keys for name in names if name in key
    ]
    streams = RedisEventLog(client, batcher, KEYS)
    additions = [Addition("call:1", 1, b"{}"), Addition("agent", 1, b"{}")]
    await streams.append({user: additions, UserId("zoe"): additions})
    await streams.read(user, Position(0), 9)
    watches = RedisWatches(client, batcher, KEYS)
    await watches.begin(user, Watched(frozenset({UserId("one"), user}), all=True))
    await watches.of_all()


async def work_of_a_partition(client: NotingClient, partition: Partition) -> None:
    """What concerns a partition: taking it over, commits."""
    store = RedisCallStore(client, KEYS, durability=Durability(1))
    epoch = (await store.take_over(partition)).epoch
    changes = [
        Change(f"call:{each}", None, Call(CallId(each), ConnId("c"), CallType.INTERNAL, "", 1, (), version=1),
               [(OperationId("o"), Done(StatusCode.SUCCESS, 1))])
        for each in ("C1", "{x}", "a}b")
    ]  # fmt: skip
    position = (await store.commit(partition, epoch, changes, [b"event"])).position
    assert await store.kept(partition, epoch) == [b"event"]
    await store.load(partition, {each.key: [OperationId("o")] for each in changes})
    await store.sent(partition, epoch, position)
    await store.attempt(partition, epoch, "o", "1")
    await store.withdraw_attempt(partition, "o", "1")
    await store.note_loss(partition, "loss", 1, 0, 1)
    await store.silent(partition, 0, 9)
    with pytest.raises(StoreUnavailable):
        await store.wait_for_replicas(partition, epoch, position)


async def test_each_script_keeps_to_one_slot(client: NotingClient) -> None:
    batcher = NotingBatcher(client)
    for user in ("alice", "a}b", "{x}y", "é:{"):
        await work_of_a_user(client, batcher, UserId(user))
    for partition in (0, 7, 31):
        await work_of_a_partition(client, Partition(partition))
    registry = RedisWorkerRegistry(client, KEYS)
    await registry.renew(WorkerId("w"))
    assert [each.worker for each in await registry.living()] == ["w"]
    await client.script("clock")([KEYS.workers()], [])
    for key in ("call:C1", "agent:a}b"):
        assert not await RedisCallBlocks(client, KEYS, 32).clear(key, OperationId("o"))
    reader = RedisCallReader(client, KEYS, 32)
    client.noted["read"] = [[names.state, names.data] for names in [reader._names("call:C1"), reader._names("agent:a")]]
    sessions = RedisHttpSessions(client, batcher)
    await sessions.find((await sessions.create(Login(User(UserId("é:{"), "hash")))).token)
    await RedisLoginAttempts(batcher, "slots", AttemptLimits(), LoginMetrics(Metrics())).take("a}b", "::1")
    await RedisPublishedTotals(client, KEYS).add(
        {Partition(0): PublishedCounts(1, 1), Partition(7): PublishedCounts(1, 1)}
    )
    for name, calls in client.noted.items():
        for keys in calls:
            assert len({key_slot(key.encode()) for key in keys}) == 1, (name, keys)
    assert client.noted.keys() == SCRIPTS
