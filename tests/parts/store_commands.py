"""redis-py's commands by way of calltag's client, to look at what a store holds and to change it."""

from typing import Any

import redis.asyncio

from calltag.core.store.client import RedisClient
from calltag.core.store.connection import Request


class Library(redis.asyncio.Redis):
    """Commands whose first argument is a key; others where there is one server."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(protocol=2)
        self._client = client

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        name, *rest = args
        request = Request(str(rest[0]) if rest else "", [(*name.split(), *rest)])
        await self._client.send([request])
        [reply] = request.replies
        if isinstance(reply, Exception):
            raise reply
        options.pop("keys", None)
        callback = self.response_callbacks.get(name)
        return callback(reply, **options) if callback is not None else reply


def library(client: RedisClient) -> Any:
    """Return the commands."""
    return Library(client)
