"""How Redis is run: one server, a Redis Cluster, or a master that Sentinels watch over; and the client for each.

redis-py's own clients find the masters, and find them anew after a fail-over. What is added here: every exchange keeps
its deadline though the client looks for the masters meanwhile, and no more connections are asked for than there may be.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio
from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, RedisClusterException

from calltag.core.runtime.tls import ClientTls
from calltag.core.store.client import USUAL_TLS, RedisClient, redis_client, tls_options
from calltag.core.store.ports import StoreUnavailable

Mode = Literal["single", "cluster", "sentinel"]
_PORTS: Final = {"single": 6379, "cluster": 6379, "sentinel": 26379}
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where Redis is. Of a cluster or of Sentinels `url` may have several addresses, with commas between."""

    url: str = field(repr=False)
    mode: Mode = "single"
    service: str = "mymaster"
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: ClientTls = USUAL_TLS


def addresses(url: str, default_port: int) -> list[tuple[str, int]]:
    """Hosts and ports of a URL, as in `redis://user:password@one:7000,two:7001,[::1]/0`. Raises ValueError."""
    places = urlsplit(url).netloc.rpartition("@")[2].split(",")
    found = [urlsplit(f"//{place.strip()}") for place in places]
    if any(not each.hostname for each in found):
        raise ValueError("each address needs a host")
    return [(each.hostname or "", each.port or default_port) for each in found]


def client_of(deployment: Deployment, *, deadline_s: float = 1.0, max_connections: int = 64) -> RedisClient:
    """A client for a deployment. Connections are made when needed; no server has to be there yet."""
    match deployment.mode:
        case "single":
            return redis_client(
                deployment.url, deadline_s=deadline_s, max_connections=max_connections, tls=deployment.tls
            )
        case "sentinel":
            return _sentinel_client(deployment, deadline_s, max_connections)
        case "cluster":
            return _cluster_client(deployment, deadline_s, max_connections)


@dataclass(frozen=True, slots=True)
class PooledClient(RedisClient):
    """A client whose pool has no queue of its own: callers wait here until a connection is free."""

    max_connections: int = 64
    places: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", asyncio.Semaphore(self.max_connections))

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[redis.asyncio.Redis]:
        async with RedisClient.exchange(self) as connection, self.places:
            yield connection


@dataclass(frozen=True, slots=True)
class SentinelClient(PooledClient):
    """A client for the master that Sentinels name.

    A connection to a master that was demoted is closed with the first write that it refuses, and the Sentinels are
    asked again.
    """

    sentinel: Sentinel | None = None

    async def close(self) -> None:
        await PooledClient.close(self)
        if self.sentinel is not None:
            await self.sentinel.aclose()


@dataclass(frozen=True, slots=True)
class ClusterClient(PooledClient):
    """A client for a Redis Cluster. What belongs together is in one slot; pipelines are split by server."""

    searches: set[asyncio.Task[object]] = field(default_factory=set)

    @property
    def cluster(self) -> RedisCluster:
        return cast("RedisCluster", self.connection)

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[redis.asyncio.Redis]:
        try:
            async with PooledClient.exchange(self) as connection:
                if self.cluster.get_default_node() is None:
                    await self._found()
                yield connection
        except RedisClusterException as error:
            raise StoreUnavailable(f"the Redis Cluster is not usable: {error}") from error

    async def _found(self) -> None:
        """See to it that the masters are known. To look for them may take longer than one exchange may: the search
        goes on, and the next exchange finds what it found."""
        search = next(iter(self.searches), None)
        if search is None:
            search = asyncio.create_task(self._search(), name="redis-cluster-search")
            self.searches.add(search)
            search.add_done_callback(self._searched)
        await asyncio.shield(search)

    async def _search(self) -> object:
        return await self.cluster.initialize()

    def _searched(self, search: asyncio.Task[object]) -> None:
        self.searches.discard(search)
        if not search.cancelled():
            # Whoever waited for it has seen what went wrong; perhaps nobody did.
            search.exception()

    async def scan(self, pattern: str, kind: str, page: int) -> AsyncIterator[bytes]:
        for node in await self._masters():
            cursor = 0
            while True:
                async with self.exchange():
                    raw = await node.execute_command("SCAN", cursor, "MATCH", pattern, "COUNT", page, "TYPE", kind)
                cursor, names = _page(raw)
                for name in names:
                    yield name
                if not cursor:
                    break

    async def infos(self) -> Mapping[str, Mapping[str, object]]:
        nodes = await self._masters()
        async with self.exchange():
            found = await asyncio.gather(*(node.execute_command("INFO") for node in nodes))
        return {f"{node.host}:{node.port}": info for node, info in zip(nodes, found, strict=True)}

    async def ping(self) -> bool:
        """Whether every master answers: operations on any partition need theirs."""
        try:
            nodes = await self._masters()
            async with self.exchange():
                await asyncio.gather(*(node.execute_command("PING") for node in nodes))
        except StoreUnavailable:
            return False
        return True

    async def _masters(self) -> list[ClusterNode]:
        async with self.exchange():
            return self.cluster.get_primaries()

    async def run_and_wait(
        self, source: str, keys: Sequence[str], args: Sequence[str | bytes | int], *, replicas: int, timeout_ms: int
    ) -> tuple[object, int]:
        script = PipelineCommand(0, "EVAL", source, len(keys), *keys, *args)
        wait = PipelineCommand(1, "WAIT", replicas, timeout_ms)
        async with self.exchange():
            node = self.cluster.get_node_from_key(keys[0])
            # A server's own pipeline: one connection, no redirection, nothing tried again. Elsewhere than after the
            # write, WAIT would count replicas that need not have it.
            if node is None:
                raise ClusterDownError("the slot has no server")
            await node.execute_pipeline([script, wait])
            for command in (script, wait):
                if isinstance(command.result, Exception):
                    raise command.result
        return script.result, cast("int", wait.result)

    async def close(self) -> None:
        # What is under way may wait for a search.
        await self._traffic.end()
        for search in list(self.searches):
            search.cancel()
        await asyncio.gather(*self.searches, return_exceptions=True)
        await self.connection.aclose()


