"""Deadlines of many connections on one timer of the event loop (a timer wheel).

Deadlines are put off with nearly every request, and seldom pass. So a member is entered once, in the bucket of its
deadline, and stays there when the deadline is put off: when the time of the bucket comes, it is entered anew.
"""

import asyncio
import heapq
import math
from typing import Final, Protocol

import structlog

log = structlog.get_logger()
TICK_S: Final = 1 / 16
"""Deadlines pass up to so much late, and never early. A power of two: times are divided into ticks without rounding."""


class WheelMember(Protocol):
    """What has a deadline; the wheel keeps its own notes in the member, so that it has no object for each."""

    deadline_at: float | None
    """Event loop time of the deadline; None while there is none."""
    deadline_tick: int
    """Bucket of the wheel that holds the member; 0 for none."""

    def deadline_passed(self) -> None: ...


class DeadlineWheel:
    """Calls `deadline_passed` of its members; without members there is no timer."""

    __slots__ = ("_buckets", "_loop", "_members", "_ticks", "_timer", "_timer_tick")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, set[WheelMember]] = {}
        self._ticks: list[int] = []
        """A heap of the buckets' ticks."""
        self._members = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = math.inf

    def expect(self, member: WheelMember, within_s: float) -> None:
        """Set the member's deadline, in place of the one before."""
        member.deadline_at = at = self._loop.time() + within_s
        tick = member.deadline_tick
        if not tick or (tick - 1) * TICK_S >= at:
            self._enter(member, at)

    def forget(self, member: WheelMember) -> None:
        """Drop a member that has ended, so that the wheel does not keep it in memory."""
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
            # One that fails must not keep the others from their deadlines.
            log.exception("deadline_failed")

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_tick = None, math.inf
        self._buckets.clear()
        self._ticks.clear()
