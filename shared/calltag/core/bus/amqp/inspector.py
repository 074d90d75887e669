"""Inspection of queues and repair of routes, on a channel apart from publishing and consuming."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aio_pika.abc import AbstractChannel

from calltag.core.bus.amqp.failing import FAILURES, normalize_amqp_errors
from calltag.core.bus.amqp.link import Link
from calltag.core.bus.ports import BusUnavailable

T = TypeVar("T")


class Inspector:
    """Sends requests to RabbitMQ on one channel of a link, which stays open."""

    def __init__(self, link: Link, deadline_s: float) -> None:
        self._link = link
        self._deadline_s = deadline_s
        self._channel: AbstractChannel | None = None
        self._asking = asyncio.Lock()

    async def depth(self, queue: str) -> int:
        """Return the number of undelivered messages of a queue. Raises BusUnavailable."""
        found = await self.ask(queue, lambda channel: channel.declare_queue(queue, passive=True))
        return found.declaration_result.message_count or 0

    async def ask(self, name: str, question: Callable[[AbstractChannel], Awaitable[T]]) -> T:
        """Run `question` on the channel; `name` is its exchange or queue in errors. Raises BusUnavailable."""
        async with self._asking:
            try:
                with normalize_amqp_errors():
                    async with asyncio.timeout(self._deadline_s):
                        if self._channel is None or self._channel.is_closed:
                            self._channel = await self._link.open_channel(confirms=False)
                        return await question(self._channel)
            except FAILURES as error:
                self._channel = None
                raise BusUnavailable(f"{name} cannot be inspected: {type(error).__name__}") from error
