"""Parking: what its sender is told of an operation that is set aside, and how it is set aside."""

import time
from dataclasses import dataclass
from typing import Final

from calltag.core.bus.ports import Bus, Parking, Partition
from calltag.core.domain.events import OperationRefused
from calltag.core.domain.ids import EventId
from calltag.core.domain.status import StatusCode
from calltag.core.store.ports import NO_MARKS, Done, Mark, Marks
from calltag.core.wire.messages import ENVELOPE, EVENT, OperationReply, WireError
from calltag.worker.fault import Reason
from calltag.worker.folding import Folded, refusal
from calltag.worker.lanes import Lane, Work

_NOT_KNOWN: Final = "its sender is not known"


@dataclass(frozen=True, slots=True)
class Farewell:
    """What is to be written and told before an operation is parked."""

    folded: Folded
    marks: Marks


def farewell(work: Work, lane: Lane) -> Farewell:
    """The mark on the call, the event and the reply for the sender.

    What was no operation to begin with leaves no hole in its call, and what is behind one that is parked finds the
    mark there.
    """
    folded = Folded()
    done = Done(StatusCode.INTERNAL, 0, f"not applied, and parked for an operator: {lane.fault.detail}")
    message = work.message
    if message is None:
        _tell_unreadable(work, done, folded)
        return Farewell(folded, NO_MARKS)
    event = refusal(message.operation, done)
    if event is not None:
        folded.tell(event, EVENT.encode(event))
    if message.reply_to is not None:
        folded.replies.append((message.reply_to, OperationReply(operation_id=message.operation.id, **_coded(done))))
    if lane.parking is Reason.BEHIND:
        return Farewell(folded, NO_MARKS)
    mark = Mark(message.operation.id, str(lane.parking), _now_ms())
    return Farewell(folded, {message.operation.key: mark})


def _tell_unreadable(work: Work, done: Done, folded: Folded) -> None:
    """Tell the sender of what is no operation of this version, where the message at least says who that is."""
    try:
        envelope = ENVELOPE.decode(work.delivery.body)
    except WireError:
        return
    operation = envelope.operation
    if operation.sender is not None:
        event = OperationRefused(
            id=EventId(f"{operation.id}-not-applied"),
            user=operation.sender,
            operation_name=operation.action.name,
            call_id=operation.call_id,
            code=done.code,
            text=done.text,
            accepted_at_ms=operation.accepted_at_ms,
        )
        folded.tell(event, EVENT.encode(event))
    if envelope.reply_to is not None:
        folded.replies.append((envelope.reply_to, OperationReply(operation_id=operation.id, **_coded(done))))


def _coded(done: Done) -> "dict[str, object]":
    return {"code": done.code, "text": done.text}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class ParkingLot:
    """Where operations are parked: on the bus."""

    bus: Bus

    async def park(self, partition: Partition, work: Work, lane: Lane) -> None:
        """Raises BusUnavailable, BusRefused."""
        detail = lane.fault.detail
        if work.message is None and not _names_sender(work):
            detail = f"{detail}; {_NOT_KNOWN}"
        parking = Parking(
            reason=str(lane.parking),
            detail=detail,
            partition=partition,
            first_seen_ms=work.first_seen_ms,
            failed_ms=_now_ms(),
            attempts=lane.attempts,
            exception=lane.fault.exception,
            key=lane.key if work.message is not None else "",
            after=lane.fault.after,
        )
        await self.bus.park(work.delivery.body, work.name, parking)


def _names_sender(work: Work) -> bool:
    try:
        return ENVELOPE.decode(work.delivery.body).operation.sender is not None
    except WireError:
        return False
