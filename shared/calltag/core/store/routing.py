"""Deployments of Redis, and the way to the server of a key: one server, a Redis Cluster, or Sentinels' master.

In a cluster, the masters are searched for beside the commands whenever one fails, for any reason: a frozen master or an
unreachable host refuses nothing, and the deadline of a command passes before anybody notices. One search runs at a
time, and closes no connection to a server that stays."""

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, Protocol, cast
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, ReadOnlyError, TryAgainError

from calltag.core.process.tls import ClientTls
from calltag.core.store.connection import CONNECTION_ERRORS, Connector, RedisServer, Request, is_refusal
from calltag.core.telemetry.conditions import Condition

Mode = Literal["single", "cluster", "sentinel"]
Address = tuple[str, int]
USUAL_TLS: Final = ClientTls("CALLTAG_REDIS__TLS__")
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_NOT_FOUND: Final = Condition("redis_cluster_not_found", over="redis_cluster_found")
_POOL_OPTIONS: Final = ("max_connections", "timeout")
_MOST_REDIRECTS: Final = 16
_TRY_AGAIN_S: Final = 0.05
_REFRESH_PAUSE_S: Final = 0.2
"""Pause between searches. A failure during the pause occurs again unless the last search has resolved it."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Location of Redis. For a cluster or Sentinels `url` may contain several addresses, separated by commas."""

    url: str = field(repr=False)
    mode: Mode = "single"
    service: str = "mymaster"
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: ClientTls = USUAL_TLS

    @property
    def uses_tls(self) -> bool:
        """Return whether connections use TLS."""
        return self.url.startswith("rediss://")

    def options(self) -> tuple[Callable[..., AbstractConnection], dict[str, Any]]:
        """Return the connection class and its options: user, password, database, TLS, and the address of one server."""
        parts = urlsplit(self.url)
        if self.mode != "single":
            login, at, _ = parts.netloc.rpartition("@")
            parts = parts._replace(netloc=f"{login}{at}")
        options = {name: value for name, value in parse_url(urlunsplit(parts)).items() if name not in _POOL_OPTIONS}
        kind = cast("Callable[..., AbstractConnection]", options.pop("connection_class", Connection))
        return kind, {**options, **(_tls_options(self.tls) if self.uses_tls else {})}


def addresses(url: str, default_port: int) -> list[Address]:
    """Return the hosts and ports of a URL like `redis://user:password@one:7000,two:7001,[::1]/0`. Raises ValueError."""
    places = urlsplit(url).netloc.rpartition("@")[2].split(",")
    found = [urlsplit(f"//{place.strip()}") for place in places]
    if any(not each.hostname for each in found):
        raise ValueError("each address needs a host")
    return [(each.hostname or "", each.port or default_port) for each in found]


