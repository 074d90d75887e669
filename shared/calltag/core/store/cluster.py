"""Redis Cluster client: refreshes the topology in the background whenever a master fails to answer, for any reason.

redis-py refreshes the topology only after a refused connection, inside the command that failed. A frozen master or an
unreachable host refuses nothing, and the command's deadline passes before the library notices. So the search runs here,
beside the commands, one at a time, and closes no connection to a healthy server. `cluster_servers.py` disables the
library's own refresh."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import redis.asyncio
from redis import exceptions
from redis.asyncio.cluster import ClusterNode, NodesManager, PipelineCommand, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ClusterDownError, RedisClusterException, RedisError, SlotNotCoveredError

from calltag.core.store.connection import Command, RedisClient, is_refusal
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.conditions import Condition

_PRIMARY: Final = "primary"
_TRY_AGAIN_S: Final = 0.05

if TYPE_CHECKING:
    _Base = Connection
else:
    _Base = object
_NOT_FOUND: Final = Condition("redis_cluster_not_found", over="redis_cluster_found")
_REDIRECTED: Final = (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError)
_REST_S: Final = 0.2
"""Pause between searches. A failure during the pause occurs again unless the last search has resolved it."""


class _Noticing(_Base):
    """A connection that reconnects before use if the server has closed it."""

    def should_reconnect(self) -> bool:
        reader = self._reader
        closed = reader is not None and (reader.at_eof() or reader.exception() is not None)
        return closed or super().should_reconnect()  # type: ignore[no-untyped-call]


class _PlainConnection(_Noticing, Connection):
    pass


class _TlsConnection(_Noticing, SSLConnection):
    pass


class _Server(ClusterNode):
    """A server and its connections. Callers wait for a free one, without delaying callers of other servers."""

    __slots__ = ("_places",)

    def __init__(self, host: str, port: int, server_type: str | None, **options: Any) -> None:
        ClusterNode.__init__(self, host, port, server_type, **options)
        by_tls = issubclass(self.connection_class, SSLConnection)
        self.connection_class = _TlsConnection if by_tls else _PlainConnection
        self._places = asyncio.Semaphore(self.max_connections)

    async def execute_command(self, *args: Any, asking: bool = False, **kwargs: Any) -> Any:
        async with self._places:
            return await ClusterNode.execute_command(self, *args, asking=asking, **kwargs)

    async def execute_pipeline(self, commands: list[PipelineCommand]) -> bool:
        """Execute a pipeline; retry it once if its connection was closed before any reply.

        The retry is safe: every command that this project sends is idempotent.
        """
        async with self._places:
            try:
                failed = await ClusterNode.execute_pipeline(self, commands)
            except exceptions.ConnectionError:
                pass
            else:
                if not isinstance(commands[0].result, exceptions.ConnectionError):
                    return failed
            # The server has probably closed the idle connections as well.
            for connection in self._free:
                connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
            return await ClusterNode.execute_pipeline(self, commands)


class _Servers(NodesManager):
    """Slots by server. A search for the masters keeps the connections to servers that stay in the cluster."""

    def set_nodes(self, old: dict[str, ClusterNode], new: dict[str, ClusterNode], remove_old: bool = False) -> None:
        kept = {name: old.pop(name) for name in new if name in old}
        for name, node in kept.items():
            node.server_type = new[name].server_type
        come: dict[str, ClusterNode] = {
            name: _Server(node.host, int(node.port), node.server_type, **self.connection_kwargs)
            for name, node in new.items()
            if name not in kept
        }
        NodesManager.set_nodes(self, old, come, remove_old)
        old.update(kept)

    def server_at(self, host: str, port: int) -> ClusterNode:
        """Return the server with that address, adding it if the last search did not report it."""
        if (known := self.get_node(host, port)) is not None:
            return known
        node = ClusterNode(host, port, _PRIMARY, **self.connection_kwargs)
        self.set_nodes(self.nodes_cache, {node.name: node})
        return self.nodes_cache[node.name]

    async def moved(self, error: exceptions.MovedError) -> None:
        """Record the new server of a slot."""
        self.server_at(error.host, error.port)
        self.slots_cache.setdefault(error.slot_id, [])
        await self.move_slot(error)


class Cluster(RedisCluster):
    """The servers of a Redis Cluster, with the slots that they reported last."""

    def __init__(self, startup_nodes: list[ClusterNode], **options: Any) -> None:
        RedisCluster.__init__(self, startup_nodes=startup_nodes, **options)
        made = self.nodes_manager
        # Search from the configured host names: the addresses that they resolved to before may be obsolete.
        self.servers = _Servers(
            self.startup_nodes, made.require_full_coverage, made.connection_kwargs, dynamic_startup_nodes=False
        )
        self.nodes_manager = self.servers

    @property
    def known(self) -> bool:
        """Return whether a search has ever found the masters."""
        return not self._initialize

    async def search(self, failed: str | None) -> None:
        """Search for the masters, asking the failed server last. Raises RedisError, RedisClusterException."""
        try:
            await self.nodes_manager.initialize(last_failed_node_name=failed)
        except IndexError:
            raise exceptions.ClusterDownError("no server has any slot") from None
        if self._initialize:
            await self._learn_commands()
            self._initialize = False

    async def _learn_commands(self) -> None:
        """Load the command table from the first master that answers."""
        failure: Exception = exceptions.ClusterDownError("there is no master")
        for node in self.get_primaries():
            try:
                await self.commands_parser.initialize(node)
            except (exceptions.RedisError, OSError) as error:
                failure = error
            else:
                return
        raise failure

    async def aclose(self) -> None:
        # The library closes nothing while no search has succeeded.
        self._initialize = False
        await RedisCluster.aclose(self)

    async def get_nodes_from_slot(self, command: str, *args: Any) -> list[ClusterNode]:
        try:
            nodes: list[ClusterNode] = await RedisCluster.get_nodes_from_slot(self, command, *args)
        except KeyError as error:
            raise exceptions.SlotNotCoveredError(f"slot {error} is not covered by the cluster") from None
        return nodes

    async def _execute_command(self, target_node: ClusterNode, *args: Any, **kwargs: Any) -> Any:
        call = PipelineCommand(0, *args, **kwargs)
        await self.send_on(target_node, call)
        if isinstance(call.result, Exception):
            raise call.result
        return call.result

    async def send_on(self, node: ClusterNode, call: PipelineCommand, *after: PipelineCommand) -> None:
        """Send a command, followed by `after` on the same connection; follow redirects to the server of its key.

        Raises RedisError, OSError.
        """
        asking: list[PipelineCommand] = []
        for _ in range(self.RedisClusterRequestTTL):
            # On one connection: ASKING applies only to the next command of its connection.
            await node.execute_pipeline([*asking, call, *after])
            match call.result:
                case exceptions.MovedError() as moved:
                    await self.servers.moved(moved)
                    node, asking = self.servers.server_at(moved.host, moved.port), []
                case exceptions.AskError() as ask:
                    node, asking = self.servers.server_at(ask.host, ask.port), [PipelineCommand(0, "ASKING")]
                case exceptions.TryAgainError():
                    await asyncio.sleep(_TRY_AGAIN_S)
                case _:
                    return
        raise exceptions.ClusterError(f"nobody answers {call.args[0]!r}, each redirects to another one")


class _Masters:
    """Background search for the masters."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._search: asyncio.Task[None] | None = None
        self._rests_until_s = 0.0

    async def known(self) -> None:
        """Wait until the masters are known. A search may outlast the deadline of an exchange: it continues, and the
        next exchange uses its result."""
        if not self._cluster.known:
            await asyncio.shield(self._searching(None))

    def doubt(self, failed: str | None = None) -> None:
        """Start a search after a failure, of the server of that name if known."""
        if asyncio.get_running_loop().time() >= self._rests_until_s:
            self._searching(failed)

    def _searching(self, failed: str | None) -> asyncio.Task[None]:
        if self._search is None:
            self._search = asyncio.create_task(self._look(failed), name="redis-cluster-search")
            self._search.add_done_callback(self._looked)
        return self._search

    async def _look(self, failed: str | None) -> None:
        # Exchanges without known masters may start a search during the pause; it runs after the pause.
        await asyncio.sleep(self._rests_until_s - asyncio.get_running_loop().time())
        await self._cluster.search(failed)

    def _looked(self, search: asyncio.Task[None]) -> None:
        self._search = None
        self._rests_until_s = asyncio.get_running_loop().time() + _REST_S
        # Retrieve the exception here, as the search may have no waiter.
        if not search.cancelled() and (error := search.exception()) is not None:
            _NOT_FOUND.fails(error)
        elif not search.cancelled():
            _NOT_FOUND.holds()

    async def end(self) -> None:
        """Cancel the search."""
        if (search := self._search) is not None:
            search.cancel()
            await asyncio.gather(search, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class ClusterClient(RedisClient):
    """A client for a Redis Cluster. Keys that belong together are in one slot; pipelines are split by server."""

    masters: _Masters = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "masters", _Masters(self.cluster))

    @property
    def cluster(self) -> Cluster:
        return cast("Cluster", self.connection)

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[redis.asyncio.Redis]:
        with self._traffic.exchange():
            try:
                async with RedisClient.exchange(self) as connection:
                    await self.masters.known()
                    yield connection
            except RedisClusterException as error:
                self.masters.doubt()
                raise StoreUnavailable(f"the Redis Cluster is not usable: {error}") from error
            except StoreUnavailable as error:
                if not is_refusal(error.__cause__):
                    self.masters.doubt()
                raise

    @property
    def has_slots(self) -> bool:
        return True

    def server_of(self, key: str) -> str:
        try:
            node = self.cluster.get_node_from_key(key)
        except SlotNotCoveredError:
            node = None
        return node.name if node is not None else ""

    async def find_servers(self) -> None:
        if not self.cluster.known:
            async with self.exchange():
                pass

    async def answers(self, server: str, commands: Sequence[Command]) -> list[object]:
        calls = [PipelineCommand(number, *command) for number, command in enumerate(commands)]
        async with self.exchange():
            node = self.cluster.get_node(node_name=server) if server else None
            if node is not None:
                await _send(node, calls)
            await self._send_after(calls)
            # Commands redirected again, or of an unknown server, follow redirects one by one.
            for call in calls:
                if node is None or isinstance(call.result, _REDIRECTED):
                    call.result = await self._followed(call)
        if any(isinstance(call.result, Exception) and not is_refusal(call.result) for call in calls):
            self.masters.doubt(server)
        return [call.result for call in calls]

    async def _send_after(self, calls: Sequence[PipelineCommand]) -> None:
        """Follow MOVED redirects, with one round trip per target server."""
        elsewhere: dict[tuple[str, int], list[PipelineCommand]] = {}
        for call in calls:
            if isinstance(moved := call.result, exceptions.MovedError):
                await self.cluster.servers.moved(moved)
                elsewhere.setdefault((moved.host, moved.port), []).append(call)
        for (host, port), group in elsewhere.items():
            try:
                await _send(self.cluster.servers.server_at(host, port), group)
            except (RedisError, OSError) as error:
                for call in group:
                    call.result = error

    async def _followed(self, call: PipelineCommand) -> object:
        try:
            return await self.cluster.execute_command(*call.args)
        except (RedisError, RedisClusterException) as error:
            return error

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
        """Return whether every master answers: operations on a partition need its master."""
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
            if node is None:
                raise ClusterDownError("the slot has no server")
            # Both on one connection, and retried only together: WAIT counts replicas for the writes of its own
            # connection.
            await self.cluster.send_on(node, script, wait)
            for command in (script, wait):
                if isinstance(command.result, Exception):
                    raise command.result
        return script.result, cast("int", wait.result)

    async def close(self) -> None:
        # Exchanges in flight may wait for a search.
        await self._traffic.end()
        await self.masters.end()
        await self.connection.aclose()


async def _send(node: ClusterNode, calls: list[PipelineCommand]) -> None:
    """Send commands to a server; retry those that a closed connection left unanswered. Raises RedisError, OSError."""
    await node.execute_pipeline(calls)
    unanswered = [call for call in calls if isinstance(call.result, exceptions.ConnectionError)]
    if 0 < len(unanswered) < len(calls):
        await node.execute_pipeline(unanswered)


def _page(raw: object) -> tuple[int, list[bytes]]:
    cursor, names = cast("tuple[int, list[bytes]]", raw)
    return int(cursor), names
