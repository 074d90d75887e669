"""RetryQueues: who waits for whom, and for how long."""

import pytest

from calltag.core.broker.ports import Delivery
from calltag.core.contracts.operations import OperationMessage
from calltag.core.domain.ids import CallId, OperationId
from calltag.core.domain.operations import CallEnded, CallOperation
from calltag.worker.batch import Failure, ParkingReason
from calltag.worker.retry_queues import RetryQueue, RetryQueues, Work

FAULT = Failure("text")


def work(number: int, call: str | None = "C") -> Work:
    delivery = Delivery(number, b"", f"o{number}", redelivered=False)
    if call is None:
        return Work(delivery, None, 0, FAULT)
    operation = CallOperation(OperationId(f"o{number}"), CallId(call), CallEnded(), 0)
    return Work(delivery, OperationMessage(operation=operation), 0)


def names(queue: RetryQueue) -> list[str]:
    return [each.name for each in queue.waiting]


@pytest.fixture
def queues() -> RetryQueues:
    return RetryQueues(park_after_s=30)


def test_only_what_has_the_same_key_waits(queues: RetryQueues) -> None:
    assert not queues.enqueue(work(1))
    queues.open([work(1)], FAULT, 0)
    assert [queues.enqueue(each) for each in (work(2), work(3, "D"), work(4), work(5, None))] == [
        True,
        False,
        True,
        False,
    ]
    [queue] = queues.due(100)
    assert (names(queue), queues.has("call:C"), queues.has("call:D")) == (["o1", "o2", "o4"], True, False)


def test_pauses_grow_and_what_fails_too_long_is_to_be_parked(queues: RetryQueues) -> None:
    queues.open([work(1)], FAULT, 0)
    assert (queues.due(0), queues.next_due_s(0)) == ([], 0.05)
    now_s, pauses = 0.05, []
    while True:
        [queue] = queues.due(now_s)
        queues.failed(queue, FAULT, now_s)
        if queue.parking is not None:
            break
        pause_s = queues.next_due_s(now_s)
        assert pause_s is not None
        pauses.append(pause_s)
        now_s += pause_s
    assert queue.parking is ParkingReason.FAULT
    assert 30 <= now_s <= 32
    assert (max(pauses) <= 2, min(pauses[-3:]) >= 1) == (True, True)
    assert queue.attempts == len(pauses) + 2


def test_time_without_a_store_does_not_count(queues: RetryQueues) -> None:
    queues.open([work(1)], FAULT, 0)
    [queue] = queues.due(29)
    queues.restart_timers(1_000)
    queues.failed(queue, FAULT, 1_029)
    assert queue.parking is None
    queues.failed(queue, FAULT, 1_030)
    assert queue.parking is ParkingReason.FAULT


def test_what_need_not_be_tried_is_parked_at_once_and_ends_its_lane(queues: RetryQueues) -> None:
    queues.open([work(1, None)], FAULT, 7, ParkingReason.UNREADABLE)
    [queue] = queues.due(7)
    queue.waiting.popleft()
    assert (list(queues.close(queue)), len(queues), queues.next_due_s(7)) == ([], 0, None)


@pytest.mark.parametrize("behind", [1, 100, 10_000])
def test_however_many_wait_behind_it_an_operation_may_fail_for_as_long(queues: RetryQueues, behind: int) -> None:
    queues.open([work(1)], FAULT, 0)
    for number in range(behind):
        queues.enqueue(work(2 + number))
    [queue] = queues.due(29)
    queues.failed(queue, FAULT, 29)
    assert queue.parking is None
    queues.failed(queue, FAULT, 30)
    assert queue.parking is ParkingReason.FAULT


def test_what_cannot_be_parked_yet_is_tried_later(queues: RetryQueues) -> None:
    queues.open([work(1)], FAULT, 0, ParkingReason.CRASH)
    [queue] = queues.due(0)
    queues.postpone(queue, 0)
    assert (queues.due(0), queue.parking) == ([], ParkingReason.CRASH)
