"""Redis Cluster client: refreshes the topology in the background whenever a master fails to answer, for any reason.

redis-py refreshes the topology only after a refused connection, inside the command that failed. A frozen master or an
unreachable host refuses nothing, and the command's deadline passes before the library notices. So the search runs here,
beside the commands, one at a time, and closes no connection to a healthy server. `cluster_servers.py` disables the
library's own refresh.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, cast

import redis.asyncio
from redis import exceptions
from redis.asyncio.cluster import ClusterNode, PipelineCommand
from redis.exceptions import ClusterDownError, RedisClusterException, RedisError, SlotNotCoveredError

from calltag.core.store.client import Command, RedisClient, is_refusal
from calltag.core.store.cluster_servers import Cluster
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.conditions import Condition

_NOT_FOUND: Final = Condition("redis_cluster_not_found", over="redis_cluster_found")
_REDIRECTED: Final = (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError)
_REST_S: Final = 0.2
"""Pause between searches. A failure during the pause occurs again unless the last search has resolved it."""


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
