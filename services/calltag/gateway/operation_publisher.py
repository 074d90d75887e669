"""Publication of operations with publisher confirms, and the wait for their outcomes."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from calltag.core.bus.partitioning import partition_of
from calltag.core.bus.ports import Bus, BusRefused, BusUnavailable, Partition
from calltag.core.domain.operations import Operation
from calltag.core.domain.status import StatusCode
from calltag.core.http.admission_queue import release_slot, retry_after_s
from calltag.core.runtime.waiting import run_until
from calltag.core.telemetry.conditions import Condition
from calltag.core.wire.messages import OPERATION, OperationMessage, OperationReply
from calltag.gateway.backlog import Backlog
from calltag.gateway.errors import BackendUnavailable, Incomplete, OutcomeRefused
from calltag.gateway.metrics import GatewayLimit, GatewayMetrics
from calltag.gateway.replies import Replies

_NOT_PUBLISHED: Final = Condition("operations_not_published")


@dataclass(slots=True)
class OperationPublisher:
    """Publishes operations: at most `max_in_flight` unconfirmed ones, and none while the backlog is too long.

    At most `max_waiting` requests wait for outcomes.
    """

    bus: Bus
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
        await self.bus.publish_operation(partition, OPERATION.encode(message), operation.id)

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
        if not isinstance(failure, BusUnavailable | BusRefused):
            return failure
    for failure in failures:
        _NOT_PUBLISHED.fails(failure)
    return BackendUnavailable(f"RabbitMQ did not confirm the operation: {failures[0]}")
