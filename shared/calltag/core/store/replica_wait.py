"""Durability of commits: waits for replicas before events are published, and detects lost commits.

WAIT counts replicas for the writes of its own connection only. So a script first checks that the partition has the
owner's commits, and writes a key of the partition on that connection: a replica that has this later write has all
earlier ones, from every connection."""

from dataclasses import dataclass
from typing import cast

from calltag.core.broker.ports import Partition
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.lua_script import lua_script
from calltag.core.store.ports import CommitPosition, Epoch, Fenced, StoreUnavailable, WritesLost


@dataclass(frozen=True, slots=True)
class Durability:
    """Number of replicas that must have a commit (0: no wait), and the timeout of one wait."""

    replicas: int = 0
    timeout_ms: int = 500


class ReplicaWait:
    """Waits for replicas on behalf of the worker's store. Every method may raise StoreUnavailable."""

    def __init__(self, client: RedisClient, keys: Keys, durability: Durability) -> None:
        self._client = client
        self._keys = keys
        self._durability = durability
        self._write = lua_script("wait_for_replicas")
        self._note_loss = client.script("note_loss")

    async def wait_for_replicas(self, partition: Partition, epoch: Epoch, position: CommitPosition) -> None:
        """Wait until the replicas have all commits up to the position. Raises WritesLost, Fenced."""
        wanted = self._durability.replicas
        if not wanted:
            return
        answer, have = await self._client.run_and_wait(
            self._write,
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
        """Return the current epoch and position."""
        found = await self._client.execute("MGET", self._keys.epoch(partition), self._keys.position(partition))
        epoch, position = (int(each or 0) for each in cast("list[bytes | None]", found))
        return Epoch(epoch), CommitPosition(position)

    async def note_loss(self, partition: Partition, loss: str, commits: int, lost_for_good: int, at_ms: int) -> None:
        """Add a loss to the report of `calltag doctor`, once per loss id."""
        await self._note_loss([self._keys.losses(partition)], [loss, commits, lost_for_good, at_ms])
