"""Timer wheel: deadlines of many connections on one timer of the event loop.

Nearly every request postpones a deadline, and few deadlines pass. So a postponed member stays in its bucket, and moves
to a later one only when the time of the bucket has come.
"""

import asyncio
import heapq
import math
from typing import Final, Protocol

import structlog

log = structlog.get_logger()
TICK_S: Final = 1 / 16
"""Maximum delay of a deadline, which never passes early. A power of two, so that ticks divide time without rounding."""


class WheelMember(Protocol):
    """An object with a deadline; the wheel keeps its state in the member, to need no object of its own for each."""

    deadline_at: float | None
    """Deadline in event loop time; None if there is none."""
    deadline_tick: int
    """Bucket that holds the member; 0 for none."""

    def deadline_passed(self) -> None: ...


class DeadlineWheel:
    """Calls `deadline_passed` of its members; without members it has no timer."""

    __slots__ = ("_buckets", "_loop", "_members", "_ticks", "_timer", "_timer_tick")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, set[WheelMember]] = {}
        self._ticks: list[int] = []
        """Heap of the buckets' ticks."""
        self._members = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = math.inf

    def expect(self, member: WheelMember, within_s: float) -> None:
        """Set the member's deadline, in place of the former one."""
        member.deadline_at = at = self._loop.time() + within_s
        tick = member.deadline_tick
        if not tick or (tick - 1) * TICK_S >= at:
            self._enter(member, at)

    def forget(self, member: WheelMember) -> None:
        """Remove a member that has ended, to free its memory."""
        member.deadline_at = None
        if member.deadline_tick:
            self._buckets[member.deadline_tick].discard(member)
            self._left(member)
            if not self._members:
                self._stop()

    def _enter(self, member: WheelMember, at: float) -> None:
        if member.deadline_tick:
            self._buckets[member.deadline_tick].discard(member)
            self._left(member)
        tick = math.ceil(at / TICK_S)
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            heapq.heappush(self._ticks, tick)
            if tick < self._timer_tick:
                self._wait_for(tick)
        bucket.add(member)
        member.deadline_tick = tick
        self._members += 1

    def _left(self, member: WheelMember) -> None:
        member.deadline_tick = 0
        self._members -= 1

    def _wait_for(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_tick = tick
        self._timer = self._loop.call_at(tick * TICK_S, self._turn)

    def _turn(self) -> None:
        self._timer, self._timer_tick = None, math.inf
        now = self._loop.time()
        while self._ticks and self._ticks[0] * TICK_S <= now:
            bucket = self._buckets.pop(heapq.heappop(self._ticks))
            for member in bucket:
                self._left(member)
            for member in bucket:
                self._look_at(member, now)
        if not self._members:
            self._stop()
        elif self._ticks[0] < self._timer_tick:
            self._wait_for(self._ticks[0])

    def _look_at(self, member: WheelMember, now: float) -> None:
        if member.deadline_at is None:
            return
        if member.deadline_at > now:
            self._enter(member, member.deadline_at)
            return
        member.deadline_at = None
        try:
            member.deadline_passed()
        except Exception:
            # A failure must not suppress the deadlines of the others.
            log.exception("deadline_failed")

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_tick = None, math.inf
        self._buckets.clear()
        self._ticks.clear()
