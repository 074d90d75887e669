"""Parking of operations that fail for good: the refusal for their sender, and the parking queue."""

import time
from dataclasses import dataclass
from typing import Final

from calltag.core.broker.ports import Broker, ParkingDetails, Partition
from calltag.core.contracts.operations import ENVELOPE, EVENT, OperationReply, WireError
from calltag.core.domain.events import OperationRefused
from calltag.core.domain.ids import refusal_id
from calltag.core.domain.status import StatusCode
from calltag.core.store.ports import NO_BLOCKS, CallBlock, CallBlocks, Done
from calltag.worker.batch import Folded, ParkingReason, refusal
from calltag.worker.retry_queues import RetryQueue, Work

_NOT_KNOWN: Final = "its sender is not known"


@dataclass(frozen=True, slots=True)
class ParkingRefusal:
    """Events, replies and call blocks to commit before an operation is parked."""

    folded: Folded
    blocks: CallBlocks


def refuse(work: Work, queue: RetryQueue) -> ParkingRefusal:
    """Return the block of the call, and the event and the reply for the sender.

    A message that cannot be decoded blocks no call; an operation behind a parked one finds its call blocked already.
    """
    folded = Folded()
    done = Done(StatusCode.INTERNAL, 0, f"not applied, and parked for an operator: {queue.fault.detail}")
    message = work.message
    if message is None:
        _tell_unreadable(work, done, folded)
        return ParkingRefusal(folded, NO_BLOCKS)
    for event in refusal(message.operation, done):
        folded.add_event(event, EVENT.encode(event))
    if message.reply_to is not None:
        folded.replies.append((message.reply_to, OperationReply(operation_id=message.operation.id, **_coded(done))))
    if queue.parking is ParkingReason.BEHIND:
        return ParkingRefusal(folded, NO_BLOCKS)
    block = CallBlock(message.operation.id, str(queue.parking), _now_ms())
    return ParkingRefusal(folded, {message.operation.order_key: block})


def _tell_unreadable(work: Work, done: Done, folded: Folded) -> None:
    """Refuse an operation that cannot be decoded, if at least its sender can."""
    try:
        envelope = ENVELOPE.decode(work.delivery.body)
    except WireError:
        return
    operation = envelope.operation
    if operation.sender is not None:
        event = OperationRefused(
            id=refusal_id(operation.id),
            user=operation.sender,
            operation_name=operation.action.name,
            call_id=operation.call_id,
            code=done.code,
            text=done.text,
            accepted_at_ms=operation.accepted_at_ms,
        )
        folded.add_event(event, EVENT.encode(event))
    if envelope.reply_to is not None:
        folded.replies.append((envelope.reply_to, OperationReply(operation_id=operation.id, **_coded(done))))


def _coded(done: Done) -> "dict[str, object]":
    return {"code": done.code, "text": done.text}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Parking:
    """Parks operations in the parking queue."""

    broker: Broker

    async def park(self, partition: Partition, work: Work, queue: RetryQueue) -> None:
        """Raises BrokerUnavailable, BrokerRefused."""
        detail = queue.fault.detail
        if work.message is None and not _names_sender(work):
            detail = f"{detail}; {_NOT_KNOWN}"
        parking = ParkingDetails(
            reason=str(queue.parking),
            detail=detail,
            partition=partition,
            first_seen_ms=work.first_seen_ms,
            failed_ms=_now_ms(),
            attempts=queue.attempts,
            exception=queue.fault.exception,
            key=queue.key if work.message is not None else "",
            after=queue.fault.after,
        )
        await self.broker.park(work.delivery.body, work.name, parking)


def _names_sender(work: Work) -> bool:
    try:
        return ENVELOPE.decode(work.delivery.body).operation.sender is not None
    except WireError:
        return False
