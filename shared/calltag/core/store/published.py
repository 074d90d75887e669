"""What all gateways together published, by partition: so each knows how many operations the waiting messages hold."""

import itertools
import secrets
from collections.abc import Mapping
from typing import Final, Protocol, cast

from calltag.core.bus.ports import Partition, PublishedCounts
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys

_ID_BYTES: Final = 8
_REQUEST_KNOWN_MS: Final = 30_000
"""Far longer than a request that got no answer is sent again."""


class PublishedTotals(Protocol):
    """The counts of all gateways since the store began."""

    async def add(self, published: Mapping[Partition, PublishedCounts]) -> Mapping[Partition, PublishedCounts]:
        """Add what this gateway published to these partitions since it told last; returns their totals.

        Raises StoreUnavailable; whether it was added is not known then.
        """
        ...


class RedisPublishedTotals:
    """Implements PublishedTotals with one hash, for one gateway."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._add = client.script("published")
        self._keys = [keys.published(), keys.last_published(secrets.token_hex(_ID_BYTES))]
        self._requests = itertools.count()

    async def add(self, published: Mapping[Partition, PublishedCounts]) -> Mapping[Partition, PublishedCounts]:
        if not published:
            return {}
        # An exchange whose answer is lost is sent again: the script recognises the request.
        arguments = [next(self._requests), _REQUEST_KNOWN_MS]
        for partition, since in published.items():
            arguments += (partition, since.messages, since.operations)
        counts = cast("list[int]", await self._add(self._keys, arguments))
        totals = zip(counts[::2], counts[1::2], strict=True)
        return {partition: PublishedCounts(*total) for partition, total in zip(published, totals, strict=True)}
