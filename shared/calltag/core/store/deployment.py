"""Redis deployments and their clients: one server, a Redis Cluster, or a master monitored by Sentinels.

redis-py's clients find the masters; this module configures them and limits the number of connections. In a cluster,
`cluster.py` refreshes the topology after a failover.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from calltag.core.process.tls import ClientTls
from calltag.core.store.cluster import Cluster, ClusterClient
from calltag.core.store.connection import USUAL_TLS, PooledClient, RedisClient, redis_client, tls_options

if TYPE_CHECKING:
    import redis.asyncio

Mode = Literal["single", "cluster", "sentinel"]
_PORTS: Final = {"single": 6379, "cluster": 6379, "sentinel": 26379}


@dataclass(frozen=True, slots=True)
class Deployment:
    """Location of Redis. For a cluster or Sentinels `url` may contain several addresses, separated by commas."""

    url: str = field(repr=False)
    mode: Mode = "single"
    service: str = "mymaster"
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: ClientTls = USUAL_TLS


def addresses(url: str, default_port: int) -> list[tuple[str, int]]:
    """Return the hosts and ports of a URL like `redis://user:password@one:7000,two:7001,[::1]/0`. Raises ValueError."""
    places = urlsplit(url).netloc.rpartition("@")[2].split(",")
    found = [urlsplit(f"//{place.strip()}") for place in places]
    if any(not each.hostname for each in found):
        raise ValueError("each address needs a host")
    return [(each.hostname or "", each.port or default_port) for each in found]


def client_of(deployment: Deployment, *, deadline_s: float = 1.0, max_connections: int = 64) -> RedisClient:
    """Return a client for a deployment. It connects on demand; no server has to be available yet."""
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
class SentinelClient(PooledClient):
    """A client for the master that Sentinels name.

    The first write that a demoted master refuses closes its connection; the next connection asks the Sentinels again.
    """

    sentinel: Sentinel | None = None

    async def close(self) -> None:
        await PooledClient.close(self)
        if self.sentinel is not None:
            await self.sentinel.aclose()


def _options(deployment: Deployment) -> dict[str, Any]:
    """Return the options of the URL other than its addresses: user, password, database, TLS, in redis-py's form."""
    parts = urlsplit(deployment.url)
    login, at, _ = parts.netloc.rpartition("@")
    options = dict(parse_url(urlunsplit(parts._replace(netloc=f"{login}{at}host"))))
    options.pop("host", None)
    options.pop("port", None)
    if options.pop("connection_class", None) is SSLConnection:
        options.update(tls_options(deployment.tls), ssl=True)
    return options


def _told(deployment: Deployment) -> ClientTls | None:
    """Return the TLS settings that explain a failure; None without TLS."""
    return deployment.tls if deployment.url.startswith("rediss://") else None


def _limits(deadline_s: float) -> dict[str, Any]:
    return {"socket_connect_timeout": deadline_s, "socket_timeout": deadline_s, "health_check_interval": 15}


def _sentinel_client(deployment: Deployment, deadline_s: float, max_connections: int) -> RedisClient:
    options = _options(deployment)
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    # A Sentinel that does not answer must leave time to ask the next one within the deadline.
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
    cluster = Cluster(
        nodes,
        max_connections=max_connections,
        # Before it retries a pipeline, the library closes all connections to all servers.
        retry=Retry(NoBackoff(), 0),
        require_full_coverage=False,
        **_limits(deadline_s),
        **options,
    )
    return ClusterClient(cast("redis.asyncio.Redis", cluster), deadline_s, _told(deployment))
