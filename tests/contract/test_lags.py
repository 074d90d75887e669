"""How far work lags, as gateways learn it."""

from calltag.core.broker.ports import Partition
from calltag.core.store.backlog import RedisLags
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys
from parts.store_commands import library

KEYS = Keys("calltag-test")


async def test_the_last_report_counts_for_seconds(client: RedisClient) -> None:
    lags = RedisLags(client, KEYS)
    assert await lags.read() == {}
    await lags.report({})
    await lags.report({Partition(0): 1, Partition(1): 2_000})
    await lags.report({Partition(1): 3})
    assert await lags.read() == {Partition(0): 1, Partition(1): 3}
    assert 0 < await library(client).pttl(KEYS.lags()) <= 10_000
