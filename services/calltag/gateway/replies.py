"""Replies of workers: the gateway's inbox, and the requests that wait for outcomes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from calltag.core.bus.ports import Bus, BusError, NodeId
from calltag.core.domain.ids import OperationId
from calltag.core.runtime.backoff import backoff_s
from calltag.core.telemetry.conditions import Condition
from calltag.core.wire.messages import NODE, OperationReply, WireError

log = structlog.get_logger()
_INTERRUPTED: Final = Condition("replies_interrupted", over="replies_received_again", level="info")


class Replies:
    """Passes each reply to the requests that wait for it; drops replies that no request waits for.

    Requests stop waiting once `closing` is set.
    """

    def __init__(self, node: NodeId, closing: asyncio.Event) -> None:
        self.node = node
        self.closing = closing
        self.reachable = False
        """True once the inbox was opened: replies can arrive. The inbox survives a broken connection."""
        self._waiting: dict[OperationId, set[asyncio.Future[OperationReply]]] = {}

    @asynccontextmanager
    async def expected(self, operation_id: OperationId) -> AsyncIterator[asyncio.Future[OperationReply]]:
        """Provide a future for the reply; enter before the operation is published."""
        future: asyncio.Future[OperationReply] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(operation_id, set()).add(future)
        try:
            yield future
        finally:
            future.cancel()
            self._waiting[operation_id].discard(future)
            if not self._waiting[operation_id]:
                del self._waiting[operation_id]

    async def run(self, bus: Bus) -> None:
        """Receive replies until the task is cancelled."""
        delays = backoff_s(0.05, 2.0)
        while True:
            try:
                async with bus.inbox(self.node) as inbox:
                    self.reachable = True
                    _INTERRUPTED.holds()
                    while True:
                        self._give(await inbox.receive())
                        delays = backoff_s(0.05, 2.0)
            except BusError as error:
                _INTERRUPTED.fails(error)
            await asyncio.sleep(next(delays))

    def _give(self, body: bytes) -> None:
        try:
            replies = NODE.decode(body).replies
        except WireError as error:
            log.error("reply_unreadable", reason=str(error))
            return
        for reply in replies:
            for future in self._waiting.get(reply.operation_id, ()):
                if not future.done():
                    future.set_result(reply)
