"""The connection supervisor: one connection that is rebuilt whenever it breaks.

aio-pika's robust connection is not used: it restores consumers in the background, and a worker has to know when its
channel is lost. Here all channels of a broken connection fail, and their owners open new ones.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from calltag.core.bus.amqp.connecting import BrokerConnection, connect
from calltag.core.bus.amqp.failing import FAILURES, normalize_amqp_errors
from calltag.core.bus.amqp.metrics import BusMetrics, Repair, RepairLog
from calltag.core.bus.amqp.settings import AmqpSettings
from calltag.core.bus.ports import BusUnavailable, NotConnected
from calltag.core.runtime.backoff import backoff_s
from calltag.core.runtime.restarting import restart_forever
from calltag.core.telemetry.conditions import Condition

log = structlog.get_logger()
_CLOSE_DEADLINE_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.1
_ANSWERS_WITHIN_S: Final = 0.05
"""aiormq reports an unblocked connection within a few loop iterations."""
_UNREACHABLE: Final = Condition("broker_unreachable", over="broker_reachable")


class Link:
    """One supervised connection; `purpose` names it in logs, metrics and RabbitMQ's management UI."""

    def __init__(self, settings: AmqpSettings, purpose: str, metrics: BusMetrics | None = None) -> None:
        self._settings = settings
        self._purpose = purpose
        self._metrics = metrics or RepairLog()
        self._connection: BrokerConnection | None = None
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
                except BusUnavailable as error:
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
        """Check the connection by opening a channel; reconnect if it does not respond."""
        if self.up and not await self.look():
            connection = self._connection
            with suppress(BusUnavailable):
                await self._close(await self.open_channel(confirms=False), connection)

    async def open_channel(self, *, confirms: bool) -> AbstractChannel:
        """Open a channel. Raises NotConnected at once if there is no connection, and BusUnavailable."""
        connection = self._connection
        if connection is None or connection.is_closed:
            raise NotConnected("there is no connection to RabbitMQ")
        try:
            with normalize_amqp_errors():
                async with asyncio.timeout(self._settings.publish_deadline_s):
                    channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
                    await channel.initialize()
                    return channel
        except FAILURES as error:
            if connection is self._connection and not await self.look():
                self.broken()
            raise BusUnavailable(f"RabbitMQ opened no channel: {type(error).__name__}") from error

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
