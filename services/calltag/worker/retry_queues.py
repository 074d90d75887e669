"""Retry queues: one for each call with a failing operation, in order; other calls go on.

Pure: time comes in as an argument, in seconds of a monotonic clock.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.broker.ports import Delivery
from calltag.core.contracts.operations import OperationMessage
from calltag.core.process.waiting import backoff_s
from calltag.worker.batch import Failure, ParkingReason

_FIRST_RETRY_S: Final = 0.05
_SLOWEST_RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Work:
    """A delivered operation. One that cannot be decoded has no `message` but a `problem`, and a queue of its own."""

    delivery: Delivery
    message: OperationMessage | None
    first_seen_ms: int
    problem: Failure | None = None

    @property
    def name(self) -> str:
        """The id of the operation; that of its message where it cannot be decoded."""
        return self.message.operation.id if self.message is not None else self.delivery.message_id

    @property
    def key(self) -> str:
        return self.message.operation.order_key if self.message is not None else f"message:{self.delivery.tag}"


@dataclass(slots=True)
class RetryQueue:
    """The operations of one key: the first has failed, the others wait behind it.

    `parking` is the reason for parking the first one, `failing_since_s` the time of its first failure. Before it is
    parked its sender is notified (`sender_notified`); `is_unblocked` is set once it no longer blocks the others.
    """

    key: str
    waiting: deque[Work]
    fault: Failure
    failing_since_s: float
    due_s: float
    attempts: int = 1
    parking: ParkingReason | None = None
    sender_notified: bool = False
    is_unblocked: bool = False
    delays_s: Iterator[float] = field(default_factory=lambda: backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S))

    @property
    def first(self) -> Work:
        return self.waiting[0]

    def notified(self) -> None:
        """Note that the sender of the first operation knows of its refusal."""
        self.sender_notified = True

    def take_first(self) -> Work:
        """Remove the first operation, which no longer blocks the others."""
        self.is_unblocked = True
        return self.waiting.popleft()


class RetryQueues:
    """The retry queues of one partition.

    An operation that fails for `park_after_s` is parked, however many wait behind it: the prefetch bounds those.
    """

    def __init__(self, park_after_s: float) -> None:
        self._park_after_s = park_after_s
        self._queues: dict[str, RetryQueue] = {}

    def __len__(self) -> int:
        return sum(len(queue.waiting) for queue in self._queues.values())

    def enqueue(self, work: Work) -> bool:
        """Append an operation to the queue of its key, if there is one; return whether there is."""
        queue = self._queues.get(work.key)
        if queue is not None:
            queue.waiting.append(work)
        return queue is not None

    def has(self, key: str) -> bool:
        """Return whether operations of that key wait."""
        return key in self._queues

    def has_part_of(self, together: str) -> bool:
        """Return whether operations wait that came in the message of that name."""
        return any(work.delivery.together == together for queue in self._queues.values() for work in queue.waiting)

    def oldest_at_ms(self) -> int | None:
        """When the oldest waiting operation was accepted (Unix time in milliseconds); None if none waits."""
        works = (work.message for queue in self._queues.values() for work in queue.waiting)
        return min((message.operation.accepted_at_ms for message in works if message is not None), default=None)

    def open(self, works: Sequence[Work], fault: Failure, now_s: float, parking: ParkingReason | None = None) -> None:
        """Begin a queue with the operations of one key; the first one has failed."""
        due_s = now_s if parking else now_s + _FIRST_RETRY_S
        self._queues[works[0].key] = RetryQueue(works[0].key, deque(works), fault, now_s, due_s, parking=parking)

    def failed(self, queue: RetryQueue, fault: Failure, now_s: float) -> None:
        """Note another failure of the first operation of a queue."""
        queue.fault = fault
        queue.attempts += 1
        queue.due_s = now_s + next(queue.delays_s)
        if now_s - queue.failing_since_s >= self._park_after_s:
            queue.parking = queue.parking or ParkingReason.FAULT

    def postpone(self, queue: RetryQueue, now_s: float) -> None:
        """Retry later to park the first operation of a queue."""
        queue.due_s = now_s + next(queue.delays_s)

    def close(self, queue: RetryQueue) -> Sequence[Work]:
        """Remove a queue; return the operations left in it."""
        del self._queues[queue.key]
        return list(queue.waiting)

    def due(self, now_s: float) -> Sequence[RetryQueue]:
        """The queues whose first operation is to be retried or parked now."""
        return [queue for queue in self._queues.values() if queue.due_s <= now_s]

    def next_due_s(self, now_s: float) -> float | None:
        """The seconds until the next queue is due; None if there is none."""
        return max(0.0, min(queue.due_s for queue in self._queues.values()) - now_s) if self._queues else None

    def restart_timers(self, now_s: float) -> None:
        """Restart the time to parking: Redis was unavailable, which may be why operations failed."""
        for queue in self._queues.values():
            queue.failing_since_s = now_s
