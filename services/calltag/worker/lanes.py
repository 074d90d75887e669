"""Lanes: the operations of calls that fail for now, each call's in order, while those of other calls go on.

Pure: time comes in as an argument, in seconds of any clock that only goes forward.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from calltag.core.bus.ports import Delivery
from calltag.core.runtime.backoff import backoff_s
from calltag.core.wire.messages import OperationMessage
from calltag.worker.fault import Fault, Reason

_FIRST_RETRY_S: Final = 0.05
_SLOWEST_RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Work:
    """One operation in hand; without `message` it is none that can be read (`problem` says why), and has a lane to
    itself."""

    delivery: Delivery
    message: OperationMessage | None
    first_seen_ms: int
    problem: Fault | None = None

    @property
    def name(self) -> str:
        """The id of the operation, as far as there is one."""
        return self.message.operation.id if self.message is not None else self.delivery.message_id

    @property
    def key(self) -> str:
        return self.message.operation.key if self.message is not None else f"message:{self.delivery.tag}"


@dataclass(slots=True)
class Lane:
    """What waits under one key: the first operation failed, the others may not overtake it.

    `parking` says that the first is to be parked, and why; `failing_since_s` is when it began to fail. `told` is set
    when its sender was told, `through` when the first is no longer in the way of the others.
    """

    key: str
    waiting: deque[Work]
    fault: Fault
    failing_since_s: float
    due_s: float
    attempts: int = 1
    parking: Reason | None = None
    told: bool = False
    through: bool = False
    delays_s: Iterator[float] = field(default_factory=lambda: backoff_s(_FIRST_RETRY_S, _SLOWEST_RETRY_S))

    @property
    def first(self) -> Work:
        return self.waiting[0]


class Lanes:
    """The lanes of one partition.

    `park_after_s` is how long the first of a lane may fail. The number of operations that wait behind it does not
    shorten that: the consumer's prefetch bounds it.
    """

    def __init__(self, park_after_s: float) -> None:
        self._park_after_s = park_after_s
        self._lanes: dict[str, Lane] = {}

    def __len__(self) -> int:
        return sum(len(lane.waiting) for lane in self._lanes.values())

    def hold(self, work: Work) -> bool:
        """Let an operation wait if one of its key does."""
        lane = self._lanes.get(work.key)
        if lane is not None:
            lane.waiting.append(work)
        return lane is not None

    def has(self, key: str) -> bool:
        """Whether operations of that key wait."""
        return key in self._lanes

    def has_of(self, together: str) -> bool:
        """Whether operations wait that came in the message of that name."""
        return any(work.delivery.together == together for lane in self._lanes.values() for work in lane.waiting)

    def oldest_at_ms(self) -> int | None:
        """When the oldest operation that waits was accepted (Unix time in milliseconds); None if none waits."""
        works = (work.message for lane in self._lanes.values() for work in lane.waiting)
        return min((message.operation.accepted_at_ms for message in works if message is not None), default=None)

    def open(self, works: Sequence[Work], fault: Fault, now_s: float, parking: Reason | None = None) -> None:
        """Begin a lane with operations of one key, of which the first failed."""
        due_s = now_s if parking else now_s + _FIRST_RETRY_S
        self._lanes[works[0].key] = Lane(works[0].key, deque(works), fault, now_s, due_s, parking=parking)

    def failed(self, lane: Lane, fault: Fault, now_s: float) -> None:
        """The first of a lane failed once more."""
        lane.fault = fault
        lane.attempts += 1
        lane.due_s = now_s + next(lane.delays_s)
        if now_s - lane.failing_since_s >= self._park_after_s:
            lane.parking = lane.parking or Reason.FAULT

    def put_off(self, lane: Lane, now_s: float) -> None:
        """The first of a lane cannot be parked just now."""
        lane.due_s = now_s + next(lane.delays_s)

    def close(self, lane: Lane) -> Sequence[Work]:
        """End a lane; returns what still waits in it."""
        del self._lanes[lane.key]
        return list(lane.waiting)

    def due(self, now_s: float) -> Sequence[Lane]:
        """The lanes whose first operation is to be tried again, or parked."""
        return [lane for lane in self._lanes.values() if lane.due_s <= now_s]

    def next_due_s(self, now_s: float) -> float | None:
        """In how many seconds the next lane is due; None if there is none."""
        return max(0.0, min(lane.due_s for lane in self._lanes.values()) - now_s) if self._lanes else None

    def forgive(self, now_s: float) -> None:
        """The store was away: what failed may have failed for that, and its time begins anew."""
        for lane in self._lanes.values():
            lane.failing_since_s = now_s
