"""HTTP server: listens, bounds the number of connections, and shuts down gracefully."""

import asyncio
import errno
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final

import structlog
from starlette.types import ASGIApp
from websockets.extensions.base import ServerExtensionFactory
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

from calltag.core.http.connection import READ_BYTES, Connection, ConnectionProtocol
from calltag.core.http.deadline_wheel import DeadlineWheel
from calltag.core.http.direct import RequestHandler
from calltag.core.http.request_parser import RequestLimit
from calltag.core.http.responses import Refusal
from calltag.core.http.scope import ProxyLogin, TrustedProxies
from calltag.core.process.tls import ServerTls, TlsError
from calltag.core.settings.sections import Http

_IPV6_NETWORK_BITS: Final = 64
"""A client may choose any address of its /64 (RFC 4291, 2.5.1)."""
log = structlog.get_logger()
_BACKLOG: Final = 2_048
_ACCEPTS_A_TURN: Final = 64
_REFUSED_AT_A_TIME: Final = 64
"""Maximum number of refused connections kept open for a moment, so that their clients can read the response."""
_REFUSED_FOR_S: Final = 1.0
_LAST_ANSWERS_S: Final = 1.0
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_PAUSE_S: Final = 1.0
_MAPPED: Final = "::ffff:"
RENEWAL_S: Final = 2.0
"""Seconds between two checks of the certificate's files."""
_DEFLATE: Final = (
    # A window of 4 KiB and little memory for each of thousands of connections.
    ServerPerMessageDeflateFactory(
        server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
    ),
)


@dataclass(slots=True)
class Places:
    """Counts open connections, in total and by network; those of trusted proxies count in the total only."""

    total: int
    per_address: int
    proxies: TrustedProxies
    taken: int = 0
    _by_network: Counter[str] = field(default_factory=Counter)

    def take(self, address: str) -> RequestLimit | None:
        """Count a new connection, or return the limit that refuses it."""
        if self.taken >= self.total:
            return RequestLimit.CONNECTIONS
        if not self.proxies.trusts(address):
            network = _network_of(address)
            if self._by_network[network] >= self.per_address:
                return RequestLimit.CONNECTIONS_PER_ADDRESS
            self._by_network[network] += 1
        self.taken += 1
        return None

    def release(self, address: str) -> None:
        """Release the place of a connection from this address."""
        self.taken -= 1
        if not self.proxies.trusts(address):
            network = _network_of(address)
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]


def _network_of(address: str) -> str:
    if ":" not in address:
        return address
    host_bits = 128 - _IPV6_NETWORK_BITS
    return str(IPv6Address(int(IPv6Address(address.partition("%")[0])) >> host_bits << host_bits))


class PortBusy(OSError):
    """The port cannot be bound; the message says why (usually another process uses it) and how to choose another."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits of one server. With `tls` it serves no plain HTTP."""

    limits: Http = field(default_factory=Http)
    max_connections: int = 20_000
    body_deadline_s: float = 10.0
    max_message_bytes: int = 65_536
    """Maximum size of a WebSocket message, uncompressed."""
    permessage_deflate: bool = False
    trusted_proxies: tuple[str, ...] = ()
    user_header: str = ""
    user_proxies: tuple[str, ...] = ()
    tls: ServerTls | None = None


def bound_socket(host: str, port: int, how_to_change: str) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises PortBusy.

    `how_to_change` is the option for the error message, such as `--port`.
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


