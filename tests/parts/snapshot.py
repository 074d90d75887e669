"""All that a store holds, put aside and put back: what a fail-over to a replica from before does to it."""

from typing import Any, cast

from calltag.core.store.connection import RedisClient

Snapshot = dict[bytes, tuple[str, Any, int]]


async def snapshot(client: RedisClient) -> Snapshot:
    """Every key with its type, its value and the milliseconds until its end."""
    store, found = cast("Any", client.connection), Snapshot()
    async for key in store.scan_iter("*"):
        kind = (await store.type(key)).decode()
        found[key] = (kind, await _value(store, kind, key), await store.pttl(key))
    return found


async def _value(store: Any, kind: str, key: bytes) -> Any:
    match kind:
        case "string":
            return await store.get(key)
        case "hash":
            return await store.hgetall(key)
        case "set":
            return await store.smembers(key)
        case "list":
            return await store.lrange(key, 0, -1)
        case "zset":
            return await store.zrange(key, 0, -1, withscores=True)
        case "stream":
            return await store.xrange(key)
        case _:
            raise ValueError(f"{key!r} is of a type that the store has no other key of: {kind}")


async def put_back(client: RedisClient, taken: Snapshot) -> None:
    """Nothing that came after it is there any more."""
    pipeline = cast("Any", client.connection).pipeline(transaction=True)
    pipeline.flushdb()
    for key, (kind, value, lives_ms) in taken.items():
        match kind:
            case "string":
                pipeline.set(key, value)
            case "hash":
                pipeline.hset(key, mapping=value)
            case "set":
                pipeline.sadd(key, *value)
            case "list":
                pipeline.rpush(key, *value)
            case "zset":
                pipeline.zadd(key, dict(value))
            case "stream":
                for entry, fields in value:
                    pipeline.xadd(key, fields, id=entry)
        if lives_ms > 0:
            pipeline.pexpire(key, lives_ms)
    await pipeline.execute()
