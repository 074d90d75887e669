"""The connection supervisor: one connection that is rebuilt whenever it breaks.

aio-pika's robust connection is not used: it restores consumers in the background, and a worker has to know when its
channel is gone. Here whatever stood on a broken connection fails, and its owner builds it anew.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError
from yarl import URL

from calltag.core.bus.amqp.settings import AmqpSettings
from calltag.core.bus.ports import BusUnavailable
from calltag.core.runtime.backoff import backoff_s

log = structlog.get_logger()
FAILURES: Final = (AMQPError, OSError, RuntimeError, asyncio.CancelledError, TimeoutError)
"""What operations on a broken connection raise. aiormq cancels what waits on a channel that closes."""
_CLOSE_DEADLINE_S: Final = 1.0


class Link:
    """One supervised connection; `purpose` names it in logs and in RabbitMQ's management."""

    def __init__(self, settings: AmqpSettings, purpose: str) -> None:
        self._settings = settings
        self._purpose = purpose
        self._connection: AbstractConnection | None = None
        self._closed = asyncio.Event()
        self._up = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether the connection stands."""
        return self._connection is not None and not self._connection.is_closed

    async def run(self) -> None:
        """Keep the connection for as long as the task runs."""
        delays = backoff_s(0.1, 5.0)
        try:
            while True:
                try:
                    await self._connect()
                except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
                    log.warning("broker_away", purpose=self._purpose, reason=f"{type(error).__name__}: {error}"[:200])
                    await asyncio.sleep(next(delays))
                    continue
                delays = backoff_s(0.1, 5.0)
                await self._closed.wait()
                log.warning("broker_lost", purpose=self._purpose)
                await self._drop()
        finally:
            await self._drop()

    async def _connect(self) -> None:
        self._closed = closed = asyncio.Event()
        url = URL(self._settings.url).update_query(
            heartbeat=str(self._settings.heartbeat_s), name=f"calltag {self._purpose}"
        )
        async with asyncio.timeout(self._settings.connect_deadline_s):
            connection = await aio_pika.connect(url)
        connection.close_callbacks.add(lambda *_: closed.set())
        self._connection = connection
        self._up.set()
        log.info("broker_connected", purpose=self._purpose)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._up.clear()
        if connection is not None:
            with suppress(*FAILURES[:3], TimeoutError):
                async with asyncio.timeout(_CLOSE_DEADLINE_S):
                    await connection.close()

    def broken(self) -> None:
        """The connection does not do what it should: build a new one."""
        self._closed.set()

    async def wait_up(self, deadline_s: float) -> None:
        """Wait for the connection. Raises BusUnavailable."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._up.wait()
        except TimeoutError:
            raise BusUnavailable(f"RabbitMQ was not reached within {deadline_s:g} s") from None

    async def open_channel(self, *, confirms: bool) -> AbstractChannel:
        """A new channel. Raises BusUnavailable at once if there is no connection."""
        connection = self._connection
        if connection is None or connection.is_closed:
            raise BusUnavailable("there is no connection to RabbitMQ")
        try:
            async with asyncio.timeout(self._settings.publish_deadline_s):
                channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
                await channel.initialize()
                return channel
        except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
            self.broken()
            raise BusUnavailable(f"RabbitMQ opened no channel: {type(error).__name__}") from error

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel for a consumer. It is closed without cancelling the consumer before: so the broker takes back, in
        order, what was not acknowledged, before the next consumer gets anything."""
        channel = await self.open_channel(confirms=False)
        try:
            yield channel
        finally:
            await self.close(channel)

    async def close(self, channel: AbstractChannel) -> None:
        """Close a channel; where that does not work, give the connection up: the broker then sees the channel go."""
        if channel.is_closed:
            return
        try:
            async with asyncio.timeout(_CLOSE_DEADLINE_S):
                await channel.close()
        except (AMQPError, OSError, RuntimeError, TimeoutError):
            self.broken()