def _page(raw: object) -> tuple[int, list[bytes]]:
    cursor, names = cast("tuple[int, list[bytes]]", raw)
    return int(cursor), names


def _options(deployment: Deployment) -> dict[str, Any]:
    """What the URL says apart from its addresses: user, password, database, TLS, as redis-py has it."""
    parts = urlsplit(deployment.url)
    login, at, _ = parts.netloc.rpartition("@")
    options = dict(parse_url(urlunsplit(parts._replace(netloc=f"{login}{at}host"))))
    options.pop("host", None)
    options.pop("port", None)
    if options.pop("connection_class", None) is SSLConnection:
        options.update(tls_options(deployment.tls), ssl=True)
    return options


def _told(deployment: Deployment) -> ClientTls | None:
    """What explains a failure of TLS, where there is any."""
    return deployment.tls if deployment.url.startswith("rediss://") else None


def _limits(deadline_s: float) -> dict[str, Any]:
    return {"socket_connect_timeout": deadline_s, "socket_timeout": deadline_s, "health_check_interval": 15}


def _sentinel_client(deployment: Deployment, deadline_s: float, max_connections: int) -> RedisClient:
    options = _options(deployment)
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    # A Sentinel that does not answer must leave time to ask the next.
    patience = deadline_s / 3
    make: Any = Sentinel
    sentinel: Sentinel = make(
        addresses(deployment.url, _PORTS["sentinel"]),
        sentinel_kwargs={
            "username": deployment.sentinel_username,
            "password": deployment.sentinel_password,
            "socket_timeout": patience,
            "socket_connect_timeout": patience,
            "retry": Retry(NoBackoff(), 0),
            **tls,
        },
    )
    master = sentinel.master_for(
        deployment.service,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), 1),
        check_connection=True,
        **_limits(deadline_s),
        **options,
    )
    return SentinelClient(master, deadline_s, _told(deployment), max_connections=max_connections, sentinel=sentinel)


def _cluster_client(deployment: Deployment, deadline_s: float, max_connections: int) -> RedisClient:
    nodes = [ClusterNode(host, port) for host, port in addresses(deployment.url, _PORTS["cluster"])]
    options = {name: value for name, value in _options(deployment).items() if name != "db"}
    cluster = RedisCluster(
        startup_nodes=nodes,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), _TRIES),
        # After a fail-over the old master is asked last, and all that was moved is learnt at once.
        reinitialize_steps=1,
        require_full_coverage=False,
        # Names are asked for anew; what they led to last may be gone for good.
        dynamic_startup_nodes=False,
        **_limits(deadline_s),
        **options,
    )
    return ClusterClient(
        cast("redis.asyncio.Redis", cluster), deadline_s, _told(deployment), max_connections=max_connections
    )
