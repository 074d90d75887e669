"""Opening a connection, with errors that operators understand."""

import asyncio
import random
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import aio_pika
from aio_pika.exceptions import AMQPError, AuthenticationError, ProbableAuthenticationError
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import ConnectionNotAllowed, InvalidFrameError
from yarl import URL

from calltag.core.bus.amqp.failing import normalize_amqp_errors
from calltag.core.bus.amqp.settings import AmqpSettings
from calltag.core.bus.ports import BusUnavailable
from calltag.core.runtime.tls import ClientTls, TlsError

_WHERE: Final = "CALLTAG_AMQP__URL says where it is"
_LONGEST: Final = 400


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


async def connect(settings: AmqpSettings, purpose: str) -> BrokerConnection:
    """Connect to the first address that accepts, in random order; `purpose` names the connection in RabbitMQ's
    management UI. Raises BusUnavailable, which says what to fix."""
    urls = random.sample(settings.urls, len(settings.urls))
    # A node that does not respond must not delay the others for long.
    deadline_s = settings.connect_deadline_s / min(len(urls), 2)
    reason = "there is no address in CALLTAG_AMQP__URL"
    for url in urls:
        try:
            return await _connect(settings, URL(url), purpose, deadline_s)
        except BusUnavailable as error:
            reason = str(error)
    raise BusUnavailable(f"none of {len(urls)} nodes; the last one tried: {reason}" if len(urls) > 1 else reason)


async def _connect(settings: AmqpSettings, address: URL, purpose: str, deadline_s: float) -> BrokerConnection:
    url = address.update_query(heartbeat=str(settings.heartbeat_s), name=f"calltag {purpose}")
    connection = BrokerConnection(url, await asyncio.to_thread(_context, settings, url))
    try:
        with normalize_amqp_errors(), _aborted_on_failure(connection):
            async with asyncio.timeout(deadline_s):
                await connection.connect()
    except TimeoutError:
        raise BusUnavailable(
            f"RabbitMQ did not answer at {url.host}:{url.port} within {deadline_s:g} s; {_WHERE}"
        ) from None
    except (AMQPError, OSError, RuntimeError) as error:
        raise BusUnavailable(_explained(error, url, settings.tls)) from error
    return connection


@contextmanager
def _aborted_on_failure(connection: BrokerConnection) -> Iterator[None]:
    """Abort the connection if the block fails."""
    try:
        yield
    except BaseException:
        connection.abort()
        raise


def _context(settings: AmqpSettings, url: URL) -> ssl.SSLContext | None:
    """Load the TLS context, again for each connection, as certificates are renewed while services run. Blocks."""
    if url.scheme != "amqps":
        return None
    try:
        return settings.tls.context()
    except TlsError as error:
        raise BusUnavailable(str(error)) from None


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
