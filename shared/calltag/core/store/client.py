"""Redis client: one per process, a deadline for each exchange, and library errors mapped to StoreUnavailable."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Protocol, cast

from calltag.core.process.tls import ClientTls
from calltag.core.process.waiting import propagate_cancellation
from calltag.core.store.connection import CONNECTION_ERRORS, Command, RedisServer, Request
from calltag.core.store.lua_script import LuaScript, lua_script
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.routing import USUAL_TLS, Deployment, Router, router_of

_IDEMPOTENT: Final = frozenset(
    {
        *("DEL", "EXISTS", "GET", "HDEL", "HEXISTS", "HGET", "HGETALL", "HLEN", "HMGET", "HSET", "HSETNX", "INFO"),
        *("MGET", "PEXPIRE", "PING", "SADD", "SCAN", "SCARD", "SET", "SMEMBERS", "SREM", "XRANGE", "ZADD", "ZREM"),
    }
)
"""Commands that may be sent again after a lost reply, with the options that this project uses."""


class Script(Protocol):
    """A Lua script that is called by its digest, and sent in full to a server that does not know it."""

    def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Awaitable[object]:
        """Run the script and return its reply. Raises StoreUnavailable."""
        ...


class _Traffic:
    """Counts the exchanges in flight, so that a shut-down can wait for them."""

    def __init__(self) -> None:
        self._under_way = 0
        self._ended: asyncio.Event | None = None

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Count one exchange. Raises StoreUnavailable after `end`."""
        if self._ended is not None:
            raise StoreUnavailable("the connection to Redis was closed")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._note()

    def _note(self) -> None:
        if self._ended is not None and not self._under_way:
            self._ended.set()

    async def end(self) -> None:
        """Refuse new exchanges, and wait for those in flight."""
        if self._ended is None:
            self._ended = asyncio.Event()
        self._note()
        await self._ended.wait()


