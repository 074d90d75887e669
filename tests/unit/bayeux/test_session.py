"""What waits in a session: order, bounds, and what a session takes from its user's stream."""

from typing import Any

import orjson
import pytest

from calltag.core.bayeux.deadlines import Deadlines
from calltag.core.bayeux.events import BEGINNING, Event, Position, StreamedEvent
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.bayeux.session import UNSAVED_BATCHES, Connect, Ending, QueueMemory, Session, SessionPhase, Step
from parts.bayeux_sessions import entry, numbers, session_at

LIMITS = BayeuxLimits(max_queued_events=3, max_queued_bytes=1_000)


def session(position: int = 0, **more: Any) -> Session:
    """A session that is subscribed to /a."""
    return session_at(position, subscriptions={"/a": BEGINNING, **more.pop("subscriptions", {})}, **more)


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
    assert (here.is_behind, here.position) == (True, 2)
    assert numbers(here.take()) == [1, 2]
    here.begin_reading()
    here.offer(entry(3, 2, Event("/a", {"n": 3}), Event("/b", {"n": 4})), LIMITS)
    assert numbers(here.take()) == [3, 4]


def test_a_session_with_a_full_queue_falls_behind_and_loses_nothing() -> None:
    here = session()
    assert [here.offer(entry(each), LIMITS) for each in (1, 2, 3, 4)] == [True, True, True, False]
    assert (here.is_behind, here.position, here.has_missed) == (True, 3, False)
    assert (here.take_overflow(), here.take_overflow()) == ("max_queued_events", "")
    assert numbers(here.take()) == [1, 2, 3]
    assert here.sent == 3
    assert not here.offer(entry(5), LIMITS), "it goes on from the store, not from the middle"


def test_an_entry_that_is_not_wanted_does_not_fill_the_queue() -> None:
    here = session()
    for each in (1, 2, 3):
        here.offer(entry(each), LIMITS)
    for limits in (LIMITS, BayeuxLimits(max_queued_bytes=5)):
        assert not here.offer(entry(here.position + 1, here.position, Event("/b", {})), limits)
    assert (here.is_behind, here.position) == (False, 5)


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_the_queue_is_bounded_in_bytes(spare: int, fits: bool) -> None:
    size = len(Event("/a", {"n": 1}).plain())
    limits = BayeuxLimits(max_queued_events=9, max_queued_bytes=2 * size + spare)
    here = session()
    here.offer(entry(1), limits)
    assert here.offer(entry(2), limits) is fits
    assert (here.is_behind, here.queued_bytes <= limits.max_queued_bytes) == (not fits, True)
    assert here.take_overflow() == ("" if fits else "max_queued_bytes")


def test_an_event_that_is_larger_than_the_queue_goes_alone() -> None:
    limits = BayeuxLimits(max_queued_bytes=5)
    here = session()
    assert here.offer(entry(1), limits)
    assert not here.offer(entry(2), limits)
    assert numbers(here.take()) == [1]


def test_what_is_not_kept_any_more_is_said() -> None:
    here = session(position=3)
    assert here.offer(entry(9, previous=7), LIMITS)
    assert (here.has_missed, here.has_news, here.position) == (True, True, 9)
    here = session(position=3)
    assert not here.offer(entry(9, 7, Event("/b", {})), LIMITS)
    assert here.has_news, "that something was missed is news in itself"


def test_what_was_missed_stays_so_until_it_is_said() -> None:
    here = session(position=3)
    here.offer(entry(9, previous=7), LIMITS)
    here.offer(entry(10), LIMITS)
    assert (here.take_missed(), here.take_missed(), here.has_missed) == (True, False, False)


def test_who_asks_for_replay_finds_ids_in_the_events() -> None:
    event = Event("/a", {"n": 1}, {"e": 1}, "2026-11-30T07:00:00.000Z")
    plain, numbered = session(), session(is_numbered=True)
    for here in (plain, numbered):
        here.offer(StreamedEvent(Position(17), Position(0), (event,)), LIMITS)
    assert orjson.loads(plain.take()[0]) == {"channel": "/a", "data": {"n": 1}, "ext": {"e": 1}}
    [body] = numbered.take()
    told = {"replayId": 17, "createdDate": "2026-11-30T07:00:00.000Z"}
    assert orjson.loads(body) == {"channel": "/a", "data": {"n": 1, "event": told}, "ext": {"e": 1}}


