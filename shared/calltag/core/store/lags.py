"""How old the operations are that the workers take up, by partition: what gateways learn from how far work lags."""

from collections.abc import Mapping
from typing import Final, Protocol, cast

from calltag.core.bus.ports import Partition
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys

_KEPT_MS: Final = 10_000


class Lags(Protocol):
    """Both methods may raise StoreUnavailable."""

    async def report(self, lags: Mapping[Partition, int]) -> None:
        """The worker that owns these partitions took up operations that were at most so old, in milliseconds."""
        ...

    async def read(self) -> Mapping[Partition, int]:
        """What was reported last of each partition; nothing where no worker has reported for seconds."""
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
