"""What waits in a session: order, bounds, and what a session takes from its user's stream."""

from typing import Any

import orjson
import pytest

from calltag.core.bayeux.deadlines import Deadlines
from calltag.core.bayeux.events import Event, Published
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.position import BEGINNING, Position
from calltag.core.bayeux.session import QueueMemory, Session

LIMITS = BayeuxLimits(max_queued_events=3, max_queued_bytes=1_000)


def session(position: int = 0, **more: Any) -> Session:
    subscriptions = {"/a": BEGINNING, **more.pop("subscriptions", {})}
    return Session("c1", "alice", 1, 0, Position(position), Position(position), subscriptions=subscriptions, **more)


def entry(position: int, previous: int | None = None, *events: Event) -> Published:
    """An entry with one event on /a, or with the events given."""
    before = position - 1 if previous is None else previous
    return Published(Position(position), Position(before), events or (Event("/a", {"n": position}),))


def numbers(bodies: list[bytes]) -> list[int]:
    return [orjson.loads(body)["data"]["n"] for body in bodies]


def test_what_waits_goes_out_once_and_oldest_first() -> None:
    here = session()
    assert not here.has_news
    assert here.offer(entry(1), LIMITS)
    assert here.offer(entry(2), LIMITS)
    assert (here.has_news, here.sent, here.queued_bytes) == (True, 0, sum(len(body) for _, body, _ in here.queue))
    assert numbers(here.take()) == [1, 2]
    assert (here.take(), here.has_news, here.sent, here.queued_bytes) == ([], False, 2, 0)


def test_an_entry_that_was_taken_before_is_not_taken_again() -> None:
    here = session(position=5)
    assert not here.offer(entry(5), LIMITS)
    assert here.offer(entry(6), LIMITS)
    assert not here.offer(entry(6), LIMITS)
    assert numbers(here.take()) == [6]


def test_an_event_on_another_channel_is_passed_over() -> None:
    here = session()
    assert not here.offer(entry(1, 0, Event("/b", {"n": 1})), LIMITS)
    assert (here.position, here.has_news) == (1, False)


def test_an_event_that_several_subscriptions_cover_comes_once() -> None:
    here = session(subscriptions={"/*": BEGINNING, "/**": BEGINNING})
    here.offer(entry(1), LIMITS)
    assert numbers(here.take()) == [1]


def test_a_subscription_wants_what_comes_after_its_position() -> None:
    here = session(subscriptions={"/a": Position(2), "/b": Position(1)})
    assert [here.wants("/a", Position(each)) for each in (1, 2, 3)] == [False, False, True]
    assert here.wants("/b", Position(2))
    assert not here.wants("/c", Position(2))


def test_events_out_of_one_entry_stay_together() -> None:
    here = session(subscriptions={"/b": BEGINNING})
    here.offer(entry(1), LIMITS)
    here.offer(entry(2), LIMITS)
    assert not here.offer(entry(3, 2, Event("/a", {"n": 3}), Event("/b", {"n": 4})), LIMITS)
    assert (here.behind, here.position) == (True, 2)
    here.restart(here.position)
    here.offer(entry(3, 2, Event("/a", {"n": 3}), Event("/b", {"n": 4})), LIMITS)
    assert numbers(here.take()) == [3, 4]


def test_a_session_with_a_full_queue_falls_behind_and_loses_nothing() -> None:
    here = session()
    assert [here.offer(entry(each), LIMITS) for each in (1, 2, 3, 4)] == [True, True, True, False]
    assert (here.behind, here.position, here.missed) == (True, 3, False)
    assert here.overflow == "max_queued_events"
    assert numbers(here.take()) == [1, 2, 3]
    assert here.sent == 3
    assert not here.offer(entry(5), LIMITS), "it goes on from the store, not from the middle"


def test_an_entry_that_is_not_wanted_does_not_fill_the_queue() -> None:
    here = session()
    for each in (1, 2, 3):
        here.offer(entry(each), LIMITS)
    for limits in (LIMITS, BayeuxLimits(max_queued_bytes=5)):
        assert not here.offer(entry(here.position + 1, here.position, Event("/b", {})), limits)
    assert (here.behind, here.position) == (False, 5)


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_the_queue_is_bounded_in_bytes(spare: int, fits: bool) -> None:
    size = len(Event("/a", {"n": 1}).plain())
    limits = BayeuxLimits(max_queued_events=9, max_queued_bytes=2 * size + spare)
    here = session()
    here.offer(entry(1), limits)
    assert here.offer(entry(2), limits) is fits
    assert (here.behind, here.queued_bytes <= limits.max_queued_bytes) == (not fits, True)
    assert here.overflow == ("" if fits else "max_queued_bytes")