def test_an_event_of_which_nobody_knows_when_it_came_about_has_no_date() -> None:
    assert orjson.loads(Event("/a", {}).numbered(Position(17)))["data"] == {"event": {"replayId": 17}}


def test_an_event_is_encoded_once_for_all() -> None:
    event = Event("/a", {"n": 1})
    assert event.plain() is event.plain()
    assert event.numbered(Position(1)) is event.numbered(Position(1))


def test_events_that_are_in_no_stream_go_first_and_the_oldest_give_way() -> None:
    here = session()
    here.offer(entry(1), LIMITS)
    assert not here.offer_services(Event("/b", {"n": 0}), LIMITS, active=False)
    for each in (10, 11, 12, 13):
        assert here.offer_services(Event("/a", {"n": each}), LIMITS, active=each % 2 == 1)
    assert here.has_news
    assert numbers(here.take()) == [11, 12, 13, 1]
    assert not here.aside


def test_the_state_of_the_services_is_told_where_the_client_knows_another() -> None:
    here = session()
    told = Event("/a", {"n": 0})
    assert [here.offer_services(told, LIMITS, active=active) for active in (True, False, False)] == [False, True, False]
    for was_told in (True, False):
        assert here.services_notified is was_told, "what waits is not told yet"
        here.take()
    assert not session(subscriptions={}).offer_services(Event("/b", {}), LIMITS, active=False)


@pytest.mark.parametrize(
    ("is_streaming", "acknowledges", "connects_only", "pushes", "delivers"),
    [
        (True, False, False, True, False),
        (True, False, True, False, False),
        (True, True, False, False, False),
        (False, False, False, False, True),
        (False, False, True, False, False),
        (False, True, False, False, False),
    ],
)
def test_how_events_go_out(
    is_streaming: bool, acknowledges: bool, connects_only: bool, pushes: bool, delivers: bool
) -> None:
    """Pushed, with the reply to any message, or (neither) with those to connects alone, which acknowledge them."""
    here = session(is_streaming=is_streaming, acknowledges=acknowledges, connects_only=connects_only)
    assert (here.pushes, here.delivers_with_replies) == (pushes, delivers)


@pytest.mark.parametrize(("wish", "only"), [(None, True), (True, True), (False, False)])
def test_a_session_has_its_way_before_its_transport_has(wish: bool | None, only: bool) -> None:
    here = session(wishes_connects_only=wish)
    here.served_by("websocket", is_streaming=True, connects_only=True)
    assert (here.transport, here.is_streaming, here.connects_only) == ("websocket", True, only)


# -- connects ----------------------------------------------------------------------------------------------------------


def sent(*positions: int, **more: Any) -> Session:
    """A session that was sent entries in answer to one connect each."""
    here = session(**more)
    for position in positions:
        here.offer(entry(position), LIMITS)
        here.take()
        here.note_sent()
        here.note_answer()
        if here.acknowledges:
            here.close_batch()
    return here


def test_a_connect_is_answered_at_first_and_suspended_when_nothing_waits() -> None:
    here = session()
    assert [here.next_step(Connect(1_000)) for _ in range(2)] == [Step.ANSWER, Step.SUSPEND]


@pytest.mark.parametrize(
    ("connect", "step"),
    [
        (Connect(1_000), Step.SUSPEND),
        (Connect(0), Step.ANSWER),
        (Connect(1_000, is_alone=False), Step.ANSWER),
    ],
)
def test_a_connect_in_a_hurry_or_with_others_is_answered_at_once(connect: Connect, step: Step) -> None:
    assert session(has_connected=True).next_step(connect) is step


@pytest.mark.parametrize(("pushes", "step"), [(False, Step.ANSWER), (True, Step.SUSPEND)])
def test_what_waits_answers_a_connect_unless_it_is_pushed(pushes: bool, step: Step) -> None:
    here = session(has_connected=True, is_streaming=pushes)
    here.offer(entry(1), LIMITS)
    assert here.next_step(Connect(1_000)) is step


