"""redis-py's RedisCluster without inline topology refresh: commands are only redirected.

The refresh inside a failed command closed connections in use to healthy servers, and was cut off half-way by the
command's deadline. The user of this client refreshes the topology in the background.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from redis import exceptions
from redis.asyncio.cluster import ClusterNode, NodesManager, PipelineCommand, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection

_PRIMARY: Final = "primary"
_TRY_AGAIN_S: Final = 0.05

if TYPE_CHECKING:
    _Base = Connection
else:
    _Base = object


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
