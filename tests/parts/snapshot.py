"""All that a store holds, put aside and put back: what a fail-over to a replica from before does to it."""

from typing import Any

from calltag.core.store.client import RedisClient
from calltag.core.store.connection import Command, Request
from parts.store_commands import library

Snapshot = dict[bytes, tuple[str, Any, int]]


async def snapshot(client: RedisClient) -> Snapshot:
    """Every key with its type, its value and the milliseconds until its end."""
    store, found = library(client), Snapshot()
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
    commands: list[Command] = [("MULTI",), ("FLUSHDB",)]
    for key, (kind, value, lives_ms) in taken.items():
        commands += _commands(key, kind, value)
        if lives_ms > 0:
            commands.append(("PEXPIRE", key, lives_ms))
    request = Request("", [*commands, ("EXEC",)])
    await client.send([request])
    assert not [reply for reply in request.replies if isinstance(reply, Exception)]


def _commands(key: bytes, kind: str, value: Any) -> list[Command]:
    match kind:
        case "string":
            return [("SET", key, value)]
        case "hash":
            return [("HSET", key, *(part for pair in value.items() for part in pair))]
        case "set":
            return [("SADD", key, *value)]
        case "list":
            return [("RPUSH", key, *value)]
        case "zset":
            return [("ZADD", key, *(part for member, score in value for part in (repr(score), member)))]
        case _:
            return [
                ("XADD", key, entry, *(part for pair in fields.items() for part in pair)) for entry, fields in value
            ]
