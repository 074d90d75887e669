"""The connection to Redis: one client a process, every call with a deadline, errors in calltag's own words."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Protocol

import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from calltag.core.store.ports import StoreUnavailable


class Script(Protocol):
    """A script that the server runs by its digest, sent whole where the server does not know it."""

    async def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> object: ...


@dataclass(frozen=True, slots=True)
class RedisClient:
    """A client with a deadline for each exchange, in seconds."""

    connection: redis.asyncio.Redis
    deadline_s: float = 1.0

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[redis.asyncio.Redis]:
        """Bound what is done inside by the deadline. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(self.deadline_s):
                yield self.connection
        except TimeoutError:
            raise StoreUnavailable(f"Redis did not answer within {self.deadline_s:g} s") from None
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis is not usable: {type(error).__name__}: {error}") from error

    async def run(self, pipeline: Pipeline) -> list[object]:
        """Execute a pipeline. Raises StoreUnavailable."""
        async with self.exchange():
            return list(await pipeline.execute())

    def pipeline(self, *, atomic: bool = False) -> Pipeline:
        """Commands that share one round trip; `atomic` makes nothing come between them."""
        return self.connection.pipeline(transaction=atomic)

    def script(self, name: str) -> Script:
        """The Lua script of that name."""
        source = resources.files("calltag.core.store").joinpath("lua", f"{name}.lua").read_text()
        registered = self.connection.register_script(source)

        async def run(keys: Sequence[str], args: Sequence[str | bytes | int]) -> object:
            async with self.exchange():
                return await registered(keys=list(keys), args=list(args))

        return run

    async def ping(self) -> bool:
        """Whether the server answers, within the deadline."""
        try:
            async with self.exchange() as connection:
                await connection.ping()
        except StoreUnavailable:
            return False
        return True

    async def close(self) -> None:
        await self.connection.aclose()


def redis_client(url: str, *, deadline_s: float = 1.0, max_connections: int = 64) -> RedisClient:
    """A client for a Redis URL. Connections are made when needed; a command that met a broken one is tried once more.

    To try again is safe: the scripts recognise what they did already by version and operation id.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=deadline_s,
        socket_connect_timeout=deadline_s,
        socket_timeout=deadline_s,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=15,
    )
    return RedisClient(redis.asyncio.Redis.from_pool(pool), deadline_s)
