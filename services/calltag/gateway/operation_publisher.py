"""Publication of operations with publisher confirms, and the wait for their outcomes."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from calltag.core.broker.partitioning import partition_of
from calltag.core.broker.ports import Broker, BrokerError, BrokerRefused, BrokerUnavailable, NodeId, Partition
from calltag.core.contracts.operations import NODE, OPERATION, OperationMessage, OperationReply, WireError
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import Operation
from calltag.core.domain.status import StatusCode
from calltag.core.http.admission_queue import release_slot, retry_after_s
from calltag.core.process.waiting import backoff_s, run_until
from calltag.core.telemetry.conditions import Condition
from calltag.gateway.backlog import Backlog
from calltag.gateway.errors import BackendUnavailable, Incomplete, OutcomeRefused
from calltag.gateway.metrics import GatewayLimit, GatewayMetrics

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


_NOT_PUBLISHED: Final = Condition("operations_not_published")


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

    async def publish(self, operations: Sequence[Operation]) -> None:
        """Publish operations, in order per key; return when all are confirmed.

        Raises BackendUnavailable; some operations may have been published then, and a retry has no second effect.
        """
        await self._publish(operations, wait=False)

    async def outcome(self, operation: Operation, wait_s: float) -> OperationReply:
        """Publish one operation and wait for its success. Raises OutcomeRefused, and as `outcomes` does."""
        [outcome] = await self.outcomes([operation], wait_s)
        if outcome.code is not StatusCode.SUCCESS:
            raise OutcomeRefused(outcome.code, outcome.text)
        return outcome

    async def outcomes(self, operations: Sequence[Operation], wait_s: float) -> Sequence[OperationReply]:
        """Publish operations and wait for all outcomes, successes and refusals.

        Raises BackendUnavailable; Incomplete after `wait_s` seconds, or when the gateway stops.
        """
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
            await self._publish(operations, wait=True)
            with release_slot():
                known = await run_until(self.replies.closing, _all(awaited), within_s=wait_s)
            if known is not None:
                return known
            if self.replies.closing.is_set():
                raise Incomplete("accepted, but the outcome is not known yet: this server is stopping")
            raise Incomplete(f"accepted, but the outcome was not known within {wait_s:g} s")

    async def _publish(self, operations: Sequence[Operation], *, wait: bool) -> None:
        if self._in_flight + len(operations) > max(self.max_in_flight, len(operations)):
            raise self._crowded(GatewayLimit.IN_FLIGHT, f"{self._in_flight} operations wait for a publisher confirm")
        partitions = list(map(self._partition, operations))
        self.backlog.admit(partitions)
        self._in_flight += len(operations)
        try:
            failures = await self._published(
                [self._publish_one(*each, wait=wait) for each in zip(operations, partitions, strict=True)]
            )
        finally:
            self._in_flight -= len(operations)
        if failures:
            raise _as_refusal(failures)
        for operation in operations:
            self.metrics.accepted(operation.action.name)

    async def _published(self, publishing: Sequence[Coroutine[None, None, None]]) -> Sequence[BaseException]:
        """Return the errors."""
        if len(publishing) == 1:
            # The usual request, spared the cost of a task.
            try:
                await publishing[0]
            except Exception as error:  # noqa: BLE001 - as gather gives it
                return [error]
            return []
        results = await asyncio.gather(*publishing, return_exceptions=True)
        return [result for result in results if isinstance(result, BaseException)]

    async def _publish_one(self, operation: Operation, partition: Partition, *, wait: bool) -> None:
        message = OperationMessage(operation=operation, reply_to=self.replies.node if wait else None)
        await self.broker.publish_operation(partition, OPERATION.encode(message), operation.id)

    def _partition(self, operation: Operation) -> Partition:
        return partition_of(operation.partition_key, self.partitions)

    def _crowded(self, limit: GatewayLimit, text: str) -> BackendUnavailable:
        self.metrics.limited(limit)
        return BackendUnavailable(f"{text}; try again in a moment", retry_after_s())


async def _all(awaited: Sequence[asyncio.Future[OperationReply]]) -> Sequence[OperationReply]:
    return await asyncio.gather(*awaited)


def _as_refusal(failures: Sequence[BaseException]) -> BaseException:
    """Return the error for the client; a programming error is returned as it is."""
    for failure in failures:
        if not isinstance(failure, BrokerUnavailable | BrokerRefused):
            return failure
    for failure in failures:
        _NOT_PUBLISHED.fails(failure)
    return BackendUnavailable(f"RabbitMQ did not confirm the operation: {failures[0]}")
