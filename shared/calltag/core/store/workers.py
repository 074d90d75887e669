"""Registries in Redis: live workers, calls by user, and the properties of the installation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from pydantic import TypeAdapter

from calltag.core.domain.call import Call
from calltag.core.store.client import RedisClient
from calltag.core.store.connection import Command
from calltag.core.store.keys import Keys
from calltag.core.store.ports import HeldPartition, InstallationMismatch, LivingWorker, WorkerId

SCHEMA = "1"
_HELD: Final = TypeAdapter(tuple[HeldPartition, ...])


class RedisCallIndex:
    """Implements the worker's CallIndex. It spans partitions, so it is updated after each commit, and again when a
    repeated operation is recognised; updates are idempotent.

    The TTL of a list, `lifetime_ms` after the last change of a call on it, is that of the call itself.
    """

    def __init__(self, client: RedisClient, keys: Keys, *, lifetime_ms: int = 24 * 3600 * 1000) -> None:
        self._client = client
        self._keys = keys
        self.lifetime_ms = lifetime_ms

    async def update(self, calls: Sequence[Call]) -> None:
        commands: list[Command] = []
        for call in calls:
            for user in call.users():
                name, leg = self._keys.calls_of(user), call.leg_of(user)
                if leg is not None and leg.live:
                    commands += (("SADD", name, call.id), ("PEXPIRE", name, self.lifetime_ms))
                else:
                    commands.append(("SREM", name, call.id))
        await self._client.execute_all(commands)


class RedisWorkerRegistry:
    """Implements WorkerRegistry in Redis."""

    def __init__(self, client: RedisClient, keys: Keys, *, lease_ms: int = 6_000) -> None:
        self._client = client
        self._keys = keys
        self._lease_ms = lease_ms
        self._renew = client.script("renew")
        self._living = client.script("living")

    async def renew(self, worker: WorkerId, held: Sequence[HeldPartition] = ()) -> Sequence[WorkerId]:
        members = await self._renew(self._names(), [worker, self._lease_ms, _HELD.dump_json(tuple(held))])
        return [WorkerId(member.decode()) for member in cast(list[bytes], members)]

    async def leave(self, worker: WorkerId) -> None:
        await self._renew(self._names(), [worker, 0, ""])

    async def living(self) -> Sequence[LivingWorker]:
        found = cast("list[tuple[bytes, int, bytes]]", await self._living(self._names(), []))
        return [
            LivingWorker(WorkerId(member.decode()), ends_in_ms, _HELD.validate_json(encoded))
            for member, ends_in_ms, encoded in found
            if ends_in_ms >= 0
        ]

    def _names(self) -> tuple[str, str, str]:
        """Return the keys, which are in one slot of a Redis Cluster."""
        return self._keys.workers(), self._keys.worker_places(), self._keys.worker_reports()


@dataclass(frozen=True, slots=True)
class Installation:
    """Properties of the installation, fixed at its first start."""

    partitions: int
    schema: str

    def check(self, partitions: int) -> None:
        """Raise InstallationMismatch if this process is configured for another installation."""
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
    """Return the installation recorded in Redis; None before the first start. Raises StoreUnavailable."""
    found = await client.execute("HMGET", keys.installation(), "partitions", "schema")
    partitions, schema = cast("list[bytes | None]", found)
    return None if partitions is None or schema is None else Installation(int(partitions), schema.decode())


async def check_installation(client: RedisClient, keys: Keys, partitions: int) -> None:
    """Record the number of partitions at the first start; reject a different one afterwards.

    Raises InstallationMismatch, StoreUnavailable.
    """
    name = keys.installation()
    *_, found = await client.execute_all(
        [
            ("HSETNX", name, "partitions", partitions),
            ("HSETNX", name, "schema", SCHEMA),
            ("HMGET", name, "partitions", "schema"),
        ]
    )
    recorded, schema = cast("list[bytes]", found)
    Installation(int(recorded), schema.decode()).check(partitions)