class Server:
    """Serves requests with `direct` if that accepts them, else with `app`; both may be replaced.

    `refused` is called for each client that met a limit. While `is_stopping`, each response closes its connection, so
    that load balancers do not send requests on a connection that is being closed.
    """

    def __init__(
        self,
        app: ASGIApp,
        options: ServerOptions,
        refused: Callable[[RequestLimit], None] = lambda _: None,
        direct: RequestHandler | None = None,
    ) -> None:
        self.app = app
        self.direct = direct
        self.limits = options.limits
        self.refused = refused
        self.on_broken: Callable[[int], None] | None = None
        """Called with the id of each connection that ended badly: the client may lack the last bytes."""
        self.is_stopping = False
        self.body_deadline_s = options.body_deadline_s
        self.max_message_bytes = options.max_message_bytes
        self.websocket_extensions: Sequence[ServerExtensionFactory] = _DEFLATE if options.permessage_deflate else ()
        self.proxies = TrustedProxies(options.trusted_proxies)
        header = options.user_header
        self.proxy_login = ProxyLogin(header, options.user_proxies) if header else None
        per_address = options.limits.max_connections_per_address or max(1, options.max_connections // 4)
        self.places = Places(options.max_connections, per_address, self.proxies)
        self.read_view = memoryview(bytearray(READ_BYTES))
        """Read buffer shared by all connections, so that an idle one has none."""
        self.address: tuple[str, int]
        self.loop = asyncio.get_running_loop()
        self.deadlines = DeadlineWheel(self.loop)
        self._tls = options.tls
        self._context: ssl.SSLContext | None = None
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._refused: set[socket.socket] = set()
        self._all_closed = asyncio.Event()
        self._held_bytes = 0
        self._drain_until: float | None = None

    @asynccontextmanager
    async def serving(self, listener: socket.socket, *, drain_timeout_s: float) -> AsyncIterator[int]:
        """Serve on the socket while the context is open; yields the port. Raises TlsError.

        On exit it stops accepting, closes idle connections, and drains requests in flight for `drain_timeout_s`; then
        they are cancelled and answered with HTTP 503.
        """
        self.address = listener.getsockname()[:2]
        self._context = self._tls.context() if self._tls is not None else None
        renewal = self.loop.create_task(self._renew_certificate(), name=f"certificate-{self.address[1]}")
        self.loop.add_reader(listener, self._accept, listener)
        try:
            yield self.address[1]
        finally:
            renewal.cancel()
            self.loop.remove_reader(listener)
            listener.close()
            if self._drain_until is None:
                self.drain_within(drain_timeout_s)
            await self._stop()

    def handle_directly(self, direct: RequestHandler, on_broken: Callable[[int], None]) -> None:
        """Serve with `direct` what that accepts, and report connections that end badly."""
        self.direct, self.on_broken = direct, on_broken

    def close_after_responses(self) -> None:
        """Close each connection with its next response."""
        self.is_stopping = True

    def drain_within(self, seconds: float) -> None:
        """Begin to stop: requests in flight have that many seconds from now to finish."""
        self.close_after_responses()
        self._drain_until = self.loop.time() + seconds

    # Accepting

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._pause_accepting(listener, error)
                return
            peer: tuple[str, int] = (address[0].removeprefix(_MAPPED), address[1])
            limit = self.places.take(peer[0])
            if limit is not None:
                self._turn_away(accepted, limit)
                continue
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self.loop.create_task(self._open(accepted, peer), name="open-connection")
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _pause_accepting(self, listener: socket.socket, error: OSError) -> None:
        log.warning("accept_paused", reason=error.strerror, seconds=_ACCEPT_PAUSE_S)
        self.loop.remove_reader(listener)
        self.loop.call_later(_ACCEPT_PAUSE_S, self._resume_accepting, listener)

    def _resume_accepting(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self.loop.add_reader(listener, self._accept, listener)

    async def _open(self, accepted: socket.socket, peer: tuple[str, int]) -> None:
        deadlines = {}
        if self._context is not None:
            deadlines = {
                "ssl_handshake_timeout": self.limits.head_deadline_s,
                "ssl_shutdown_timeout": self.limits.close_deadline_s,
            }
        connection = Connection(self, peer)
        try:
            await self.loop.connect_accepted_socket(lambda: connection, accepted, ssl=self._context, **deadlines)
        except OSError:
            # Includes TLS errors and the timeout of the TLS handshake.
            if self._context is not None:
                self.refused(RequestLimit.TLS_DEADLINE)
        finally:
            if not connection.was_opened:
                self.places.release(peer[0])
                accepted.close()

    def _turn_away(self, accepted: socket.socket, limit: RequestLimit) -> None:
        self.refused(limit)
        if self._context is not None or len(self._refused) >= _REFUSED_AT_A_TIME:
            accepted.close()
            return
        most = self.places.total if limit is RequestLimit.CONNECTIONS else self.places.per_address
        whose = "" if limit is RequestLimit.CONNECTIONS else " of one address"
        text = f"{most} connections{whose} are served here already; try again in a moment"
        accepted.setblocking(False)
        with suppress(OSError):
            accepted.send(Refusal(503, text, retry_after_s=1).encoded())
            accepted.shutdown(socket.SHUT_WR)
        self._refused.add(accepted)
        self.loop.call_later(_REFUSED_FOR_S, self._forget, accepted)

    def _forget(self, refused: socket.socket) -> None:
        self._refused.discard(refused)
        refused.close()

    async def _renew_certificate(self) -> None:
        """Reload the certificate when its files change; open connections keep the old one."""
        tls = self._tls
        if tls is None:
            return
        changed_at = await asyncio.to_thread(tls.changed_at)
        while True:
            await asyncio.sleep(RENEWAL_S)
            seen_at = await asyncio.to_thread(tls.changed_at)
            if seen_at in {0.0, changed_at}:
                continue
            try:
                self._context = await asyncio.to_thread(tls.context)
            except TlsError as error:
                # The files may be half written: keep the old certificate, and check again.
                log.warning("certificate_reload_failed", reason=str(error))
            else:
                changed_at = seen_at
                log.info("certificate_reloaded")

    # Connections

    def opened(self, connection: Connection) -> None:
        """Register an open connection."""
        self.connections.add(connection)

    def lost(self, connection: Connection) -> None:
        """Remove a connection that has ended, and release its place."""
        self.connections.discard(connection)
        self.places.release(connection.peer[0])
        if not self.connections:
            self._all_closed.set()
        if connection.ended_badly and self.on_broken is not None:
            self.on_broken(connection.id)

    def hold(self, grown: int) -> bool:
        """Count received bytes that wait to be served; return whether the total is within the limit."""
        self._held_bytes += grown
        return self._held_bytes <= self.limits.max_received_bytes

    def start_task(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a request or WebSocket of the application; `tasks` holds it until it is done."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    # The end

    async def _stop(self) -> None:
        for handshake in list(self._handshakes):
            handshake.cancel()
        self._end_each(lambda protocol: protocol.shut_down())
        await self._closed_within((self._drain_until or 0) - self.loop.time())
        self._end_each(lambda protocol: protocol.give_up())
        for task in list(self.tasks):
            task.cancel()
        await self._closed_within(_LAST_ANSWERS_S)
        for connection in list(self.connections):
            connection.abort()
        for refused in list(self._refused):
            self._forget(refused)
        unfinished = {*self.tasks, *self._handshakes}
        if unfinished:
            await asyncio.wait(unfinished, timeout=_LAST_ANSWERS_S)

    def _end_each(self, end: Callable[[ConnectionProtocol], None]) -> None:
        for connection in list(self.connections):
            try:
                end(connection.protocol)
            except Exception:
                # A failure must not prevent the graceful close of the others.
                log.exception("shut_down_failed")
                connection.abort()

    async def _closed_within(self, timeout_s: float) -> None:
        self._all_closed.clear()
        if self.connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0, timeout_s)):
                    await self._all_closed.wait()


@asynccontextmanager
async def serving(
    app: ASGIApp,
    listener: socket.socket,
    *,
    drain_timeout_s: float,
    options: ServerOptions | None = None,
    direct: RequestHandler | None = None,
) -> AsyncIterator[int]:
    """Serve one application on one socket, as Server.serving does."""
    server = Server(app, options or ServerOptions(), direct=direct)
    async with server.serving(listener, drain_timeout_s=drain_timeout_s) as port:
        yield port