class RedisClient:
    """Sends commands and scripts to the servers of their keys, each exchange within the deadline."""

    def __init__(self, router: Router, deadline_s: float = 1.0, tls: ClientTls | None = None) -> None:
        """Explain failures of TLS by these files; None without TLS."""
        self.router = router
        self.deadline_s = deadline_s
        self._tls = tls
        self._traffic = _Traffic()

    @property
    def has_slots(self) -> bool:
        """Return whether the keys of a script must be in one slot."""
        return self.router.has_slots

    def server_of(self, key: str) -> RedisServer | None:
        """Return the server of a key, None if unknown; commands to one server can share a round trip."""
        return self.router.server_of(key)

    @asynccontextmanager
    async def _exchange(self) -> AsyncIterator[None]:
        """Bound the body by the deadline, and map its errors. Raises StoreUnavailable."""
        with self._traffic.exchange(), propagate_cancellation():
            try:
                async with asyncio.timeout(self.deadline_s):
                    yield
            except TimeoutError:
                raise StoreUnavailable(f"Redis did not answer within {self.deadline_s:g} s") from None
            except CONNECTION_ERRORS as error:
                raise self.failure(error) from error

    async def send(self, requests: Sequence[Request]) -> None:
        """Send requests in one round trip for each server, and fill in the replies. Raises StoreUnavailable."""
        async with self._exchange():
            await self.router.send(requests)
            # Also the case on a new master after a failover.
            unknown = [each for each in requests if each.is_of_unknown_script]
            for each in unknown:
                each.send_in_full()
            if unknown:
                await self.router.send(unknown)

    def failure(self, error: Exception) -> StoreUnavailable:
        """Map an error of the library to StoreUnavailable, caused by it."""
        by_tls = self._tls.explained(error) if self._tls is not None else None
        failure = not_usable(error, f"no TLS: {by_tls}" if by_tls else "")
        failure.__cause__ = error
        return failure

    async def execute(self, *command: str | bytes | int) -> object:
        """Execute a command whose first argument is a key, and return its reply. Raises StoreUnavailable."""
        [reply] = await self.execute_all([command])
        return reply

    async def execute_all(self, commands: Iterable[Command]) -> list[object]:
        """Execute commands, in one round trip for each server, and return their replies.

        Those of one server run in order. Raises StoreUnavailable if one of them failed.
        """
        requests = list(map(request_of, commands))
        if requests:
            await self.send(requests)
        return [self._reply(each.replies[0]) for each in requests]

    def _reply(self, reply: object) -> object:
        if isinstance(reply, Exception):
            raise self.failure(reply)
        return reply

    def script(self, name: str) -> Script:
        """Return the Lua script of that name."""
        script = lua_script(name)

        async def run(keys: Sequence[str], args: Sequence[str | bytes | int]) -> object:
            return await self.run(script, keys, args)

        return run

    async def run(
        self,
        script: LuaScript,
        keys: Sequence[str],
        args: Sequence[str | bytes | int],
        following: Sequence[Request] = (),
    ) -> object:
        """Run a script and return its reply; the requests `following` run after it, in its exchange.

        Raises StoreUnavailable.
        """
        request = script.request(keys, args)
        await self.send([request, *following])
        return self._reply(request.replies[0])

    async def run_and_wait(
        self, script: LuaScript, keys: Sequence[str], args: Sequence[str | bytes | int], replicas: int, timeout_ms: int
    ) -> tuple[object, int]:
        """Run a script that writes, then WAIT on the same connection for `replicas` to receive the write.

        Returns the script's reply, and the number of replicas that have the write. Raises StoreUnavailable.
        """
        # Sent again only together: WAIT counts replicas for the writes of its own connection.
        commands = [script.in_full(keys, args), ("WAIT", replicas, timeout_ms)]
        request = Request(keys[0], commands, script.idempotent)
        await self.send([request])
        answer, acknowledged = map(self._reply, request.replies)
        return answer, cast("int", acknowledged)

    async def _at_masters(self, *command: str | int) -> Mapping[str, object]:
        """Execute a command at every master, and return the replies by its address. Raises StoreUnavailable."""
        async with self._exchange():
            masters = await self.router.masters()
            requests = [Request("", [command], command[0] in _IDEMPOTENT) for _ in masters]
            await asyncio.gather(
                *(self.router.send_to(master, [request]) for master, request in zip(masters, requests, strict=True))
            )
        return {master.name: self._reply(request.replies[0]) for master, request in zip(masters, requests, strict=True)}

    async def scan(self, pattern: str, kind: str, page: int) -> AsyncIterator[bytes]:
        """Yield the keys of one type that match, from all masters; a key may appear twice."""
        async with self._exchange():
            masters = await self.router.masters()
        for master in masters:
            cursor = 0
            while True:
                request = Request("", [("SCAN", cursor, "MATCH", pattern, "COUNT", page, "TYPE", kind)])
                async with self._exchange():
                    await self.router.send_to(master, [request])
                raw, names = cast("tuple[bytes, list[bytes]]", self._reply(request.replies[0]))
                for name in names:
                    yield name
                cursor = int(raw)
                if not cursor:
                    break

    async def infos(self) -> Mapping[str, Mapping[str, str]]:
        """Return the reply to INFO of each master, by its address. Raises StoreUnavailable."""
        return {name: _info(cast("bytes", reply)) for name, reply in (await self._at_masters("INFO")).items()}

    async def ping(self) -> bool:
        """Return whether every master answers: operations on a partition need its master."""
        try:
            await self._at_masters("PING")
        except StoreUnavailable:
            return False
        return True

    async def close(self) -> None:
        """Close the connections after the exchanges in flight have ended, each by its deadline.

        A command in flight would replace a closed connection by a new one, which would leak.
        """
        await self._traffic.end()
        await self.router.close()


def request_of(command: Command) -> Request:
    """Return the request of a command whose first argument is a key."""
    return Request(str(command[1]), [command], command[0] in _IDEMPOTENT)


def not_usable(error: Exception, reason: str = "") -> StoreUnavailable:
    """Map an error of the library to StoreUnavailable, without the arguments that Redis repeats in a refusal."""
    text = str(error).partition(", with args beginning with")[0]
    return StoreUnavailable(f"Redis is not usable: {reason or f'{type(error).__name__}: {text}'}")


def fields_of(reply: object) -> dict[bytes, bytes]:
    """Return the hash in a reply to HGETALL."""
    flat = cast("list[bytes]", reply)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _info(reply: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def open_redis(deployment: Deployment, *, deadline_s: float = 1.0, max_connections: int = 64) -> RedisClient:
    """Return a client for a deployment. It connects on demand; no server has to be available yet."""
    router = router_of(deployment, deadline_s=deadline_s, max_connections=max_connections)
    return RedisClient(router, deadline_s, deployment.tls if deployment.uses_tls else None)


def redis_client(
    url: str, *, deadline_s: float = 1.0, max_connections: int = 64, tls: ClientTls = USUAL_TLS
) -> RedisClient:
    """Return a client for the URL of one server."""
    return open_redis(Deployment(url, tls=tls), deadline_s=deadline_s, max_connections=max_connections)