def test_a_client_that_comes_again_has_what_it_was_answered() -> None:
    here = sent(1, 2)
    here.offer(entry(3), LIMITS)
    assert here.confirm(Connect(0))
    assert (here.confirmed, here.sent, numbers(here.take())) == (2, 2, [3])


def test_a_client_that_may_lack_an_answer_gets_it_again() -> None:
    here = sent(1)
    here.confirm(Connect(0))
    here.offer(entry(2), LIMITS)
    here.take()
    here.note_answer()
    here.offer(entry(3), LIMITS)
    assert here.confirm(Connect(0, again=True))
    assert (here.confirmed, here.sent, here.position, here.is_behind, here.queued_bytes) == (1, 1, 1, True, 0)


def test_what_was_pushed_after_an_answer_may_be_on_its_way() -> None:
    here = sent(1, is_streaming=True)
    assert here.can_push_directly(Position(1), Position(2))
    here.went_out(Position(2))
    here.confirm(Connect(0))
    assert (here.confirmed, here.sent) == (1, 2)
    here.confirm_sent()
    assert here.confirmed == 2, "the client closed its connection in order"


def test_a_closed_connection_does_not_acknowledge() -> None:
    here = sent(1, acknowledges=True)
    here.confirm_sent()
    assert here.confirmed == 0


@pytest.mark.parametrize(
    ("number", "confirmed", "behind"), [(None, 0, True), (0, 0, True), (1, 1, True), (2, 2, True), (3, 3, False)]
)
def test_a_number_acknowledges_its_answer_and_all_before(number: int | None, confirmed: int, behind: bool) -> None:
    here = sent(1, 2, 3, acknowledges=True)
    assert here.confirm(Connect(0, number))
    assert (here.confirmed, here.sent, here.is_behind) == (confirmed, max(confirmed, here.confirmed), behind)
    assert [each for each, _ in here.batches] == list(range((number or 0) + 1, 4))


def test_a_number_that_this_home_did_not_give_is_for_the_store() -> None:
    here = sent(1, acknowledges=True)
    assert not here.confirm(Connect(0, 2))
    assert (here.confirmed, here.batches) == (0, [(1, 1)])


def test_a_client_that_acknowledges_nothing_costs_no_memory() -> None:
    here = session(acknowledges=True)
    assert [here.close_batch() for _ in range(100)] == list(range(1, 101))
    assert len(here.batches) == 16


def test_an_event_that_was_sent_once_is_a_repeat() -> None:
    here = sent(1)
    here.confirm(Connect(0, again=True))
    here.begin_reading()
    for position in (1, 2):
        here.offer(entry(position), LIMITS)
    assert [here.repeats(each) for each in here.queue] == [True, False]


# -- claims ------------------------------------------------------------------------------------------------------------


def test_an_exact_claim_goes_on_with_the_numbers_of_the_former_home() -> None:
    here = session(acknowledges=True, batch=7)
    here.adopt(7, is_exact=True)
    assert (here.close_batch(), here.confirm(Connect(0, 8))) == (8, True)


@pytest.mark.parametrize("acknowledged", [None, 5, 7, 9])
def test_a_claim_of_what_is_not_exact_gives_no_number_twice(acknowledged: int | None) -> None:
    """Its former home may have given numbers that it did not save, 9 perhaps, for whatever position."""
    here = session(5, acknowledges=True, batch=7, batches=[(6, Position(3)), (7, Position(5))], confirmed=Position(2))
    here.adopt(acknowledged, is_exact=False)
    assert here.confirm(Connect(0, acknowledged))
    assert here.close_batch() > 7 + UNSAVED_BATCHES
    assert (here.confirmed, here.is_behind) == ({7: 5, 9: 5}.get(acknowledged or 0, 2), acknowledged in (None, 5))


def test_a_client_that_does_not_acknowledge_has_no_numbers_to_skip() -> None:
    here = session()
    here.adopt(None, is_exact=False)
    assert here.batch == 0


def test_while_the_store_is_asked_nothing_is_taken_or_sent() -> None:
    here = session()
    here.offer(entry(1), LIMITS)
    here.begin_claim()
    assert (here.has_news, here.has_messages, here.take(), here.can_push_directly(Position(1), Position(2))) == (
        False, False, [], False,
    )  # fmt: skip
    assert not here.offer(entry(2), LIMITS)
    here.claimed(2)
    assert (here.cycle, here.state) == (2, SessionPhase.BEHIND)
    assert numbers(here.take()) == [1]


