"""What fails for hours is a few lines in the log, and each change of it is one."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from calltag.core.broker.ports import BrokerInterrupted, BrokerUnavailable, NotConnected, QueueMissing
from calltag.core.telemetry.conditions import REPEAT_S, Condition


@dataclass
class Clock:
    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Watched:
    """A condition, its clock and what was logged of it."""

    lines: list[EventDict]
    clock: Clock = field(default_factory=Clock)

    def condition(self, over: str = "broker_reachable") -> Condition:
        return Condition("broker_unreachable", over, cure="look at the URL", clock_s=self.clock)

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


@pytest.fixture
def watched() -> Iterator[Watched]:
    with capture_logs() as lines:
        yield Watched(lines)


AWAY = BrokerUnavailable("refused")


def test_the_first_failure_is_logged_with_its_reason_and_its_cure(watched: Watched) -> None:
    watched.condition().fails(AWAY, purpose="publisher")
    assert watched.lines == [
        {"event": "broker_unreachable", "log_level": "warning", "reason": "refused", "cure": "look at the URL",
         "purpose": "publisher"}
    ]  # fmt: skip


def test_what_goes_on_is_logged_once_a_minute_with_a_count(watched: Watched) -> None:
    condition = watched.condition()
    for _ in range(300):
        condition.fails(AWAY)
        watched.clock.now_s += 1
    assert len(watched.lines) == 300 / REPEAT_S
    assert [line.get("times") for line in watched.lines] == [None, 60, 60, 60, 60]
    assert [line.get("since_s") for line in watched.lines] == [None, 60, 120, 180, 240]


def test_its_end_is_logged_once_and_so_is_its_next_beginning(watched: Watched) -> None:
    condition = watched.condition()
    condition.holds()
    for _ in range(2):
        condition.fails(AWAY)
        condition.fails(AWAY)
        watched.clock.now_s += 2.5
        condition.holds()
        condition.holds()
    assert watched.events() == ["broker_unreachable", "broker_reachable"] * 2
    assert watched.lines[1]["failed_s"] == 2.5


def test_it_is_over_when_no_subject_fails(watched: Watched) -> None:
    condition = watched.condition()
    for partition in range(32):
        condition.fails(AWAY, partition)
    for partition in range(31):
        condition.holds(partition)
        condition.fails(AWAY, 31)
    assert watched.events() == ["broker_unreachable"]
    condition.holds(31)
    assert watched.events() == ["broker_unreachable", "broker_reachable"]


def test_a_subject_that_is_given_up_is_not_waited_for(watched: Watched) -> None:
    condition = watched.condition()
    condition.fails(AWAY, 1)
    condition.forget(1)
    assert watched.events() == ["broker_unreachable"]
    condition.fails(AWAY, 2)
    condition.holds(2)
    assert watched.events() == ["broker_unreachable", "broker_unreachable", "broker_reachable"]


def test_another_cause_is_another_line(watched: Watched) -> None:
    condition = watched.condition()
    for _ in range(3):
        condition.fails(BrokerInterrupted("the channel closed"))
        condition.fails(QueueMissing("q does not exist"))
    assert [line["reason"] for line in watched.lines] == ["the channel closed", "q does not exist"]


def test_what_another_condition_is_about_is_not_logged_again(watched: Watched) -> None:
    condition = watched.condition()
    condition.fails(NotConnected("there is no connection"))
    condition.holds()
    assert watched.lines == []


def test_without_a_known_end_it_is_over_after_a_minute_of_rest(watched: Watched) -> None:
    condition = watched.condition(over="")
    condition.fails(AWAY)
    watched.clock.now_s += REPEAT_S + 1
    condition.fails(AWAY)
    condition.fails(AWAY)
    assert watched.events() == ["broker_unreachable"] * 2
    assert "times" not in watched.lines[1]


def test_an_error_without_a_text_is_named(watched: Watched) -> None:
    watched.condition().fails(TimeoutError())
    assert watched.lines[0]["reason"] == "TimeoutError"
