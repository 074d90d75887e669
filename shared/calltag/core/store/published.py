"""Totals published by all gateways, by partition, from which each estimates the operations in queued messages."""

import itertools
import secrets
from collections.abc import Mapping
from typing import Final, Protocol, cast

from calltag.core.bus.ports import Partition, PublishedCounts
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys

_ID_BYTES: Final = 8
_REQUEST_KNOWN_MS: Final = 30_000
"""TTL of a request id: much longer than a request without a reply is retried."""


class PublishedTotals(Protocol):
    """Counts of all gateways since Redis was set up."""

    async def add(self, published: Mapping[Partition, PublishedCounts]) -> Mapping[Partition, PublishedCounts]:
        """Add the counts published by this gateway since its last call; return the totals of these partitions.

        Raises StoreUnavailable; the counts may have been added even so.
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
        # The client retries an exchange whose reply is lost: the script recognises the request by its id.
        arguments = [next(self._requests), _REQUEST_KNOWN_MS]
        for partition, since in published.items():
            arguments += (partition, since.messages, since.operations)
        counts = cast("list[int]", await self._add(self._keys, arguments))
        totals = zip(counts[::2], counts[1::2], strict=True)
        return {partition: PublishedCounts(*total) for partition, total in zip(published, totals, strict=True)}
