"""Lanes: who waits for whom, and for how long."""

import pytest

from calltag.core.bus.ports import Delivery
from calltag.core.domain.ids import CallId, OperationId
from calltag.core.domain.operations import CallEnded, CallOperation
from calltag.core.wire.messages import OperationMessage
from calltag.worker.fault import Fault, Reason
from calltag.worker.lanes import Lane, Lanes, Work

FAULT = Fault("text")


def work(number: int, call: str | None = "C") -> Work:
    delivery = Delivery(number, b"", f"o{number}", redelivered=False)
    if call is None:
        return Work(delivery, None, 0, FAULT)
    operation = CallOperation(OperationId(f"o{number}"), CallId(call), CallEnded(), 0)
    return Work(delivery, OperationMessage(operation=operation), 0)


def names(lane: Lane) -> list[str]:
    return [each.name for each in lane.waiting]


@pytest.fixture
def lanes() -> Lanes:
    return Lanes(park_after_s=30)


def test_only_what_has_the_same_key_waits(lanes: Lanes) -> None:
    assert not lanes.hold(work(1))
    lanes.open([work(1)], FAULT, 0)
    assert [lanes.hold(each) for each in (work(2), work(3, "D"), work(4), work(5, None))] == [True, False, True, False]
    [lane] = lanes.due(100)
    assert (names(lane), lanes.has("call:C"), lanes.has("call:D")) == (["o1", "o2", "o4"], True, False)


def test_pauses_grow_and_what_fails_too_long_is_to_be_parked(lanes: Lanes) -> None:
    lanes.open([work(1)], FAULT, 0)
    assert (lanes.due(0), lanes.next_due_s(0)) == ([], 0.05)
    now_s, pauses = 0.05, []
    while True:
        [lane] = lanes.due(now_s)
        lanes.failed(lane, FAULT, now_s)
        if lane.parking is not None:
            break
        pause_s = lanes.next_due_s(now_s)
        assert pause_s is not None
        pauses.append(pause_s)
        now_s += pause_s
    assert lane.parking is Reason.FAULT
    assert 30 <= now_s <= 32
    assert (max(pauses) <= 2, min(pauses[-3:]) >= 1) == (True, True)
    assert lane.attempts == len(pauses) + 2


def test_time_without_a_store_does_not_count(lanes: Lanes) -> None:
    lanes.open([work(1)], FAULT, 0)
    [lane] = lanes.due(29)
    lanes.forgive(1_000)
    lanes.failed(lane, FAULT, 1_029)
    assert lane.parking is None
    lanes.failed(lane, FAULT, 1_030)
    assert lane.parking is Reason.FAULT


def test_what_need_not_be_tried_is_parked_at_once_and_ends_its_lane(lanes: Lanes) -> None:
    lanes.open([work(1, None)], FAULT, 7, Reason.UNREADABLE)
    [lane] = lanes.due(7)
    lane.waiting.popleft()
    assert (list(lanes.close(lane)), len(lanes), lanes.next_due_s(7)) == ([], 0, None)


@pytest.mark.parametrize("behind", [1, 100, 10_000])
def test_however_many_wait_behind_it_an_operation_may_fail_for_as_long(lanes: Lanes, behind: int) -> None:
    lanes.open([work(1)], FAULT, 0)
    for number in range(behind):
        lanes.hold(work(2 + number))
    [lane] = lanes.due(29)
    lanes.failed(lane, FAULT, 29)
    assert lane.parking is None
    lanes.failed(lane, FAULT, 30)
    assert lane.parking is Reason.FAULT


def test_what_cannot_be_parked_yet_is_tried_later(lanes: Lanes) -> None:
    lanes.open([work(1)], FAULT, 0, Reason.CRASH)
    [lane] = lanes.due(0)
    lanes.put_off(lane, 0)
    assert (lanes.due(0), lane.parking) == ([], Reason.CRASH)
