"""Answers and frames of bounded size: what goes into one, and what waits for the next."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltag.core.bayeux.events import Event
from calltag.core.bayeux.messages import AnswerBudget, BayeuxLimits, encode, encode_parts
from parts.bayeux_sessions import TO_ALL, entry, numbers, session_at

LIMITS = BayeuxLimits()
SIZE = len(Event("/a", {"n": 1}).plain()) + 1


def test_only_what_fits_is_taken_and_counts_as_sent() -> None:
    here = session_at(subscriptions=TO_ALL)
    for position in (1, 2, 3):
        here.offer(entry(position), LIMITS)
    assert numbers(here.take(AnswerBudget(2 * SIZE))) == [1, 2]
    assert (here.sent, here.position, here.has_news, here.has_more) == (2, 3, True, True)
    assert here.queued_bytes == SIZE - 1
    assert numbers(here.take(AnswerBudget(2 * SIZE))) == [3]
    assert (here.sent, here.has_more, here.queued_bytes) == (3, False, 0)


def test_an_event_that_is_larger_than_an_answer_goes_alone() -> None:
    here = session_at(subscriptions=TO_ALL)
    for position in (1, 2):
        here.offer(entry(position), LIMITS)
    assert [numbers(here.take(AnswerBudget(1))) for _ in range(3)] == [[1], [2], []]


def test_an_answer_that_has_events_takes_no_more_than_fits() -> None:
    one, other = (session_at(subscriptions=TO_ALL) for _ in range(2))
    for each in (one, other):
        each.offer(entry(1), LIMITS)
    budget = AnswerBudget(SIZE + 1)
    assert (numbers(one.take(budget)), numbers(other.take(budget))) == ([1], [])
    assert (other.sent, other.has_more) == (0, True)


def test_the_events_of_one_change_are_not_torn_apart() -> None:
    """Else a client that acknowledges could not say that it has some of them."""
    here = session_at(subscriptions=TO_ALL)
    here.offer(entry(1), LIMITS)
    here.offer(entry(2, 1, Event("/a", {"n": 2}), Event("/b", {"n": 2})), LIMITS)
    assert (numbers(here.take(AnswerBudget(2 * SIZE))), here.sent) == ([1], 1)
    assert (numbers(here.take(AnswerBudget(SIZE))), here.sent) == ([2, 2], 2)


def test_what_is_in_no_stream_counts_as_well_and_goes_first() -> None:
    here = session_at(subscriptions=TO_ALL)
    here.offer(entry(9), LIMITS)
    for number in (1, 2):
        assert here.offer_services(Event("/a", {"n": number}), LIMITS, active=number == 2)
    assert [numbers(here.take(AnswerBudget(SIZE))) for _ in range(4)] == [[1], [2], [9], []]


def test_a_session_that_is_pushed_to_need_not_come_for_more() -> None:
    here = session_at(subscriptions=TO_ALL, is_streaming=True)
    for position in (1, 2):
        here.offer(entry(position), LIMITS)
    here.take(AnswerBudget(1))
    assert (here.has_news, here.has_more) == (True, False)


def test_there_is_room_for_replies_and_for_how_it_is_written() -> None:
    event = b"x" * 1_000
    plain, escaped = (AnswerBudget(10_000, size).reserve(200, 2) for size in (len, lambda body: 3 * len(body)))
    assert [sum(each.admit([event]) for _ in range(20)) for each in (plain, escaped)] == [7, 2]


@pytest.mark.parametrize("replies", [[], [{"channel": "/meta/connect"}], [{"id": "1"}, {"id": "2"}]])
@given(sizes=st.lists(st.integers(0, 30), max_size=12), most_bytes=st.integers(1, 100))
def test_parts_are_bounded_and_together_the_answer(
    replies: list[dict[str, object]], sizes: list[int], most_bytes: int
) -> None:
    events = [orjson.dumps("x" * size) for size in sizes]
    parts = list(encode_parts(events, replies, most_bytes))
    told = [each for part in parts for each in orjson.loads(part)]
    assert told == orjson.loads(encode(events, replies))
    for part in parts:
        inside = orjson.loads(part)
        assert len(part) <= most_bytes or len(inside) == 1 or inside == replies
    if replies:
        assert orjson.loads(parts[-1])[-len(replies) :] == replies
