"""State moves to another number of partitions whole, also where the move is interrupted anywhere."""

from collections.abc import Mapping

import pytest

from calltag.cli.repartition import Repartition
from calltag.core.broker.ports import Partition, partition_of
from calltag.core.domain.ids import partition_key
from calltag.core.settings import load_settings
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.keys import Keys
from calltag.core.store.ports import StoreUnavailable

KEYS = Keys("calltag")
NAMES = ["call:1", "call:2", "call:3", "call:with:colons:userdata", "call:a b", "agent:alice", "agent:bob"]
BEFORE, AFTER = 8, 3


class Interrupted:
    """A client whose connection breaks at the n-th command."""

    def __init__(self, client: RedisClient, after: int) -> None:
        self._client = client
        self._left = after
        self.scan = client.scan

    async def execute(self, *command: str | bytes | int) -> object:
        self._left -= 1
        if self._left < 0:
            raise StoreUnavailable("the connection broke")
        return await self._client.execute(*command)


async def fill(client: RedisClient) -> None:
    for number, key in enumerate(NAMES):
        partition = partition_of(partition_key(key), BEFORE)
        names = KEYS.state(partition, key)
        await client.execute("HSET", names.state, "version", number, "doc", b"\x00\xff")
        await client.execute("HSET", names.done, "o1", "outcome")
        await client.execute("RPUSH", names.order, "o1", "o2")
        await client.execute("PEXPIRE", names.done, 1_000_000)
        if number % 2:
            await client.execute("HSET", names.data, "Reason", '["billing"]', b"\xe9", "[]")
        if key.startswith("call:"):
            await client.execute("ZADD", KEYS.live(partition), 1_000 + number, key)
        await client.execute("SET", KEYS.epoch(partition), 7)


async def state(client: RedisClient, partitions: int) -> Mapping[str, object]:
    """All that belongs to the calls and agents, where it belongs with so many partitions."""
    found: dict[str, object] = {}
    for key in NAMES:
        partition = partition_of(partition_key(key), partitions)
        names = KEYS.state(partition, key)
        found[key] = (
            [fields_of(await client.execute("HGETALL", name)) for name in (names.state, names.data, names.done)],
            await client.execute("LRANGE", names.order, 0, -1),
            await client.execute("ZSCORE", KEYS.live(partition), key),
            await client.execute("PTTL", names.done) != -1,
        )
    return found


async def remains(client: RedisClient) -> int:
    """Keys of calls and agents, and places among the live calls."""
    hashes = [each async for each in client.scan("calltag:{p*", "hash", 100)]
    lists = [each async for each in client.scan("calltag:{p*", "list", 100)]
    live = [await client.execute("ZCARD", KEYS.live(Partition(each))) for each in range(BEFORE)]
    return len(set(hashes)) + len(set(lists)) + sum(int(str(each)) for each in live)


async def move(client: object) -> None:
    await Repartition(client, load_settings(), AFTER)._move(lambda _: None)  # type: ignore[arg-type]


async def test_everything_moves_and_nothing_is_left(client: RedisClient) -> None:
    await fill(client)
    before, count = await state(client, BEFORE), await remains(client)
    assert await Repartition(client, load_settings(), AFTER)._move(lambda _: None) >= 3
    assert await state(client, AFTER) == before
    assert await remains(client) == count
    assert await Repartition(client, load_settings(), AFTER)._move(lambda _: None) == 0


async def test_an_interrupted_move_is_continued(client: RedisClient) -> None:
    await fill(client)
    before, count = await state(client, BEFORE), await remains(client)
    for after in range(0, 400, 3):
        try:
            await move(Interrupted(client, after))
            break
        except StoreUnavailable:
            continue
    else:
        pytest.fail("it never came to an end")
    assert await state(client, AFTER) == before
    assert await remains(client) == count