class Router(Protocol):
    """Sends requests to the servers of their keys."""

    has_slots: bool
    """Whether the keys of a script must be in one slot."""

    def server_of(self, key: str) -> RedisServer | None:
        """Return the server of a key, None if unknown."""
        ...

    async def masters(self) -> Sequence[RedisServer]:
        """Return all servers that have keys. Raises RedisError."""
        ...

    async def send(self, requests: Sequence[Request]) -> None:
        """Send the requests, in one round trip for each server, and fill in the replies. Raises RedisError."""
        ...

    async def send_to(self, server: RedisServer, requests: Sequence[Request]) -> None:
        """Send the requests to one of the masters, and fill in the replies."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class SingleRouter:
    """One server."""

    has_slots = False

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def server_of(self, _key: str) -> RedisServer | None:
        return self._server

    async def masters(self) -> Sequence[RedisServer]:
        return [self._server]

    async def send(self, requests: Sequence[Request]) -> None:
        await self._server.exchange(requests)

    async def send_to(self, server: RedisServer, requests: Sequence[Request]) -> None:
        await server.exchange(requests)

    async def close(self) -> None:
        await self._server.close()


class SentinelRouter(SingleRouter):
    """The master that Sentinels name. They are asked for each new connection.

    Sentinels close the connections of a master that they demote. A write that a demoted master refuses closes the
    others here, and goes to the next master.
    """

    def __init__(self, sentinel: Sentinel, service: str, connect: Connector, max_connections: int) -> None:
        super().__init__(RedisServer("", self._connect, max_connections))
        self._sentinel = sentinel
        self._service = service
        self._connector = connect
        self._master: Address | None = None

    async def _connect(self) -> AbstractConnection:
        host, port = await self._sentinel.discover_master(self._service)
        if self._master not in (None, (host, port)):
            await self._server.close_idle()
        self._master = host, port
        return await self._connector(host=host, port=port)

    async def send(self, requests: Sequence[Request]) -> None:
        await super().send(requests)
        demoted = [each for each in requests if any(isinstance(reply, ReadOnlyError) for reply in each.replies)]
        if demoted:
            await self._server.close_idle()
            for each in demoted:
                each.replies.clear()
            await super().send(demoted)

    async def close(self) -> None:
        await super().close()
        await self._sentinel.aclose()


@dataclass(slots=True)
class _Routed:
    """A request on its way through a cluster."""

    request: Request
    server: RedisServer
    asking: bool = False

    def asked(self) -> Request:
        """Return what is sent: ASKING applies only to the next command of its connection."""
        if not self.asking:
            self.request.replies.clear()
            return self.request
        return Request(self.request.key, [("ASKING",), *self.request.commands], self.request.idempotent)


class ClusterRouter:
    """The masters of a Redis Cluster, with the slots that they reported last."""

    has_slots = True

    def __init__(self, configured: Sequence[Address], connect: Connector, max_connections: int) -> None:
        self._configured = configured
        self._connector = connect
        self._max_connections = max_connections
        self._slots: dict[int, RedisServer] = {}
        self._servers: dict[Address, RedisServer] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._next_refresh_s = 0.0

    def server_of(self, key: str) -> RedisServer | None:
        return self._slots.get(key_slot(key.encode()))

    async def masters(self) -> Sequence[RedisServer]:
        await self._wait_for_topology()
        return list(dict.fromkeys(self._slots.values()))

    async def send(self, requests: Sequence[Request]) -> None:
        await self._wait_for_topology()
        routed = [_Routed(each, server) for each in requests if (server := self._server_or_failure(each)) is not None]
        for _ in range(_MOST_REDIRECTS):
            groups: dict[RedisServer, list[_Routed]] = {}
            for each in routed:
                groups.setdefault(each.server, []).append(each)
            await _gather([self._exchange(server, group) for server, group in groups.items()])
            routed = [each for each in routed if self._is_redirected(each)]
            if not routed:
                return
            if any(isinstance(each.request.redirect, TryAgainError) for each in routed):
                await asyncio.sleep(_TRY_AGAIN_S)

    def _server_or_failure(self, request: Request) -> RedisServer | None:
        server = self.server_of(request.key)
        if server is None:
            # Servers may have found the slot an owner since the last search.
            self._refresh_later(None)
            failure = ClusterDownError("Hash slot not served")
            request.replies = [failure] * len(request.commands)
        return server

    async def _exchange(self, server: RedisServer, group: Sequence[_Routed]) -> None:
        asked = [each.asked() for each in group]
        await self.send_to(server, asked)
        for each, sent in zip(group, asked, strict=True):
            if each.asking:
                each.request.replies = sent.replies[1:]

    async def send_to(self, server: RedisServer, requests: Sequence[Request]) -> None:
        try:
            await server.exchange(requests)
        except BaseException:
            # The deadline has passed.
            self._refresh_later(server)
            raise
        replies = (reply for each in requests for reply in each.replies)
        if any(isinstance(reply, Exception) and not is_refusal(reply) for reply in replies):
            self._refresh_later(server)

    def _is_redirected(self, routed: _Routed) -> bool:
        """Note the server to which the request was redirected; return False if it was not."""
        redirect = routed.request.redirect
        if isinstance(redirect, AskError):
            routed.server = self._server_at((redirect.host or routed.server.name.rpartition(":")[0], redirect.port))
            routed.asking = type(redirect) is AskError
            if not routed.asking:
                self._slots[redirect.slot_id] = routed.server
        return redirect is not None

    def _server_at(self, address: Address) -> RedisServer:
        if address not in self._servers:
            host, port = address
            connect = partial(self._connector, host=host, port=port)
            self._servers[address] = RedisServer(f"{host}:{port}", connect, self._max_connections)
        return self._servers[address]

    async def _wait_for_topology(self) -> None:
        """Wait until the masters are known. A search may outlast the deadline of an exchange: it continues, and the
        next exchange uses its result."""
        if not self._slots:
            await asyncio.shield(self._begin_refresh(None))

    def _refresh_later(self, failed: RedisServer | None) -> None:
        """Start a search after a failure, of this server if known."""
        if asyncio.get_running_loop().time() >= self._next_refresh_s:
            self._begin_refresh(failed)

    def _begin_refresh(self, failed: RedisServer | None) -> asyncio.Task[None]:
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(failed), name="redis-cluster-search")
            self._refreshing.add_done_callback(self._refreshed)
        return self._refreshing

    async def _refresh(self, failed: RedisServer | None) -> None:
        """Ask one server after another for the slots, the failed one last. Raises RedisError, OSError."""
        # Exchanges without known masters may start a search during the pause; it runs after the pause.
        await asyncio.sleep(self._next_refresh_s - asyncio.get_running_loop().time())
        # From the configured host names: the addresses that they resolved to before may be obsolete.
        places = sorted(dict.fromkeys([*self._configured, *self._servers]), key=lambda each: self._is(each, failed))
        failure: Exception = ClusterDownError("no server has any slot")
        for place in places:
            try:
                slots = await self._ask(*place)
            except CONNECTION_ERRORS as error:
                failure = error
            else:
                if slots:
                    await self._use(slots)
                    return
        raise failure

    def _is(self, address: Address, server: RedisServer | None) -> bool:
        return server is not None and self._servers.get(address) is server

    async def _ask(self, host: str, port: int) -> Sequence[tuple[range, Address]]:
        """Return the slots of each master, in the view of one server. Raises RedisError, OSError, TimeoutError."""
        async with asyncio.timeout(self._connector.timeout_s):
            connection = await self._connector(host=host, port=port)
            try:
                await connection.send_command("CLUSTER", "SLOTS")
                return list(_slots(await connection.read_response(), host))
            finally:
                await connection.disconnect(nowait=True)

    async def _use(self, slots: Sequence[tuple[range, Address]]) -> None:
        self._slots = {slot: self._server_at(address) for numbers, address in slots for slot in numbers}
        masters = {address for _, address in slots}
        for address in self._servers.keys() - masters:
            await self._servers.pop(address).close()

    def _refreshed(self, search: asyncio.Task[None]) -> None:
        self._refreshing = None
        self._next_refresh_s = asyncio.get_running_loop().time() + _REFRESH_PAUSE_S
        # Retrieve the exception here, as the search may have no waiter.
        if not search.cancelled() and (error := search.exception()) is not None:
            _NOT_FOUND.fails(error)
        elif not search.cancelled():
            _NOT_FOUND.holds()

    async def close(self) -> None:
        if (search := self._refreshing) is not None:
            search.cancel()
            await asyncio.gather(search, return_exceptions=True)
        for server in self._servers.values():
            await server.close()


async def _gather(exchanges: Sequence[Any]) -> None:
    # Most requests go to one server, and `gather` of one costs more than an await.
    if len(exchanges) == 1:
        await exchanges[0]
    else:
        await asyncio.gather(*exchanges)


def _slots(reply: object, asked: str) -> Iterator[tuple[range, Address]]:
    """Parse the reply to CLUSTER SLOTS; a server that does not know its own host leaves it out."""
    for first, last, (host, port, *_), *_ in cast("list[tuple[int, int, tuple[bytes | None, int]]]", reply):
        yield range(first, last + 1), ((host or b"").decode() or asked, port)


def _tls_options(tls: ClientTls) -> dict[str, object]:
    """Return redis-py's TLS options; it builds a context per connection, so renewed certificates take effect."""
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


def router_of(deployment: Deployment, *, deadline_s: float, max_connections: int) -> Router:
    """Return the router of a deployment. It connects on demand."""
    kind, options = deployment.options()
    connector = Connector(options, deadline_s, kind)
    match deployment.mode:
        case "single":
            return SingleRouter(RedisServer("", connector, max_connections))
        case "sentinel":
            return SentinelRouter(_sentinel(deployment, deadline_s), deployment.service, connector, max_connections)
        case "cluster":
            return ClusterRouter(addresses(deployment.url, _PORT), connector, max_connections)


def _sentinel(deployment: Deployment, deadline_s: float) -> Sentinel:
    # A Sentinel that does not answer must leave time to ask the next one within the deadline.
    patience = deadline_s / 3
    make: Any = Sentinel
    sentinel: Sentinel = make(
        addresses(deployment.url, _SENTINEL_PORT),
        sentinel_kwargs={
            "username": deployment.sentinel_username,
            "password": deployment.sentinel_password,
            "socket_timeout": patience,
            "socket_connect_timeout": patience,
            "retry": Retry(NoBackoff(), 0),
            **({"ssl": True, **_tls_options(deployment.tls)} if deployment.uses_tls else {}),
        },
    )
    return sentinel
