"""What all gateways together published, by partition: so each knows how many operations the waiting messages hold."""

from collections.abc import Mapping
from typing import Protocol, cast

from calltag.core.bus.ports import Partition, Published
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys


class PublishedTotals(Protocol):
    """The counts of all gateways since the store began."""

    async def add(self, published: Mapping[Partition, Published]) -> Mapping[Partition, Published]:
        """Add what this gateway published to these partitions since it told last; returns their totals.

        Raises StoreUnavailable; whether it was added is not known then.
        """
        ...


class RedisPublishedTotals:
    """Implements PublishedTotals with one hash."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._name = keys.published()

    async def add(self, published: Mapping[Partition, Published]) -> Mapping[Partition, Published]:
        if not published:
            return {}
        pipeline = self._client.pipeline()
        for partition, since in published.items():
            pipeline.hincrby(self._name, f"{partition}:m", since.messages)
            pipeline.hincrby(self._name, f"{partition}:o", since.operations)
        counts = cast("list[int]", await self._client.run(pipeline))
        totals = zip(counts[::2], counts[1::2], strict=True)
        return {partition: Published(*total) for partition, total in zip(published, totals, strict=True)}
