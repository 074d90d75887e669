"""Looking at queues: how much waits in them."""

import asyncio

from aio_pika.abc import AbstractChannel

from calltag.core.bus.amqp.failing import FAILURES, told_plainly
from calltag.core.bus.amqp.link import Link
from calltag.core.bus.ports import BusUnavailable


class Inspector:
    """Asks the broker on one channel of a link, which is kept."""

    def __init__(self, link: Link, deadline_s: float) -> None:
        self._link = link
        self._deadline_s = deadline_s
        self._channel: AbstractChannel | None = None
        self._asking = asyncio.Lock()

    async def depth(self, queue: str) -> int:
        """How many messages of a queue are not delivered yet. Raises BusUnavailable."""
        async with self._asking:
            try:
                with told_plainly():
                    async with asyncio.timeout(self._deadline_s):
                        if self._channel is None or self._channel.is_closed:
                            self._channel = await self._link.open_channel(confirms=False)
                        found = await self._channel.declare_queue(queue, passive=True)
            except FAILURES as error:
                self._channel = None
                raise BusUnavailable(f"{queue} cannot be looked at: {type(error).__name__}") from error
            return found.declaration_result.message_count or 0
