"""Serving ASGI applications inside our own event loop, with a clean stop."""

import asyncio
import errno
import math
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, cast

import structlog
import uvicorn
from starlette.types import ASGIApp

from calltag.core.runtime.bounded_http import BoundedHttp, Malformed, bounded_http
from calltag.core.runtime.last_answer import with_last_answer
from calltag.core.runtime.placed_websocket import PlacedWebSocket, placed_websocket
from calltag.core.runtime.places import Places
from calltag.core.runtime.tls import ServerTls, TlsError

log = structlog.get_logger()
_BACKLOG: Final = 2_048
_LAST_ANSWERS_S: Final = 1.0
RENEWAL_S: Final = 2.0
"""How often the files of the certificate are looked at."""


class PortBusy(OSError):
    """The port cannot be had; the message says why (most often another process has it) and how to choose another."""


class ServerDied(RuntimeError):
    """The HTTP server ended without being told to."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The bounds of one server. A connection is closed when a head takes longer than `head_deadline_s` to come.

    With `permessage_deflate`, WebSockets are compressed if the client offers it (RFC 7692); the bound of a message is
    the one of its text.
    """

    max_websocket_message_bytes: int = 65_536
    keep_alive_s: int = 75
    head_deadline_s: float = 10.0
    trusted_proxies: tuple[str, ...] = ()
    """Whose X-Forwarded-For tells the client's address: addresses, networks, or `*`."""
    permessage_deflate: bool = False
    tls: ServerTls | None = None
    """TLS, and no plain HTTP."""


_USUAL_LIMITS: Final = ServerLimits()


def bound_socket(host: str, port: int, how_to_change: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises PortBusy.

    `how_to_change` is said when the port cannot be had, as in `--port`.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        busy = error.errno == errno.EADDRINUSE
        reason = f"port {port} is in use by another process" if busy else error.strerror
        raise PortBusy(f"cannot listen on {host}:{port}: {reason}; choose another with {how_to_change}") from None
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def serving(
    app: ASGIApp,
    listener: socket.socket,
    *,
    drain_timeout_s: float,
    limits: ServerLimits = _USUAL_LIMITS,
    places: Places | None = None,
    malformed: Malformed | None = None,
) -> AsyncIterator[int]:
    """Serve the application on the socket while the context is open; yields the port.

    On leaving, no connection is accepted any more, and requests under way have `drain_timeout_s` to finish, in whole
    seconds and at least one; what is left then is cancelled, and answered with HTTP 503. Meanwhile each connection is
    given one of `places`, if there are any left, and `malformed` is told of what is no request. Raises TlsError, and
    ServerDied inside the context.
    """
    port: int = listener.getsockname()[1]
    context = limits.tls.context() if limits.tls is not None else None
    http = bounded_http(limits.head_deadline_s, places, malformed)
    server = _Server(_configuration(app, drain_timeout_s, limits, context, http=http, ws=placed_websocket(places)))
    task = asyncio.create_task(server.serve([listener]), name=f"http-server-{port}")
    renewing = asyncio.create_task(_renew(limits.tls, context), name=f"certificate-{port}")
    try:
        with _interrupted_by_death_of(task):
            yield port
    finally:
        renewing.cancel()
        server.should_exit = True
        if not task.done():
            await task
        await _last_answers(server)
        listener.close()


class _Server(uvicorn.Server):
    """Uvicorn without its own handling of signals, which belongs to the service."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _last_answers(server: uvicorn.Server) -> None:
    """Let requests that the server has cancelled tell their clients."""
    cut_off = server.server_state.tasks
    if cut_off:
        await asyncio.wait(set(cut_off), timeout=_LAST_ANSWERS_S)


async def _renew(tls: ServerTls | None, context: ssl.SSLContext | None) -> None:
    """Take a certificate that was renewed; connections that stand go on with the old one."""
    if tls is None or context is None:
        return
    changed_at = tls.changed_at()
    while True:
        await asyncio.sleep(RENEWAL_S)
        seen_at = tls.changed_at()
        if seen_at in {0.0, changed_at}:
            continue
        try:
            tls.refresh(context)
        except TlsError as error:
            # As when it is only half written: what is shown stays, and the files are looked at again.
            log.warning("certificate_not_renewed", reason=str(error))
        else:
            changed_at = seen_at
            log.info("certificate_renewed")


def _configuration(
    app: ASGIApp,
    drain_timeout_s: float,
    limits: ServerLimits,
    context: ssl.SSLContext | None,
    *,
    http: type[BoundedHttp],
    ws: type[PlacedWebSocket],
) -> uvicorn.Config:
    return uvicorn.Config(
        with_last_answer(app),
        log_config=None,
        access_log=False,
        lifespan="off",
        http=http,
        ws=ws,
        ws_max_size=limits.max_websocket_message_bytes,
        ws_per_message_deflate=limits.permessage_deflate,
        timeout_graceful_shutdown=max(1, math.ceil(drain_timeout_s)),
        timeout_keep_alive=limits.keep_alive_s,
        backlog=_BACKLOG,
        server_header=False,
        proxy_headers=bool(limits.trusted_proxies),
        forwarded_allow_ips=",".join(limits.trusted_proxies),
        ssl_context_factory=None if context is None else lambda *_: context,
    )


@contextmanager
def _interrupted_by_death_of(task: asyncio.Task[None]) -> Iterator[None]:
    """Cancel what runs inside when the task ends, and turn that into ServerDied, the way asyncio.timeout works."""
    inside = cast("asyncio.Task[object]", asyncio.current_task())
    died = False

    def interrupt(_: asyncio.Task[None]) -> None:
        nonlocal died
        died = True
        inside.cancel()

    task.add_done_callback(interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if died and inside.uncancel() == 0:
            raise ServerDied("the HTTP server ended by itself") from _reason(task)
        raise
    finally:
        task.remove_done_callback(interrupt)


def _reason(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()
