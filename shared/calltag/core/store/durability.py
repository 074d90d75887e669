"""How safe a commit is: whether replicas have it before anybody is told, and whether the store has lost some.

WAIT counts replicas for the writes of its own connection on its own server. So a script writes something of the
partition there first, if the partition is as its owner left it: what comes later in the stream of replication
vouches for all before it, whichever connection that came by.
"""

from dataclasses import dataclass
from typing import cast

from calltag.core.bus.ports import Partition
from calltag.core.store.client import RedisClient, script_source
from calltag.core.store.keys import Keys
from calltag.core.store.ports import CommitPosition, Epoch, Fenced, StoreUnavailable, WritesLost


@dataclass(frozen=True, slots=True)
class Durability:
    """How many replicas have to have a commit (0: none), and how long to wait for them at a time."""

    replicas: int = 0
    timeout_ms: int = 500


class ReplicaWait:
    """What the worker's store needs for it. Every method may raise StoreUnavailable."""

    def __init__(self, client: RedisClient, keys: Keys, durability: Durability) -> None:
        self._client = client
        self._keys = keys
        self._durability = durability
        self._source = script_source("wait_for_replicas")
        self._note_loss = client.script("note_loss")

    async def wait_for_replicas(self, partition: Partition, epoch: Epoch, position: CommitPosition) -> None:
        """Wait for the replicas. Raises WritesLost, Fenced."""
        wanted = self._durability.replicas
        if not wanted:
            return
        answer, have = await self._client.run_and_wait(
            self._source,
            [self._keys.epoch(partition), self._keys.position(partition)],
            [epoch, position],
            replicas=wanted,
            timeout_ms=self._durability.timeout_ms,
        )
        verdict, *detail = (part.decode() for part in cast("list[bytes]", answer))
        if verdict == "fenced":
            raise Fenced(f"partition {partition} is in epoch {detail[0]}; this worker took it over in {epoch}")
        if verdict == "lost":
            raise WritesLost(f"partition {partition} is at commit {detail[0]}; {position} were confirmed")
        if have < wanted:
            raise StoreUnavailable(f"{have} of {wanted} replicas have the commit in time")

    async def read_position(self, partition: Partition) -> tuple[Epoch, CommitPosition]:
        """Epoch and position now."""
        async with self._client.exchange() as connection:
            found = await connection.mget(self._keys.epoch(partition), self._keys.position(partition))
        epoch, position = (int(each or 0) for each in cast("list[bytes | None]", found))
        return Epoch(epoch), CommitPosition(position)

    async def note_loss(self, partition: Partition, loss: str, commits: int, gone: int, at_ms: int) -> None:
        """Add to what doctor shows, once for each loss."""
        await self._note_loss([self._keys.losses(partition)], [loss, commits, gone, at_ms])
