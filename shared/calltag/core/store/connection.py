"""Redis client: one per process, a deadline for each exchange, and library errors mapped to StoreUnavailable."""

import asyncio
import ssl
import time
from collections import deque
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

from calltag.core.process.limits import MAX_BATCH_BYTES
from calltag.core.process.tls import ClientTls
from calltag.core.process.waiting import propagate_cancellation
from calltag.core.store.ports import StoreUnavailable

_BATCHES_UNDER_WAY: Final = 8
_LEAST_BYTES: Final = 1_024
_LATE: Final = 0.5
_QUICK: Final = 0.25
"""Fraction of the deadline, as is `_LATE`."""
USUAL_TLS: Final = ClientTls("CALLTAG_REDIS__TLS__")
Command = Sequence[str | bytes | int]
_MOST_KEPT: Final = 8
_packed: Final = cast("Callable[[Command], bytes]", pack_command)
"""Encode a command for the wire; hiredis packs more types than its stub declares."""


@dataclass(slots=True)
class ByteWindow:
    """Limit of the bytes in flight: initially, and at most, those of eight batches.

    An exchange larger than the window starts when nothing else is in flight. The order is first in, first out.
    """

    max_batch_bytes: int = MAX_BATCH_BYTES
    deadline_s: float = 1.0
    clock_s: Callable[[], float] = time.monotonic
    size_bytes: int = field(init=False)
    _under_way_bytes: int = 0
    _waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.size_bytes = _BATCHES_UNDER_WAY * self.max_batch_bytes

    @property
    def batch_bytes(self) -> int:
        """Return the current maximum size of a batch."""
        return min(self.max_batch_bytes, self.size_bytes)

    @asynccontextmanager
    async def exchange(self, size_bytes: int) -> AsyncIterator[None]:
        """Run one exchange that sends `size_bytes`, once the window has room for them."""
        await self._enter(size_bytes)
        began_s = self.clock_s()
        try:
            yield
        except StoreUnavailable:
            self._shrink()
            raise
        else:
            self._note(size_bytes, self.clock_s() - began_s)
        finally:
            self._under_way_bytes -= size_bytes
            self._admit()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[int]:
        """Run one read with a reply of at most the yielded bytes; a failure shrinks the window, a quick read proves
        nothing about larger ones."""
        max_bytes = self.batch_bytes
        try:
            yield max_bytes
        except StoreUnavailable:
            self.size_bytes = max(_LEAST_BYTES, min(self.size_bytes, max_bytes) // 2)
            raise

    async def _enter(self, size_bytes: int) -> None:
        if not self._waiting and self._has_room(size_bytes):
            self._under_way_bytes += size_bytes
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._under_way_bytes -= size_bytes
            self._admit()
            raise

    def _has_room(self, size_bytes: int) -> bool:
        return not self._under_way_bytes or self._under_way_bytes + size_bytes <= self.size_bytes

    def _admit(self) -> None:
        while self._waiting:
            size_bytes, admitted = self._waiting[0]
            if admitted.done():
                self._waiting.popleft()
            elif self._has_room(size_bytes):
                self._waiting.popleft()
                self._under_way_bytes += size_bytes
                admitted.set_result(None)
            else:
                return

    def _note(self, size_bytes: int, took_s: float) -> None:
        if took_s > _LATE * self.deadline_s:
            self._shrink()
        elif took_s < _QUICK * self.deadline_s and 2 * self._under_way_bytes >= self.size_bytes:
            # An exchange that left most of the window unused says nothing about a larger one.
            self.size_bytes = min(_BATCHES_UNDER_WAY * self.max_batch_bytes, self.size_bytes + size_bytes)

    def _shrink(self) -> None:
        """Shrink the window to half its size, or half the bytes in flight if those are fewer."""
        self.size_bytes = max(_LEAST_BYTES, min(self.size_bytes, self._under_way_bytes) // 2)


class Script(Protocol):
    """A Lua script that is called by its digest, and sent in full to a server that does not know it."""

    def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Awaitable[object]:
        """Run the script and return its reply. Raises StoreUnavailable."""
        ...


def script_source(name: str) -> str:
    """Return the source of a Lua script, with the functions of the prelude prepended if it uses them."""
    folder = resources.files("calltag.core.store").joinpath("lua")
    text = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    if not text.startswith("-- prelude\n"):
        return text
    return folder.joinpath("prelude.lua").read_text(encoding="utf-8") + text


def not_usable(error: Exception, reason: str = "") -> StoreUnavailable:
    """Map an error of the library to StoreUnavailable, without the arguments that Redis repeats in a refusal."""
    text = str(error).partition(", with args beginning with")[0]
    return StoreUnavailable(f"Redis is not usable: {reason or f'{type(error).__name__}: {text}'}")


def is_refusal(error: BaseException | None) -> bool:
    """Return whether the server of the key refused the command; a redirect or an unavailable slot is no refusal."""
    elsewhere = (ClusterDownError, MovedError, AskError, TryAgainError)
    return isinstance(error, ResponseError) and not isinstance(error, elsewhere)


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


@dataclass(frozen=True, slots=True)
class RedisClient:
    """A client that bounds each exchange by `deadline_s`."""

    connection: redis.asyncio.Redis
    deadline_s: float = 1.0
    tls: ClientTls | None = None
    """TLS files, to explain failures; None without TLS."""
    most_kept: int = 0
    """Maximum number of idle connections kept here. 0 where the pool must check each before reuse, as Sentinels may
    have named another master."""
    _traffic: _Traffic = field(default_factory=_Traffic, init=False, repr=False)
    _kept: list[AbstractConnection] = field(default_factory=list, init=False, repr=False)
    """Idle connections not returned to the pool: acquiring one there costs as much as the exchange itself."""

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[redis.asyncio.Redis]:
        """Bound the body by the deadline, and map its errors. Raises StoreUnavailable."""
        with self._traffic.exchange(), propagate_cancellation():
            try:
                async with asyncio.timeout(self.deadline_s):
                    yield self.connection
            except TimeoutError:
                raise StoreUnavailable(f"Redis did not answer within {self.deadline_s:g} s") from None
            except (RedisError, OSError, RuntimeError) as error:
                # uvloop raises RuntimeError for a write to a connection that was reset.
                by_tls = self.tls.explained(error) if self.tls is not None else None
                raise not_usable(error, f"no TLS: {by_tls}" if by_tls else "") from error

    async def run(self, pipeline: Pipeline) -> list[object]:
        """Execute a pipeline. Raises StoreUnavailable."""
        async with self.exchange():
            return list(await pipeline.execute())

    @property
    def has_slots(self) -> bool:
        """Return whether the keys of a script must be in one slot."""
        return False

    def server_of(self, _key: str) -> str:
        """Return the name of the server of a key, '' if unknown; commands to one server can share a round trip."""
        return ""

    async def find_servers(self) -> None:
        """Discover the servers for `server_of`, unless they are known. Raises StoreUnavailable."""

    async def answers(self, _server: str, commands: Sequence[Command]) -> list[object]:
        """Send commands to a server in one round trip; return the replies, an exception for each refused command.

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
        """Return a pipeline: one round trip per server, without a transaction."""
        return self.connection.pipeline(transaction=False)

    def script(self, name: str) -> Script:
        """Return the Lua script of that name."""
        source = script_source(name)
        digest = sha1(source.encode(), usedforsecurity=False).hexdigest()

        async def run(keys: Sequence[str], args: Sequence[str | bytes | int]) -> object:
            server = self.server_of(keys[0])
            [answer] = await self.answers(server, [("EVALSHA", digest, len(keys), *keys, *args)])
            if isinstance(answer, NoScriptError):
                # Also the case on a new master after a failover.
                [answer] = await self.answers(server, [("EVAL", source, len(keys), *keys, *args)])
            if isinstance(answer, Exception):
                raise not_usable(answer) from answer
            return answer

        return run

    async def scan(self, pattern: str, kind: str, page: int) -> AsyncIterator[bytes]:
        """Yield the keys of one type that match, from all masters; a key may appear twice."""
        cursor = 0
        while True:
            async with self.exchange() as connection:
                cursor, names = await connection.scan(cursor, match=pattern, count=page, _type=kind)
            for name in cast("list[bytes]", names):
                yield name
            if not cursor:
                return

    async def infos(self) -> Mapping[str, Mapping[str, object]]:
        """Return the reply to INFO of each master, by its address. Raises StoreUnavailable."""
        async with self.exchange() as connection:
            return {"": await connection.info()}

    async def run_and_wait(
        self, source: str, keys: Sequence[str], args: Sequence[str | bytes | int], *, replicas: int, timeout_ms: int
    ) -> tuple[object, int]:
        """Run a script that writes, then WAIT on the same connection for `replicas` to receive the write.

        Returns the script's reply, and the number of replicas that have the write. Raises StoreUnavailable.
        """
        pipeline = self.pipeline()
        pipeline.execute_command("EVAL", source, len(keys), *keys, *args)
        pipeline.execute_command("WAIT", replicas, timeout_ms)
        answer, acknowledged = await self.run(pipeline)
        return answer, cast("int", acknowledged)

    async def ping(self) -> bool:
        """Return whether the server answers within the deadline."""
        try:
            async with self.exchange() as connection:
                await connection.ping()
        except StoreUnavailable:
            return False
        return True

    async def close(self) -> None:
        """Close the connections after the exchanges in flight have ended, each by its deadline.

        A command in flight would replace a closed connection by a new one, which would leak.
        """
        await self._traffic.end()
        await self.connection.aclose()


async def _answered(connection: AbstractConnection, packed: bytes, count: int) -> list[object]:
    """Return the replies to commands, bypassing the library's pipeline, which checks each command for unused features.

    Commands that fail on a closed connection are retried once, whether or not the server has executed them: every
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
    """A client whose pool has no queue: callers wait here for a free connection."""

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
    """Return a client for a Redis URL. It connects on demand; a command on a broken connection is retried once.

    The retry is safe: a script that is not idempotent by nature recognises a request by an id in its arguments.
    """
    by_tls = url.startswith("rediss://")
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=deadline_s,
        # Each exchange has a deadline as a whole; the library would create a timer and a task per reply.
        socket_connect_timeout=deadline_s,
        socket_timeout=None,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=15,
        **(tls_options(tls) if by_tls else {}),
    )
    # Pipelines use the pool and cannot use connections kept here, so most stay in the pool.
    most_kept = min(_MOST_KEPT, max_connections // 8)
    return RedisClient(redis.asyncio.Redis.from_pool(pool), deadline_s, tls if by_tls else None, most_kept=most_kept)


def tls_options(tls: ClientTls) -> dict[str, object]:
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
