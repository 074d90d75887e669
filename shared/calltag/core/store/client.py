"""The connection to Redis: one client a process, every call with a deadline, errors in calltag's own words."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from importlib import resources
from typing import Final, Protocol, cast

import redis.asyncio
from hiredis import pack_command
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as ConnectionBroken

from calltag.core.runtime.cancelling import propagate_cancellation
from calltag.core.runtime.tls import ClientTls
from calltag.core.store.ports import StoreUnavailable

USUAL_TLS: Final = ClientTls("CALLTAG_REDIS__TLS__")
Command = Sequence[str | bytes | int]
_MOST_KEPT: Final = 8


class Script(Protocol):
    """A script that the server runs by its digest, sent whole where the server does not know it."""

    def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Awaitable[object]:
        """What the script answers; to be awaited. Raises StoreUnavailable."""
        ...


def script_source(name: str) -> str:
    """Return the text of the Lua script of that name, with the functions of the prelude if it uses them."""
    folder = resources.files("calltag.core.store").joinpath("lua")
    text = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    if not text.startswith("-- prelude\n"):
        return text
    return folder.joinpath("prelude.lua").read_text(encoding="utf-8") + text


def not_usable(error: Exception, reason: str = "") -> StoreUnavailable:
    """What callers are told of an error of the library; a server that refuses a command repeats its arguments."""
    text = str(error).partition(", with args beginning with")[0]
    return StoreUnavailable(f"Redis is not usable: {reason or f'{type(error).__name__}: {text}'}")


def is_refusal(error: BaseException | None) -> bool:
    """Whether the server that has the key refuses a command, rather than that another one has it, or none for now."""
    elsewhere = (ClusterDownError, MovedError, AskError, TryAgainError)
    return isinstance(error, ResponseError) and not isinstance(error, elsewhere)


class _Traffic:
    """The exchanges that are under way, and the end of all."""

    def __init__(self) -> None:
        self._under_way = 0
        self._ended: asyncio.Event | None = None

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """One exchange. Raises StoreUnavailable after the end."""
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
        """Let no more begin, and wait for those that are under way."""
        if self._ended is None:
            self._ended = asyncio.Event()
        self._note()
        await self._ended.wait()


@dataclass(frozen=True, slots=True)
class RedisClient:
    """A client with a deadline for each exchange, in seconds."""

    connection: redis.asyncio.Redis
    deadline_s: float = 1.0
    tls: ClientTls | None = None
    """Where the connections are by TLS."""
    most_kept: int = 0
    """How many connections may rest here. None where the pool has to look at each before it is used again, as Sentinels
    may have named another master meanwhile."""
    _traffic: _Traffic = field(default_factory=_Traffic, init=False, repr=False)
    _kept: list[AbstractConnection] = field(default_factory=list, init=False, repr=False)
    """Connections that rest and were not given back to the pool: to take one from there costs as much as to ask."""

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[redis.asyncio.Redis]:
        """Bound what is done inside by the deadline. Raises StoreUnavailable."""
        with self._traffic.exchange(), propagate_cancellation():
            try:
                async with asyncio.timeout(self.deadline_s):
                    yield self.connection
            except TimeoutError:
                raise StoreUnavailable(f"Redis did not answer within {self.deadline_s:g} s") from None
            except (RedisError, OSError, RuntimeError) as error:
                # The last is what uvloop has for who writes to a connection that was reset.
                by_tls = self.tls.explained(error) if self.tls is not None else None
                raise not_usable(error, f"no TLS: {by_tls}" if by_tls else "") from error

    async def run(self, pipeline: Pipeline) -> list[object]:
        """Execute a pipeline. Raises StoreUnavailable."""
        async with self.exchange():
            return list(await pipeline.execute())

    @property
    def has_slots(self) -> bool:
        """Whether a script may only touch keys of one slot."""
        return False

    def server_of(self, _key: str) -> str:
        """The name of the server that has a key, as far as is known; all of one server can share a round trip."""
        return ""

    async def find_servers(self) -> None:
        """See to it that `server_of` knows what it can know. Raises StoreUnavailable."""

    async def answers(self, _server: str, commands: Sequence[Command]) -> list[object]:
        """What a server answers to commands in one round trip; what it refuses is answered by an exception.

        Raises StoreUnavailable.
        """
        packed = b"".join(map(_packed, commands))
        async with self.exchange() as library:
            pool = library.connection_pool
            take: Callable[[], Awaitable[AbstractConnection]] = pool.get_connection
            connection = self._kept.pop() if self._kept else await take()
            try:
                answers = await _answered(connection, packed, len(commands))
            except BaseException:
                await pool.release(connection)
                raise
            if len(self._kept) < self.most_kept:
                self._kept.append(connection)
            else:
                await pool.release(connection)
            return answers

    def pipeline(self) -> Pipeline:
        """Commands that share round trips, one with each server; other clients' commands may come between them."""
        return self.connection.pipeline(transaction=False)

    def script(self, name: str) -> Script:
        """The Lua script of that name."""
        source = script_source(name)
        digest = sha1(source.encode(), usedforsecurity=False).hexdigest()

        async def run(keys: Sequence[str], args: Sequence[str | bytes | int]) -> object:
            server = self.server_of(keys[0])
            [answer] = await self.answers(server, [("EVALSHA", digest, len(keys), *keys, *args)])
            if isinstance(answer, NoScriptError):
                # A server that has just become the master does not know it, either.
                [answer] = await self.answers(server, [("EVAL", source, len(keys), *keys, *args)])
            if isinstance(answer, Exception):
                raise not_usable(answer) from answer
            return answer

        return run

    async def scan(self, pattern: str, kind: str, page: int) -> AsyncIterator[bytes]:
        """The keys that match, of one type, on all servers that have some; a key may come twice."""
        cursor = 0
        while True:
            async with self.exchange() as connection:
                cursor, names = await connection.scan(cursor, match=pattern, count=page, _type=kind)
            for name in cast("list[bytes]", names):
                yield name
            if not cursor:
                return

    async def infos(self) -> Mapping[str, Mapping[str, object]]:
        """What each server that has data says of itself, by its address. Raises StoreUnavailable."""
        async with self.exchange() as connection:
            return {"": await connection.info()}

    async def run_and_wait(
        self, source: str, keys: Sequence[str], args: Sequence[str | bytes | int], *, replicas: int, timeout_ms: int
    ) -> tuple[object, int]:
        """Run a script that writes, then wait on the same connection until so many replicas have what it wrote.

        Returns the script's answer, and how many have it. Raises StoreUnavailable.
        """
        pipeline = self.pipeline()
        pipeline.execute_command("EVAL", source, len(keys), *keys, *args)
        pipeline.execute_command("WAIT", replicas, timeout_ms)
        answer, acknowledged = await self.run(pipeline)
        return answer, cast("int", acknowledged)

    async def ping(self) -> bool:
        """Whether the server answers, within the deadline."""
        try:
            async with self.exchange() as connection:
                await connection.ping()
        except StoreUnavailable:
            return False
        return True

    async def close(self) -> None:
        """Close the connections when the exchanges under way are over, each by its deadline.

        A command that met a connection closed under it would make another one, which nobody would close.
        """
        await self._traffic.end()
        await self.connection.aclose()