def test_a_session_that_stays_at_home_and_overlooked_nothing_goes_on() -> None:
    here = session()
    here.begin_claim()
    here.claimed(2)
    assert here.state is SessionPhase.LIVE


@pytest.mark.parametrize(
    ("was", "overlooks", "state"),
    [
        (SessionPhase.LIVE, False, SessionPhase.LIVE),
        (SessionPhase.LIVE, True, SessionPhase.BEHIND),
        (SessionPhase.BEHIND, False, SessionPhase.BEHIND),
    ],
)
def test_a_claim_without_an_answer_leaves_all_as_it_was(
    was: SessionPhase, overlooks: bool, state: SessionPhase
) -> None:
    here = session(state=was)
    here.begin_claim()
    if overlooks:
        here.offer(entry(1), LIMITS)
    here.give_up_claim()
    assert (here.state, here.cycle) == (state, 1)


def test_a_claim_that_fails_does_not_revive_a_session() -> None:
    here = session()
    here.begin_claim()
    here.end(Ending.EXPIRED)
    here.give_up_claim()
    assert (here.is_over, here.ending) == (True, Ending.EXPIRED)


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_deadlines_come_in_order_and_none_early() -> None:
    deadlines = Deadlines[str]()
    for at, name in ((30, "c"), (10, "a"), (20, "b"), (10, "d")):
        deadlines.add(at, name)
    assert list(deadlines.due(9)) == []
    assert list(deadlines.due(20)) == [("a", 10), ("d", 10), ("b", 20)]
    assert list(deadlines.due(20)) == []


def test_a_deadline_that_is_added_meanwhile_is_seen_if_it_has_passed() -> None:
    deadlines = Deadlines[str]()
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


def with_past(since: int, position: int) -> Session:
    """A session at a position that wants the messages on /a since an earlier one."""
    here = session_at(position, subscriptions={})
    here.subscribe({"/a": Position(since)}, {"/a": Position(since)}, 1)
    assert (here.replays.read_to, here.replays.is_read) == (since, False)
    return here


def test_a_past_of_which_a_part_is_not_kept_any_longer_is_missed() -> None:
    here = with_past(3, 10)
    here.fill([entry(8, previous=6)], Position(10), LIMITS)
    assert (here.has_missed, here.replays.is_read, numbers(here.take())) == (True, True, [8])


@pytest.mark.parametrize("kept", [[entry(11, previous=10)], []])
def test_a_past_of_which_nothing_is_kept_any_longer_is_missed(kept: list[StreamedEvent]) -> None:
    here = with_past(3, 10)
    here.fill(kept, Position(10), LIMITS)
    assert (here.has_missed, here.replays.is_read, numbers(here.take())) == (True, True, [])


def test_all_that_is_kept_is_wanted_and_no_more() -> None:
    here = with_past(0, 10)
    here.fill([entry(11, previous=10)], Position(10), LIMITS)
    assert (here.has_missed, here.replays.is_read) == (False, True)


def test_the_past_ends_where_the_stream_goes_on() -> None:
    here = with_past(3, 10)
    here.fill([entry(5, 3), entry(11, 5)], Position(11), LIMITS)
    assert (here.has_missed, here.replays.read_to, numbers(here.take())) == (False, 10, [5])


def test_a_past_that_is_too_much_at_once_is_read_in_parts() -> None:
    here = with_past(3, 10)
    here.fill([entry(each) for each in range(4, 11)], Position(10), LIMITS)
    assert (here.replays.read_to, here.replays.is_read, numbers(here.take())) == (6, False, [4, 5, 6])
    here.fill([entry(each) for each in range(7, 11)], Position(10), LIMITS)
    assert (here.replays.read_to, here.replays.is_read, numbers(here.take())) == (9, False, [7, 8, 9])


def test_a_claim_does_not_revive_a_session_that_has_ended_meanwhile() -> None:
    here = session()
    here.begin_claim()
    here.end(Ending.DISCONNECTED)
    here.claimed(2)
    assert (here.state, here.cycle) == (SessionPhase.ENDED, 2)
