"""Lag by partition: the age of operations when workers receive them, reported to the gateways."""

from collections.abc import Mapping
from typing import Final, Protocol, cast

from calltag.core.bus.ports import Partition
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys

_KEPT_MS: Final = 10_000


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
        pipeline = self._client.pipeline()
        pipeline.hset(self._name, mapping={str(partition): lag_ms for partition, lag_ms in lags.items()})
        pipeline.pexpire(self._name, _KEPT_MS)
        await self._client.run(pipeline)

    async def read(self) -> Mapping[Partition, int]:
        async with self._client.exchange() as connection:
            raw = cast("dict[bytes, bytes]", await connection.hgetall(self._name))
        return {Partition(int(partition)): int(lag_ms) for partition, lag_ms in raw.items()}
