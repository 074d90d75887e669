"""Counts and ages of the operations that wait in each partition, shared by all processes."""

import itertools
import secrets
from collections.abc import Mapping
from typing import Final, Protocol, cast

from calltag.core.broker.ports import Partition, PublishedCounts
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.keys import Keys

_KEPT_MS: Final = 10_000
_ID_BYTES: Final = 8
_REQUEST_KNOWN_MS: Final = 30_000
"""TTL of a request id: much longer than a request without a reply is retried."""


class Lags(Protocol):
    """Lags of all partitions. Both methods may raise StoreUnavailable."""

    async def report(self, lags: Mapping[Partition, int]) -> None:
        """Report the maximum age of the operations received since the last report, in milliseconds."""
        ...

    async def read(self) -> Mapping[Partition, int]:
        """Return the last reported lags in milliseconds; none if no worker has reported for 10 s."""
        ...


class RedisLags:
    """Implements Lags with one hash."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._name = keys.lags()

    async def report(self, lags: Mapping[Partition, int]) -> None:
        if not lags:
            return
        fields = [part for pair in lags.items() for part in pair]
        await self._client.execute_all([("HSET", self._name, *fields), ("PEXPIRE", self._name, _KEPT_MS)])

    async def read(self) -> Mapping[Partition, int]:
        raw = fields_of(await self._client.execute("HGETALL", self._name))
        return {Partition(int(partition)): int(lag_ms) for partition, lag_ms in raw.items()}


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
