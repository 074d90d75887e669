"""Registries in Redis: who lives, which calls users are on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from calltag.core.domain.call import Call
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.ports import InstallationMismatch, WorkerId

SCHEMA = "1"


class RedisCallIndex:
    """The worker's CallIndex. It spans partitions, so it is brought up to date after each commit, and again by
    whoever finds an operation done already; bringing it up to date twice is harmless.

    A list is kept for `lifetime_ms` after the last change of a call on it: as long as the call itself.
    """

    def __init__(self, client: RedisClient, keys: Keys, *, lifetime_ms: int = 24 * 3600 * 1000) -> None:
        self._client = client
        self._keys = keys
        self._lifetime_ms = lifetime_ms

    async def settle(self, calls: Sequence[Call]) -> None:
        pipeline = self._client.pipeline()
        for call in calls:
            for user in call.users():
                name, leg = self._keys.calls_of(user), call.leg_of(user)
                if leg is not None and leg.live:
                    pipeline.sadd(name, call.id)
                    pipeline.pexpire(name, self._lifetime_ms)
                else:
                    pipeline.srem(name, call.id)
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
    pipeline = client.pipeline()
    pipeline.hsetnx(name, "partitions", str(partitions))
    pipeline.hsetnx(name, "schema", SCHEMA)
    pipeline.hmget(name, ["partitions", "schema"])
    recorded, schema = cast(list[bytes], (await client.run(pipeline))[2])
    Installation(int(recorded), schema.decode()).check(partitions)
