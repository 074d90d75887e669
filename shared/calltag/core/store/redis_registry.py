"""Registries in Redis: who lives, where users have sessions, which calls users are on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from calltag.core.bus.ports import NodeId
from calltag.core.domain.call import Call
from calltag.core.domain.ids import UserId
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.ports import InstallationMismatch, WorkerId

_DAY_MS = 24 * 3600 * 1000
_CHUNK = 1_000
SCHEMA = "1"


class RedisCallIndex:
    """The worker's CallIndex. It spans partitions, so it is brought up to date after each commit, and again by
    whoever finds an operation done already; bringing it up to date twice is harmless."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def settle(self, calls: Sequence[Call], users: Sequence[UserId]) -> Mapping[UserId, Sequence[NodeId]]:
        pipeline = self._client.pipeline()
        for call in calls:
            for user in call.users():
                name, leg = self._keys.calls_of(user), call.leg_of(user)
                if leg is not None and leg.live:
                    pipeline.sadd(name, call.id)
                    pipeline.pexpire(name, _DAY_MS)
                else:
                    pipeline.srem(name, call.id)
        own = len(pipeline.command_stack)
        for user in users:
            pipeline.smembers(self._keys.nodes_of(user))
        where = cast(list[set[bytes]], (await self._client.run(pipeline))[own:])
        return {
            user: [NodeId(node.decode()) for node in sorted(nodes)] for user, nodes in zip(users, where, strict=True)
        }


class RedisNodeRegistry:
    """The notifiers' NodeRegistry."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def leave(self, node: NodeId) -> None:
        async with self._client.exchange() as connection:
            users = cast(set[bytes], await connection.smembers(self._keys.users_of(node)))
        pipeline = self._client.pipeline()
        for user in users:
            pipeline.srem(self._keys.nodes_of(UserId(user.decode())), node)
        pipeline.delete(self._keys.users_of(node))
        await self._client.run(pipeline)

    async def add(self, node: NodeId, users: Sequence[UserId]) -> None:
        for first in range(0, len(users), _CHUNK):
            pipeline = self._client.pipeline()
            for user in users[first : first + _CHUNK]:
                pipeline.sadd(self._keys.users_of(node), user)
                pipeline.sadd(self._keys.nodes_of(user), node)
                pipeline.pexpire(self._keys.nodes_of(user), _DAY_MS)
            pipeline.pexpire(self._keys.users_of(node), _DAY_MS)
            await self._client.run(pipeline)

    async def remove(self, node: NodeId, user: UserId) -> None:
        pipeline = self._client.pipeline()
        pipeline.srem(self._keys.nodes_of(user), node)
        pipeline.srem(self._keys.users_of(node), user)
        await self._client.run(pipeline)


class RedisWorkerRegistry:
    """The workers' WorkerRegistry."""

    def __init__(self, client: RedisClient, keys: Keys, *, lease_ms: int = 6_000) -> None:
        self._client = client
        self._keys = keys
        self._lease_ms = lease_ms
        self._renew = client.script("renew")

    async def renew(self, worker: WorkerId) -> Sequence[WorkerId]:
        members = await self._renew([self._keys.workers()], [worker, self._lease_ms])
        return [WorkerId(member.decode()) for member in cast(list[bytes], members)]

    async def leave(self, worker: WorkerId) -> None:
        async with self._client.exchange() as connection:
            await connection.zrem(self._keys.workers(), worker)


@dataclass(frozen=True, slots=True)
class Installation:
    """What was fixed when the installation was made."""

    partitions: int
    schema: str

    def check(self, partitions: int) -> None:
        """Raises InstallationMismatch if this process is set up for another one."""
        if self.partitions != partitions:
            raise InstallationMismatch(
                f"this installation has {self.partitions} partitions, fixed when it was made; "
                f"CALLTAG_PARTITIONS says {partitions}"
            )
        if self.schema != SCHEMA:
            raise InstallationMismatch(
                f"the store has schema {self.schema}; this version of calltag reads schema {SCHEMA}"
            )


async def read_installation(client: RedisClient, keys: Keys) -> Installation | None:
    """The installation that the store belongs to; None before the first start. Raises StoreUnavailable."""
    async with client.exchange() as connection:
        found = await connection.hmget(keys.installation(), ["partitions", "schema"])
    partitions, schema = cast("list[bytes | None]", found)
    return None if partitions is None or schema is None else Installation(int(partitions), schema.decode())


async def check_installation(client: RedisClient, keys: Keys, partitions: int) -> None:
    """Record the number of partitions with the first start; refuse any other afterwards.

    Raises InstallationMismatch, StoreUnavailable.
    """
    name = keys.installation()
    pipeline = client.pipeline(atomic=True)
    pipeline.hsetnx(name, "partitions", str(partitions))
    pipeline.hsetnx(name, "schema", SCHEMA)
    pipeline.hmget(name, ["partitions", "schema"])
    recorded, schema = cast(list[bytes], (await client.run(pipeline))[2])
    Installation(int(recorded), schema.decode()).check(partitions)
