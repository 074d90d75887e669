"""Blocks of the calls and agents that have a parked operation, for operators."""

from collections.abc import Mapping, Sequence
from typing import cast

from calltag.core.bus.partitioning import partition_of
from calltag.core.bus.ports import Partition
from calltag.core.domain.ids import OperationId
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from calltag.core.store.ports import CallBlock
from calltag.core.store.records import decode_block


class RedisCallBlocks:
    """All blocks of an installation. Every method may raise StoreUnavailable."""

    def __init__(self, client: RedisClient, keys: Keys, partitions: int) -> None:
        self._client = client
        self._keys = keys
        self._partitions = partitions
        self._unblock = client.script("unblock")

    async def all(self) -> Mapping[str, CallBlock]:
        """Return the blocks by key (`call:<id>`, `agent:<user>`)."""
        pipeline = self._client.pipeline()
        for number in range(self._partitions):
            pipeline.hgetall(self._keys.blocks(Partition(number)))
        found = cast("list[dict[bytes, bytes]]", await self._client.run(pipeline))
        return {key.decode(): decode_block(raw) for blocks in found for key, raw in blocks.items()}

    async def counts(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Return the number of blocks of each partition."""
        if not partitions:
            return {}
        pipeline = self._client.pipeline()
        for partition in partitions:
            pipeline.hlen(self._keys.blocks(partition))
        counts = cast("list[int]", await self._client.run(pipeline))
        return dict(zip(partitions, counts, strict=True))

    async def clear(self, key: str, operation_id: OperationId) -> bool:
        """Delete a block if it is for this operation; return whether it was."""
        partition = partition_of(key.partition(":")[2], self._partitions)
        return await self._unblock([self._keys.blocks(partition)], [key, operation_id]) == 1

    async def forget(self) -> int:
        """Delete all blocks, after the parked operations are lost; return the number deleted."""
        blocks = await self.all()
        return sum([await self.clear(key, block.operation_id) for key, block in blocks.items()])
