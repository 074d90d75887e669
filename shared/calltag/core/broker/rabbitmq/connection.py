"""The connection supervisor: one connection that is rebuilt whenever it breaks.

aio-pika's robust connection is not used: it restores consumers in the background, and a worker has to know when its
channel is lost. Here all channels of a broken connection fail, and their owners open new ones."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError, AuthenticationError, ProbableAuthenticationError
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import ConnectionNotAllowed, InvalidFrameError
from yarl import URL

from calltag.core.broker.ports import BrokerUnavailable, NotConnected
from calltag.core.broker.rabbitmq.metrics import BrokerObserver, Repair, RepairLog
from calltag.core.broker.rabbitmq.topology import RabbitMqSettings
from calltag.core.process.tls import ClientTls, TlsError
from calltag.core.process.waiting import backoff_s, propagate_cancellation, restart_forever, times_cancelled
from calltag.core.telemetry.conditions import Condition

FAILURES: Final = (AMQPError, OSError, RuntimeError, TimeoutError)
"""Errors that operations on a broken connection raise."""
log = structlog.get_logger()
_WHERE: Final = "CALLTAG_AMQP__URL says where it is"
_LONGEST: Final = 400
_CLOSE_DEADLINE_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.1
_ANSWERS_WITHIN_S: Final = 0.05
"""aiormq reports an unblocked connection within a few loop iterations."""
_UNREACHABLE: Final = Condition("broker_unreachable", over="broker_reachable")


@contextmanager
def normalize_amqp_errors() -> Iterator[None]:
    """Convert spurious errors of aiormq to ConnectionError, so that they end no task.

    On a closing channel aiormq raises CancelledError in tasks that nobody cancelled, or a bare Exception; while
    connecting, whatever ended the reader.
    """
    before = times_cancelled()
    try:
        with propagate_cancellation():
            yield
    except asyncio.CancelledError:
        if times_cancelled() > before:
            raise
        raise ConnectionError("the channel closed") from None
    except Exception as error:
        if type(error) is Exception or isinstance(error, StopAsyncIteration | EOFError):
            raise ConnectionError("the channel closed") from error
        raise


class _Transports(TransportFactory):
    """Creates the transport of a connection and keeps it, to abort it."""

    def __init__(self, made_by: TransportFactory) -> None:
        self._made_by = made_by
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._made_by.create(url, **kwargs)
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class BrokerConnection(aio_pika.Connection):
    """A connection that can be aborted in any state.

    aiormq loses a connection that is established at the moment when the connect is cancelled: it would never close.
    """

    def __init__(self, url: URL, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(url, ssl_context=ssl_context)
        self._transports = _Transports(TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory())
        self.kwargs["transport_factory"] = self._transports

    def abort(self) -> None:
        """Close the socket at once; all pending operations fail."""
        self._transports.abort()


async def connect(settings: RabbitMqSettings, purpose: str) -> BrokerConnection:
    """Connect to the first address that accepts, in random order; `purpose` names the connection in RabbitMQ's
    management UI. Raises BrokerUnavailable, which says what to fix."""
    urls = random.sample(settings.urls, len(settings.urls))
    # A node that does not respond must not delay the others for long.
    deadline_s = settings.connect_deadline_s / min(len(urls), 2)
    reason = "there is no address in CALLTAG_AMQP__URL"
    for url in urls:
        try:
            return await _connect(settings, URL(url), purpose, deadline_s)
        except BrokerUnavailable as error:
            reason = str(error)
    raise BrokerUnavailable(f"none of {len(urls)} nodes; the last one tried: {reason}" if len(urls) > 1 else reason)


async def _connect(settings: RabbitMqSettings, address: URL, purpose: str, deadline_s: float) -> BrokerConnection:
    url = address.update_query(heartbeat=str(settings.heartbeat_s), name=f"calltag {purpose}")
    connection = BrokerConnection(url, await asyncio.to_thread(_context, settings, url))
    try:
        with normalize_amqp_errors(), _aborted_on_failure(connection):
            async with asyncio.timeout(deadline_s):
                await connection.connect()
    except TimeoutError:
        raise BrokerUnavailable(
            f"RabbitMQ did not answer at {url.host}:{url.port} within {deadline_s:g} s; {_WHERE}"
        ) from None
    except (AMQPError, OSError, RuntimeError) as error:
        raise BrokerUnavailable(_explained(error, url, settings.tls)) from error
    return connection


@contextmanager
def _aborted_on_failure(connection: BrokerConnection) -> Iterator[None]:
    """Abort the connection if the block fails."""
    try:
        yield
    except BaseException:
        connection.abort()
        raise


def _context(settings: RabbitMqSettings, url: URL) -> ssl.SSLContext | None:
    """Load the TLS context, again for each connection, as certificates are renewed while services run. Blocks."""
    if url.scheme != "amqps":
        return None
    try:
        return settings.tls.context()
    except TlsError as error:
        raise BrokerUnavailable(str(error)) from None


def _explained(error: Exception, url: URL, tls: ClientTls) -> str:
    by_tls = tls.explained(error) if url.scheme == "amqps" else None
    if by_tls is not None:
        return f"no TLS with RabbitMQ ({url.host}:{url.port}): {by_tls}"
    match error:
        case AuthenticationError() | ProbableAuthenticationError():
            return "RabbitMQ refuses the user or password in CALLTAG_AMQP__URL"
        # aiormq does not handle the refusal of a virtual host, the only one possible at this point.
        case ConnectionNotAllowed() | InvalidFrameError() if "Connection.OpenOk" in str(error):
            host = url.path.removeprefix("/") or "/"
            return (
                f"RabbitMQ refuses the virtual host {host} in CALLTAG_AMQP__URL: it does not exist, or the user may "
                "not use it (rabbitmqctl list_vhosts, rabbitmqctl list_permissions)"
            )
        case _:
            detail = f"{type(error).__name__}: {error}"[:_LONGEST]
            return f"RabbitMQ is not reachable at {url.host}:{url.port} ({detail}); {_WHERE}"


class Link:
    """One supervised connection; `purpose` names it in logs, metrics and RabbitMQ's management UI."""

    def __init__(self, settings: RabbitMqSettings, purpose: str, metrics: BrokerObserver | None = None) -> None:
        self._settings = settings
        self._purpose = purpose
        self._metrics = metrics or RepairLog()
        self._connection: BrokerConnection | None = None
        self._probing: AbstractChannel | None = None
        self._closed = asyncio.Event()
        self._cause = Repair.CLOSED
        self.blocked = False
        """True if RabbitMQ blocks this connection, as of the last check; there are ten a second."""

    @property
    def up(self) -> bool:
        """True while the connection is open."""
        return self._connection is not None and not self._connection.is_closed

    async def run(self) -> None:
        """Connect, and reconnect with backoff, until cancelled."""
        delays = backoff_s(0.1, 5.0)
        try:
            while True:
                try:
                    await self._connect()
                except BrokerUnavailable as error:
                    _UNREACHABLE.fails(error, self._purpose)
                    await asyncio.sleep(next(delays))
                    continue
                delays = backoff_s(0.1, 5.0)
                await self._stand()
                log.warning("broker_lost", purpose=self._purpose, cause=self._cause)
                self._metrics.repaired(self._purpose, self._cause)
                await self._drop()
        finally:
            await self._drop()

    async def _connect(self) -> None:
        self._closed = closed = asyncio.Event()
        connection = await connect(self._settings, self._purpose)
        self._cause, self.blocked = Repair.CLOSED, False
        connection.close_callbacks.add(lambda *_: closed.set())
        self._connection = connection
        _UNREACHABLE.holds(self._purpose)
        log.info("broker_connected", purpose=self._purpose)

    async def _stand(self) -> None:
        """Wait until the connection ends; check meanwhile whether it is blocked."""
        looking = asyncio.create_task(restart_forever(self._keep_looking, "amqp-blocked"), name="amqp-blocked")
        try:
            await self._closed.wait()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _keep_looking(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # After the deadline aio_pika still waits until the connection is closed.
        aborting = asyncio.get_running_loop().call_later(_CLOSE_DEADLINE_S, connection.abort)
        try:
            with suppress(*FAILURES), normalize_amqp_errors():
                async with asyncio.timeout(_CLOSE_DEADLINE_S):
                    await connection.close()
        finally:
            aborting.cancel()
            connection.abort()

    def broken(self, cause: Repair = Repair.SILENT) -> None:
        """Give up a connection that does not work: `run` opens a new one."""
        if self._connection is not None and not self._closed.is_set():
            self._cause = cause
            self._closed.set()

    async def look(self) -> bool:
        """Return whether RabbitMQ blocks the connection, because of a memory or disk alarm."""
        connection = self._connection
        if connection is None or connection.transport is None:
            return False
        # aiormq has no callback for that: `ready` waits while the connection is blocked.
        asking = asyncio.ensure_future(connection.transport.ready())
        try:
            await asyncio.wait({asking}, timeout=_ANSWERS_WITHIN_S)
            blocked = not asking.done()
        finally:
            asking.cancel()
        if connection is not self._connection:
            return False
        if blocked != self.blocked:
            log.warning("broker_blocked" if blocked else "broker_unblocked", purpose=self._purpose)
        self.blocked = blocked
        return blocked

    async def probe(self) -> None:
        """Check the connection by a round trip on a channel that is kept for that; reconnect without an answer.

        A channel for each probe would leak: the library keeps its callbacks until the connection closes.
        """
        if not self.up or await self.look():
            return
        with suppress(BrokerUnavailable):
            if self._probing is None or self._probing.is_closed:
                self._probing = await self.open_channel(confirms=False)
            async with self._answering("answered no probe"):
                await self._probing.set_qos(prefetch_count=1)

    async def open_channel(self, *, confirms: bool) -> AbstractChannel:
        """Open a channel. Raises NotConnected at once if there is no connection, and BrokerUnavailable."""
        connection = self._connection
        if connection is None or connection.is_closed:
            raise NotConnected("there is no connection to RabbitMQ")
        async with self._answering("opened no channel"):
            channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
            await channel.initialize()
            return channel

    @asynccontextmanager
    async def _answering(self, failure: str) -> AsyncIterator[None]:
        """Give up a connection on which an exchange fails or is late, unless RabbitMQ blocks it."""
        connection = self._connection
        try:
            with normalize_amqp_errors():
                async with asyncio.timeout(self._settings.publish_deadline_s):
                    yield
        except FAILURES as error:
            if connection is self._connection and not await self.look():
                self.broken()
            raise BrokerUnavailable(f"RabbitMQ {failure}: {type(error).__name__}") from error

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """Open a channel for a consumer. It is closed without cancelling the consumer first, so that RabbitMQ requeues
        unacknowledged messages, in order, before the next consumer gets anything."""
        connection = self._connection
        channel = await self.open_channel(confirms=False)
        try:
            yield channel
        finally:
            await self._close(channel, connection)

    async def _close(self, channel: AbstractChannel, connection: AbstractConnection | None) -> None:
        """Close a channel of that connection; if that fails, give the connection up, which ends the channel on RabbitMQ
        too. A newer connection is not affected."""
        if channel.is_closed or connection is not self._connection:
            return
        try:
            with normalize_amqp_errors():
                async with asyncio.timeout(_CLOSE_DEADLINE_S):
                    await channel.close()
        except FAILURES:
            # A blocked connection is not broken: RabbitMQ does not read the close frame either.
            if connection is self._connection and not await self.look():
                self.broken()
