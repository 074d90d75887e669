"""The connection to Redis: one client a process, every call with a deadline, errors in calltag's own words."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Final, Protocol

import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from calltag.core.runtime.tls import ClientTls
from calltag.core.store.ports import StoreUnavailable

_USUAL_TLS: Final = ClientTls("CALLTAG_REDIS__TLS__")


class Script(Protocol):
    """A script that the server runs by its digest, sent whole where the server does not know it."""

    async def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> object: ...


@dataclass(frozen=True, slots=True)
class RedisClient:
    """A client with a deadline for each exchange, in seconds."""

    connection: redis.asyncio.Redis
    deadline_s: float = 1.0
    tls: ClientTls | None = None
    """Where the connections are by TLS."""

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[redis.asyncio.Redis]:
        """Bound what is done inside by the deadline. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(self.deadline_s):
                yield self.connection
        except TimeoutError:
            raise StoreUnavailable(f"Redis did not answer within {self.deadline_s:g} s") from None
        except (RedisError, OSError) as error:
            by_tls = self.tls.explained(error) if self.tls is not None else None
            reason = f"no TLS: {by_tls}" if by_tls else f"{type(error).__name__}: {error}"
            raise StoreUnavailable(f"Redis is not usable: {reason}") from error

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


def redis_client(
    url: str, *, deadline_s: float = 1.0, max_connections: int = 64, tls: ClientTls = _USUAL_TLS
) -> RedisClient:
    """A client for a Redis URL. Connections are made when needed; a command that met a broken one is tried once more.

    To try again is safe: the scripts recognise what they did already by version and operation id.
    """
    by_tls = url.startswith("rediss://")
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=deadline_s,
        socket_connect_timeout=deadline_s,
        socket_timeout=deadline_s,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=15,
        **(_tls_options(tls) if by_tls else {}),
    )
    return RedisClient(redis.asyncio.Redis.from_pool(pool), deadline_s, tls if by_tls else None)


def _tls_options(tls: ClientTls) -> dict[str, object]:
    """The library makes a context of these for each connection: certificates are renewed while services run."""
    files = {
        "ssl_ca_certs": tls.ca_file,
        "ssl_certfile": tls.own.cert_file,
        "ssl_keyfile": tls.own.key_file,
    }
    return {
        **{name: str(file) for name, file in files.items() if file is not None},
        "ssl_password": tls.own.key_password,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }
