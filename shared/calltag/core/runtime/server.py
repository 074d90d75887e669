"""Serving ASGI applications inside our own event loop, with a clean stop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import uvicorn

_BACKLOG: Final = 2_048


class PortBusy(OSError):
    """The port is taken; the message says how to choose another."""


def bound_socket(host: str, port: int, how_to_change: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises PortBusy.

    `how_to_change` is said when the port is taken, as in `--port`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PortBusy(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another port with {how_to_change}"
        ) from None
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """Uvicorn without its own handling of signals, which belongs to the service."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: Any, listener: socket.socket, *, drain_timeout_s: float) -> AsyncIterator[int]:
    """Serve the application on the socket while the context is open; yields the port.

    On leaving, no connection is accepted any more, and requests under way have `drain_timeout_s` to finish.
    """
    port: int = listener.getsockname()[1]
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="websockets-sansio",
        timeout_graceful_shutdown=max(1, round(drain_timeout_s)),
        timeout_keep_alive=75,
        server_header=False,
        date_header=True,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve([listener]), name="http-server")
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn tells by a flag
            await asyncio.sleep(0.005)
        if task.done():
            await task
        yield port
    finally:
        server.should_exit = True
        await task
        listener.close()