_packed: Final = cast("Callable[[Command], bytes]", pack_command)
"""A command as the server takes it; the stub of the library knows fewer tuples than it packs."""


async def _answered(connection: AbstractConnection, packed: bytes, count: int) -> list[object]:
    """The answers to commands, past the library's pipeline: it would look at each command for what is not used here.

    What meets a connection that was closed is sent once more, whether the server has carried it out or not: every
    script and every command that this project sends is idempotent. Raises RedisError, OSError.
    """
    try:
        return await _exchanged(connection, packed, count)
    except (ConnectionBroken, RuntimeError):
        return await _exchanged(connection, packed, count)


async def _exchanged(connection: AbstractConnection, packed: bytes, count: int) -> list[object]:
    await connection.send_packed_command(packed)
    answers: list[object] = []
    for _ in range(count):
        try:
            answers.append(await connection.read_response())
        except ResponseError as refusal:
            answers.append(refusal)
    return answers


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


def redis_client(
    url: str, *, deadline_s: float = 1.0, max_connections: int = 64, tls: ClientTls = USUAL_TLS
) -> RedisClient:
    """A client for a Redis URL. Connections are made when needed; a command that met a broken one is tried once more.

    To try again is safe: a script that is not idempotent by nature recognises a request by an id in its arguments.
    """
    by_tls = url.startswith("rediss://")
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=deadline_s,
        # What an exchange may take is bounded as a whole; the library would make a timer of each answer, and a task.
        socket_connect_timeout=deadline_s,
        socket_timeout=None,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=15,
        **(tls_options(tls) if by_tls else {}),
    )
    # Those that rest are nobody else's: most have to be left to the pool.
    most_kept = min(_MOST_KEPT, max_connections // 8)
    return RedisClient(redis.asyncio.Redis.from_pool(pool), deadline_s, tls if by_tls else None, most_kept=most_kept)


def tls_options(tls: ClientTls) -> dict[str, object]:
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