def test_an_event_that_is_larger_than_the_queue_goes_alone() -> None:
    limits = BayeuxLimits(max_queued_bytes=5)
    here = session()
    assert here.offer(entry(1), limits)
    assert not here.offer(entry(2), limits)
    assert numbers(here.take()) == [1]


def test_what_is_not_kept_any_more_is_said() -> None:
    here = session(position=3)
    assert here.offer(entry(9, previous=7), LIMITS)
    assert (here.missed, here.has_news, here.position) == (True, True, 9)
    here = session(position=3)
    assert not here.offer(entry(9, 7, Event("/b", {})), LIMITS)
    assert here.has_news, "that something was missed is news in itself"


def test_what_was_missed_stays_so_until_it_is_said() -> None:
    here = session(position=3)
    here.offer(entry(9, previous=7), LIMITS)
    here.offer(entry(10), LIMITS)
    assert here.missed


def test_a_session_that_restarts_takes_what_follows_again() -> None:
    here = session(behind=True)
    here.behind = False
    for each in (1, 2):
        here.offer(entry(each), LIMITS)
    here.behind = True
    here.restart(BEGINNING)
    assert (here.behind, here.position, here.has_news, here.queued_bytes) == (False, 0, False, 0)
    here.offer(entry(1), LIMITS)
    assert numbers(here.take()) == [1]
    here.restart(Position(5))
    assert here.sent == 1
    here.restart(BEGINNING)
    assert here.sent == 0


def test_who_asks_for_replay_finds_ids_in_the_events() -> None:
    event = Event("/a", {"n": 1}, {"e": 1})
    plain, numbered = session(), session(numbered=True)
    for here in (plain, numbered):
        here.offer(Published(Position(17), Position(0), (event,)), LIMITS)
    assert orjson.loads(plain.take()[0]) == {"channel": "/a", "data": {"n": 1}, "ext": {"e": 1}}
    [body] = numbered.take()
    assert orjson.loads(body) == {"channel": "/a", "data": {"n": 1, "event": {"replayId": 17}}, "ext": {"e": 1}}


def test_an_event_is_encoded_once_for_all() -> None:
    event = Event("/a", {"n": 1})
    assert event.plain() is event.plain()
    assert event.numbered(Position(1)) is event.numbered(Position(1))


def test_events_that_are_in_no_stream_go_first_and_the_oldest_give_way() -> None:
    here = session()
    here.offer(entry(1), LIMITS)
    assert not here.offer_aside(Event("/b", {"n": 0}), LIMITS)
    for each in (10, 11, 12, 13):
        assert here.offer_aside(Event("/a", {"n": each}), LIMITS)
    assert here.has_news
    assert numbers(here.take()) == [11, 12, 13, 1]
    assert not here.aside


@pytest.mark.parametrize(
    ("streaming", "acknowledges", "pushes"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_events_are_pushed_unless_connects_acknowledge_them(streaming: bool, acknowledges: bool, pushes: bool) -> None:
    assert session(streaming=streaming, acknowledges=acknowledges).pushes is pushes


def test_deadlines_come_in_order_and_none_early() -> None:
    deadlines = Deadlines()
    for at, name in ((30, "c"), (10, "a"), (20, "b"), (10, "d")):
        deadlines.add(at, name)
    assert list(deadlines.due(9)) == []
    assert list(deadlines.due(20)) == [("a", 10), ("d", 10), ("b", 20)]
    assert list(deadlines.due(20)) == []


def test_a_deadline_that_is_added_meanwhile_is_seen_if_it_has_passed() -> None:
    deadlines = Deadlines()
    deadlines.add(10, "a")
    seen = []
    for name, _ in deadlines.due(20):
        seen.append(name)
        if name == "a":
            deadlines.add(15, "b")
            deadlines.add(25, "c")
    assert seen == ["a", "b"]


def test_a_queue_gives_its_bytes_back_once() -> None:
    memory = QueueMemory(10_000)
    here, other = session(memory=memory), session(memory=memory)
    assert here.offer(entry(1), LIMITS)
    assert other.offer(entry(1), LIMITS)
    assert memory.used_bytes == 2 * other.queued_bytes
    for _ in range(2):
        here.leave_memory()
        assert memory.used_bytes == other.queued_bytes
