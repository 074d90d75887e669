"""Publication of operations with publisher confirms, and the wait for their outcomes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from calltag.core.broker.ports import Broker, BrokerError, BrokerRefused, BrokerUnavailable, NodeId, partition_of
from calltag.core.contracts.operations import NODE, OPERATION, OperationMessage, OperationReply, WireError
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import Operation
from calltag.core.http.admission_queue import release_slot, retry_after_s
from calltag.core.process.waiting import backoff_s, run_until
from calltag.core.telemetry.conditions import Condition
from calltag.gateway.backlog import Backlog
from calltag.gateway.errors import BackendUnavailable, Incomplete
from calltag.gateway.metrics import GatewayLimit, GatewayMetrics

log = structlog.get_logger()
_INTERRUPTED: Final = Condition("replies_interrupted", over="replies_received_again", level="info")
_NOT_PUBLISHED: Final = Condition("operations_not_published")
_OUTAGES: Final = (BrokerUnavailable, BrokerRefused)


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

    async def run(self, broker: Broker) -> None:
        """Receive replies until the task is cancelled."""
        delays = backoff_s(0.05, 2.0)
        while True:
            try:
                async with broker.inbox(self.node) as inbox:
                    self.reachable = True
                    _INTERRUPTED.holds()
                    while True:
                        self._give(await inbox.receive())
                        delays = backoff_s(0.05, 2.0)
            except BrokerError as error:
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


@dataclass(slots=True)
class OperationPublisher:
    """Publishes operations: at most `max_in_flight` unconfirmed ones, and none while the backlog is too long.

    At most `max_waiting` requests wait for outcomes.
    """

    broker: Broker
    replies: Replies
    metrics: GatewayMetrics
    backlog: Backlog
    partitions: int
    max_in_flight: int = 2_000
    max_waiting: int = 2_000
    _in_flight: int = 0
    _waiting: int = 0

    async def submit(self, operations: Sequence[Operation], wait_s: float | None) -> Sequence[OperationReply]:
        """Publish operations, in order per key; return once all are confirmed.

        With `wait_s`, return their outcomes, successes and refusals. Raises Incomplete after that time, or when the
        gateway stops; BackendUnavailable: some operations may have been published then, and a retry has no second
        effect.
        """
        if wait_s is None:
            await self._publish(operations, reply_to=None)
            return ()
        if self._waiting >= self.max_waiting:
            raise self._crowded(GatewayLimit.WAITING, f"{self._waiting} requests wait for outcomes")
        self._waiting += 1
        try:
            return await self._outcomes(operations, wait_s)
        finally:
            self._waiting -= 1

    async def _outcomes(self, operations: Sequence[Operation], wait_s: float) -> Sequence[OperationReply]:
        async with AsyncExitStack() as stack:
            awaited = [await stack.enter_async_context(self.replies.expected(each.id)) for each in operations]
            await self._publish(operations, reply_to=self.replies.node)
            with release_slot():
                known = await run_until(self.replies.closing, _all(awaited), within_s=wait_s)
            if known is not None:
                return known
            if self.replies.closing.is_set():
                raise Incomplete("accepted, but the outcome is not known yet: this server is stopping")
            raise Incomplete(f"accepted, but the outcome was not known within {wait_s:g} s")

    async def _publish(self, operations: Sequence[Operation], reply_to: NodeId | None) -> None:
        if self._in_flight + len(operations) > max(self.max_in_flight, len(operations)):
            raise self._crowded(GatewayLimit.IN_FLIGHT, f"{self._in_flight} operations wait for a publisher confirm")
        bodies = [OPERATION.encode(OperationMessage(operation=each, reply_to=reply_to)) for each in operations]
        partitions = [partition_of(each.partition_key, self.partitions) for each in operations]
        self.backlog.admit(partitions)
        self._in_flight += len(operations)
        try:
            if len(operations) == 1:
                # The usual request, spared the cost of a task.
                await self.broker.publish_operation(partitions[0], bodies[0], operations[0].id)
            else:
                publishing = map(self.broker.publish_operation, partitions, bodies, [each.id for each in operations])
                results = await asyncio.gather(*publishing, return_exceptions=True)
                failures = [result for result in results if isinstance(result, BaseException)]
                if failures:
                    # An unexpected error is not hidden behind an outage.
                    raise next((each for each in failures if not isinstance(each, _OUTAGES)), failures[0])
        except _OUTAGES as failure:
            _NOT_PUBLISHED.fails(failure)
            raise BackendUnavailable(f"RabbitMQ did not confirm the operation: {failure}") from failure
        finally:
            self._in_flight -= len(operations)
        for operation in operations:
            self.metrics.accepted(operation.action.name)

    def _crowded(self, limit: GatewayLimit, text: str) -> BackendUnavailable:
        self.metrics.limited(limit)
        return BackendUnavailable(f"{text}; try again in a moment", retry_after_s())


async def _all(awaited: Sequence[asyncio.Future[OperationReply]]) -> Sequence[OperationReply]:
    return await asyncio.gather(*awaited)
