"""What all gateways published, as each of them learns it."""

from calltag.core.broker.ports import Partition, PublishedCounts
from calltag.core.store.backlog import RedisPublishedTotals
from calltag.core.store.client import RedisClient
from calltag.core.store.keys import Keys

KEYS = Keys("calltag-test")
ONE, TWO = Partition(0), Partition(1)


async def test_each_gateway_learns_what_all_published(client: RedisClient) -> None:
    here, there = RedisPublishedTotals(client, KEYS), RedisPublishedTotals(client, KEYS)
    assert await here.add({}) == {}
    assert await here.add({ONE: PublishedCounts(1, 1), TWO: PublishedCounts(2, 3)}) == {
        ONE: PublishedCounts(1, 1),
        TWO: PublishedCounts(2, 3),
    }
    assert await there.add({ONE: PublishedCounts(10, 640)}) == {ONE: PublishedCounts(11, 641)}
    assert await here.add({TWO: PublishedCounts(), ONE: PublishedCounts()}) == {
        TWO: PublishedCounts(2, 3),
        ONE: PublishedCounts(11, 641),
    }
