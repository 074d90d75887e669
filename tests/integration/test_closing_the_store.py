"""A process that ends leaves no connection to Redis behind, whatever is under way."""

import asyncio

import pytest
import redis.asyncio

from calltag.core.store.client import redis_client
from calltag.core.store.scripts import ScriptBatcher
from parts.eventually import eventually, turns
from parts.redis_server import RedisServer


@pytest.mark.parametrize("most", [1, 2, 8, 64])
async def test_connections_at_hand_are_left_to_others(redis_url: str, most: int) -> None:
    client = redis_client(redis_url, deadline_s=20, max_connections=most)
    batchers = [ScriptBatcher(client) for _ in range(most)]
    await asyncio.gather(*(each.command("SET", f"at-hand-{number}", "1") for number, each in enumerate(batchers)))
    assert await asyncio.gather(*(client.ping() for _ in range(most))) == [True] * most
    await client.close()


async def test_a_command_that_is_under_way_makes_no_new_connection(redis_server: RedisServer, redis_url: str) -> None:
    client = redis_client(redis_url, deadline_s=30)
    batcher = ScriptBatcher(client)
    async with redis.asyncio.Redis(port=redis_server.port) as admin:

        async def names() -> list[str]:
            return [str(each["name"]) for each in await admin.client_list()]

        await batcher.command("CLIENT", "SETNAME", "closing")
        before = len(await names())
        await admin.client_pause(1_000_000, all=False)
        under_way = batcher.command("SET", "a", "1")

        async def is_blocked() -> bool:
            return any("b" in each["flags"] for each in await admin.client_list())

        await eventually(is_blocked)
        closing = asyncio.create_task(client.close())
        await turns()
        assert not closing.done()
        await admin.client_unpause()
        assert await under_way
        await closing

        async def is_gone() -> bool:
            return len(await names()) == before - 1

        await eventually(is_gone)
