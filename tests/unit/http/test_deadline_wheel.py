"""Deadlines on one timer: none passes early, none is lost, and without members there is no timer."""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from calltag.core.http.deadline_wheel import TICK_S, DeadlineWheel
from parts.eventually import eventually


@dataclass(eq=False)
class Timer:
    clock: "Clock"
    when: float
    callback: Callable[[], None]

    def cancel(self) -> None:
        self.clock.timers.remove(self)


class Clock:
    """Stands in for the event loop: time passes only in `advance`, and its timers can be counted."""

    def __init__(self) -> None:
        self.now = 1_000.03
        self.timers: list[Timer] = []
        self.made = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self, when, callback))
        self.made += 1
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [timer for timer in self.timers if timer.when <= until]:
            timer = min(due, key=lambda each: each.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.callback()
        self.now = until


@dataclass(eq=False)
class Member:
    """Notes when its deadline passes."""

    clock: Clock
    deadline_at: float | None = None
    deadline_tick: int = 0
    passed_at: list[float] = field(default_factory=list)

    def deadline_passed(self) -> None:
        self.passed_at.append(self.clock.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wheel(clock: Clock) -> DeadlineWheel:
    return DeadlineWheel(clock)  # type: ignore[arg-type]


@pytest.mark.parametrize("within_s", [0.0, 0.001, TICK_S, 0.1, 1, 75, 3_600])
def test_a_deadline_passes_once_and_not_early(clock: Clock, wheel: DeadlineWheel, within_s: float) -> None:
    member = Member(clock)
    due = clock.now + within_s
    wheel.expect(member, within_s)
    clock.advance(within_s + 2 * TICK_S)
    (passed_at,) = member.passed_at
    assert due <= passed_at <= due + TICK_S
    clock.advance(10_000)
    assert len(member.passed_at) == 1


def test_the_last_deadline_that_was_set_holds(clock: Clock, wheel: DeadlineWheel) -> None:
    later, sooner, none = Member(clock), Member(clock), Member(clock)
    for member in (later, sooner, none):
        wheel.expect(member, 10)
    clock.advance(5)
    wheel.expect(later, 20)
    wheel.expect(sooner, 1)
    none.deadline_at = None
    clock.advance(4)
    assert (len(later.passed_at), len(sooner.passed_at)) == (0, 1)
    clock.advance(15.5)
    assert not later.passed_at
    clock.advance(1)
    assert (len(later.passed_at), len(none.passed_at)) == (1, 0)


def test_deadlines_that_are_put_off_need_no_timers(clock: Clock, wheel: DeadlineWheel) -> None:
    members = [Member(clock) for _ in range(100)]
    for _ in range(100):
        for member in members:
            wheel.expect(member, 75)
        clock.advance(0.0001)
    assert clock.made == 1
    assert len(clock.timers) == 1


def test_without_members_there_is_no_timer(clock: Clock, wheel: DeadlineWheel) -> None:
    first, second = Member(clock), Member(clock)
    wheel.expect(first, 1)
    wheel.expect(second, 2)
    wheel.forget(first)
    assert len(clock.timers) == 1
    wheel.forget(second)
    assert not clock.timers
    wheel.expect(first, 1)
    clock.advance(2)
    assert first.passed_at
    assert not clock.timers


def test_a_member_without_deadline_leaves_the_wheel(clock: Clock, wheel: DeadlineWheel) -> None:
    member = Member(clock)
    wheel.expect(member, 1)
    member.deadline_at = None
    clock.advance(2)
    assert not member.deadline_tick
    assert not clock.timers


def test_what_is_forgotten_while_others_pass_does_not_pass(clock: Clock, wheel: DeadlineWheel) -> None:
    first, second = Member(clock), Member(clock)

    def forget_all() -> None:
        for member in (first, second):
            wheel.forget(member)
            member.passed_at.append(clock.now)

    for member in (first, second):
        member.deadline_passed = forget_all  # type: ignore[method-assign]
        wheel.expect(member, 1)
    clock.advance(2)
    assert (len(first.passed_at), len(second.passed_at)) == (1, 1)
    assert not clock.timers


def test_one_that_fails_keeps_no_other_from_its_deadline(
    clock: Clock, wheel: DeadlineWheel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    members = [Member(clock) for _ in range(3)]

    def fail() -> None:
        raise RuntimeError("broken")

    members[1].deadline_passed = fail  # type: ignore[method-assign]
    for member in members:
        wheel.expect(member, 1)
    clock.advance(2)
    assert [len(member.passed_at) for member in members] == [1, 0, 1]


def test_any_order_of_events_keeps_every_deadline(clock: Clock, wheel: DeadlineWheel) -> None:
    chance = random.Random(1)
    members = [Member(clock) for _ in range(50)]
    due: dict[int, float] = {}
    seen = [0] * len(members)
    for _ in range(20_000):
        number = chance.randrange(len(members))
        member = members[number]
        match chance.randrange(8):
            case 0:
                wheel.forget(member)
                due.pop(number, None)
            case 1:
                member.deadline_at = None
                due.pop(number, None)
            case 2 | 3 | 4:
                within_s = chance.choice((0, 0.01, 0.3, 1, 5, 75)) * chance.random()
                wheel.expect(member, within_s)
                due[number] = clock.now + within_s
            case _:
                clock.advance(chance.choice((0, 0.01, 0.2, 3)) * chance.random())
        for each, one in enumerate(members):
            if len(one.passed_at) > seen[each]:
                seen[each] += 1
                assert due[each] <= one.passed_at[-1] <= due.pop(each) + TICK_S
            assert len(one.passed_at) == seen[each]
        assert all(at + TICK_S > clock.now for at in due.values())
        assert len(clock.timers) == any(one.deadline_tick for one in members)


async def test_it_runs_on_an_event_loop() -> None:
    loop = asyncio.get_running_loop()
    wheel = DeadlineWheel(loop)
    member = Member(Clock())
    began = loop.time()
    wheel.expect(member, 0.1)
    await eventually(lambda: bool(member.passed_at))
    assert loop.time() - began >= 0.1
