"""Connections to one Redis server: requests share a round trip, and are sent again only where that is safe."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, Connection
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

Command = Sequence[str | bytes | int]
Connect = Callable[[], Awaitable[AbstractConnection]]
_CHECKED_AFTER_S: Final = 15.0
"""Seconds of idleness after which a connection is checked before it is used."""
CONNECTION_ERRORS: Final = (RedisError, OSError, RuntimeError)
"""Errors of a connection; uvloop raises RuntimeError for a write to one that was reset."""
_REDIRECTS: Final = (MovedError, AskError, TryAgainError)
_packed: Final = cast("Callable[[Command], bytes]", pack_command)
"""Encode a command for the wire; hiredis packs more types than its stub declares."""


def is_refusal(error: object) -> bool:
    """Return whether the server of the key refused the command; a redirect or an unavailable slot is no refusal."""
    return isinstance(error, ResponseError) and not isinstance(error, (ClusterDownError, *_REDIRECTS))


@dataclass(slots=True)
class Request:
    """Commands that are sent in a row on one connection, and their replies: an exception for each that failed.

    `idempotent` says whether the commands may be sent again after their reply was lost; `in_full` is sent instead to a
    server that does not know the script that the command names by its digest.
    """

    key: str
    commands: Sequence[Command] = field(repr=False)
    idempotent: bool = True
    in_full: Command | None = field(default=None, repr=False)
    replies: list[object] = field(default_factory=list, repr=False)

    @property
    def answered(self) -> bool:
        """Return whether every command has a reply."""
        return len(self.replies) == len(self.commands)

    @property
    def is_of_unknown_script(self) -> bool:
        """Return whether the server did not know the script."""
        return self.in_full is not None and isinstance(self.replies[0], NoScriptError)

    def send_in_full(self) -> None:
        """Name the script by its source from now on."""
        if self.in_full is not None:
            self.commands, self.in_full, self.replies = [self.in_full], None, []

    @property
    def redirect(self) -> MovedError | AskError | TryAgainError | None:
        """Return the redirect to another server of a cluster, if the first command was redirected."""
        first = self.replies[0]
        return first if isinstance(first, _REDIRECTS) else None


@dataclass(frozen=True, slots=True)
class Connector:
    """Opens connections with the options of a URL, in redis-py's names."""

    options: Mapping[str, Any]
    timeout_s: float
    kind: Callable[..., AbstractConnection] = Connection

    async def __call__(self, **address: str | int) -> AbstractConnection:
        """Open a connection. Raises RedisError, OSError."""
        options: dict[str, Any] = {
            "socket_connect_timeout": self.timeout_s,
            **self.options,
            **address,
            # Replies as every server gives them.
            "protocol": 2,
            # Each exchange has a deadline as a whole; the library would create a timer and a task per reply.
            "socket_timeout": None,
            "retry": Retry(NoBackoff(), 1),
            # The library would connect again to the same address, whichever server is the master by then.
            "health_check_interval": 0,
        }
        connection = self.kind(**options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection


class RedisServer:
    """One server, and the connections to it; callers wait for a free one."""

    def __init__(self, name: str, connect: Connect, max_connections: int) -> None:
        self.name = name
        self._connect = connect
        self._permits = asyncio.Semaphore(max_connections)
        self._idle: list[tuple[AbstractConnection, float]] = []
        """Connections, and the time at which each was returned."""
        self._is_closed = False

    async def exchange(self, requests: Sequence[Request]) -> None:
        """Send the requests in one round trip, and fill in the replies.

        Idempotent requests whose replies are lost are sent once more. The replies of others, and of those that fail
        again, are the error.
        """
        async with self._permits:
            failure = await self._attempt(requests)
            if failure is None:
                return
            # The server has probably closed the idle connections as well.
            await self.close_idle()
            lost = [each for each in requests if not each.answered]
            again = [each for each in lost if each.idempotent]
            for each in again:
                each.replies.clear()
            if again:
                failure = await self._attempt(again) or failure
            for each in lost:
                if not each.answered:
                    each.replies = [failure] * len(each.commands)

    async def _attempt(self, requests: Sequence[Request]) -> Exception | None:
        """Send the requests once; return the error if the connection failed."""
        try:
            connection = await self._take() or await self._connect()
            idle = self._idle
            try:
                await _exchanged(connection, requests)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
        except CONNECTION_ERRORS as error:
            return error
        except BaseException:
            # The deadline has passed: each idle connection to a frozen server would cost another one.
            await self.close_idle()
            raise
        if idle is self._idle and not self._is_closed:
            idle.append((connection, _now_s()))
        else:
            await connection.disconnect(nowait=True)
        return None

    async def _take(self) -> AbstractConnection | None:
        """Return an idle connection that is usable, if there is one."""
        while self._idle:
            connection, returned_s = self._idle.pop()
            if _now_s() - returned_s < _CHECKED_AFTER_S or await _is_alive(connection):
                return connection
        return None

    async def close_idle(self) -> None:
        """Close the idle connections now, and those in use when they are returned."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Close all connections, those in use when they are returned."""
        self._is_closed = True
        await self.close_idle()


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _is_alive(connection: AbstractConnection) -> bool:
    """Return whether a connection answers; close it if it does not."""
    try:
        await connection.send_command("PING")
        await connection.read_response()
    except CONNECTION_ERRORS:
        await connection.disconnect(nowait=True)
        return False
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return True


async def _exchanged(connection: AbstractConnection, requests: Sequence[Request]) -> None:
    """Bypass the library's pipeline, which checks each command for unused features. Raises RedisError, OSError."""
    await connection.send_packed_command(b"".join(_packed(command) for each in requests for command in each.commands))
    for each in requests:
        for _ in each.commands:
            try:
                each.replies.append(await connection.read_response())
            except ResponseError as refusal:
                each.replies.append(refusal)
