"""The stream of a user on its way into the sessions: in order, whole, each entry once."""

from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from calltag.core.bayeux.events import BEGINNING, Event, Position, StreamedEvent
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.bayeux.session import MOST_BATCHES, Connect, Session
from calltag.core.bayeux.user_feed import Feed, Gap
from parts.bayeux_sessions import TO_ALL, entry, session_at

LIMITS = BayeuxLimits(max_queued_events=3, max_queued_bytes=140)
PAGE = 2


def test_entries_go_to_the_sessions_that_want_them() -> None:
    wants = session_at(client_id="c1", subscriptions=TO_ALL)
    other = session_at(client_id="c2", subscriptions={"/b": BEGINNING})
    feed = Feed("alice", BEGINNING, {"c1": wants, "c2": other})
    assert feed.accept(entry(1, 0), LIMITS) == [wants]
    assert (feed.head, wants.position, other.position) == (1, 1, 1)


def test_an_entry_that_came_before_changes_nothing() -> None:
    here = session_at(subscriptions=TO_ALL)
    feed = Feed("alice", BEGINNING, {"c1": here})
    feed.accept(entry(5, 0), LIMITS)
    for accept in (feed.accept, feed.accept_next):
        assert accept(entry(5, 0), LIMITS) == []
        assert accept(entry(3, 2), LIMITS) == []
    assert (feed.head, len(here.queue)) == (5, 1)


def test_an_entry_after_a_gap_waits_until_the_gap_is_filled() -> None:
    here = session_at(subscriptions=TO_ALL)
    feed = Feed("alice", BEGINNING, {"c1": here})
    with pytest.raises(Gap):
        feed.accept(entry(7, 5), LIMITS)
    assert (feed.head, here.has_news) == (0, False)
    assert feed.accept_next(entry(5, 0), LIMITS) == [here]
    assert feed.accept(entry(7, 5), LIMITS) == [here]
    assert (feed.head, here.has_missed) == (7, False)


def test_a_gap_that_nothing_fills_is_said_to_the_sessions() -> None:
    here = session_at(subscriptions=TO_ALL)
    feed = Feed("alice", BEGINNING, {"c1": here})
    assert feed.accept_next(entry(7, 5), LIMITS) == [here]
    assert here.has_missed


@dataclass(slots=True)
class Got:
    """What the model knows of a session: from where on, and what it has got since; `answers` are the numbers that the
    client may acknowledge, with their positions."""

    session: Session
    since: Position
    wanted: str
    taken: list[tuple[int, int]] = field(default_factory=list)
    missed: bool = False
    answers: dict[int, Position] = field(default_factory=dict)

    def note_jump(self, before: Position, published: StreamedEvent) -> None:
        """The session may have taken an entry, though others between were not offered."""
        if self.session.position == published.position > before < published.previous:
            self.missed = True


class Delivery(RuleBasedStateMachine):
    """A stream that loses its oldest entries, a broker that repeats and drops, and a feed with sessions that come late,
    go back and fall behind."""

    @initialize()
    def begin(self) -> None:
        self.stream: list[StreamedEvent] = []
        self.kept_from = 0
        self.feed = Feed("alice", BEGINNING)
        self.model: dict[str, Got] = {}

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(
        step=st.integers(1, 3),
        channels=st.lists(st.sampled_from(["/a", "/b"]), max_size=4),
        size=st.integers(0, 90),
        arrives=st.booleans(),
    )
    def add(self, step: int, channels: list[str], size: int, arrives: bool) -> None:
        """An entry is added to the stream; the broker brings it at once, or later, or never."""
        previous = self.stream[-1].position if self.stream else BEGINNING
        position = Position(previous + step)
        events = [Event(channel, {"n": [position, i], "x": "x" * size}) for i, channel in enumerate(channels)]
        self.stream.append(StreamedEvent(position, previous, events))
        if arrives:
            self.accept(self.stream[-1])

    @precondition(lambda self: self.stream)
    @rule(data=st.data())
    def bring(self, data: st.DataObject) -> None:
        """The broker brings any entry: the next, an old one, or one after a gap."""
        self.accept(data.draw(st.sampled_from(self.stream)))

    def accept(self, published: StreamedEvent) -> None:
        head, gap = self.feed.head, published.previous > self.feed.head
        try:
            self.feed.accept(published, LIMITS)
        except Gap:
            assert gap
            assert self.feed.head == head
            self.repair()
        else:
            assert not gap
            assert self.feed.head == max(head, published.position)

    @rule()
    def repair(self) -> None:
        """What is kept after the head is read from the store."""
        for published in self.after(self.feed.head):
            before = {got.session.client_id: got.session.position for got in self.model.values()}
            self.feed.accept_next(published, LIMITS)
            for got in self.model.values():
                got.note_jump(before[got.session.client_id], published)

    @precondition(lambda self: self.kept_from + 2 < len(self.stream))
    @rule()
    def trim(self) -> None:
        """The stream loses its oldest entry."""
        self.kept_from += 1

    @precondition(lambda self: len(self.model) < 4)
    @rule(data=st.data(), wanted=st.sampled_from(["/a", "/b", "/**"]), acknowledges=st.booleans())
    def join(self, data: st.DataObject, wanted: str, acknowledges: bool) -> None:
        """A session comes that has the stream up to some position."""
        since = data.draw(st.sampled_from(self.places()))
        here = session_at(since, f"c{len(self.model)}", subscriptions={wanted: BEGINNING}, acknowledges=acknowledges)
        if since < self.feed.head:
            here.fall_behind()
        self.model[here.client_id] = Got(here, since, wanted)
        self.feed.sessions[here.client_id] = here

    def answer(self, got: Got) -> None:
        """The client is sent what waits, and learns whether it missed something."""
        here = got.session
        got.taken += [tuple(orjson.loads(body)["data"]["n"]) for body in here.take()]
        assert here.sent == here.position
        here.note_answer()
        if here.acknowledges:
            got.answers[here.close_batch()] = here.sent
        self.check_taken(got)
        if here.take_missed():
            got.missed = False
            got.since, got.taken = here.sent, []

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def connect(self, data: st.DataObject) -> None:
        """The client says what it has: all, or only some of what was sent, which goes out again; and is answered."""
        got = data.draw(st.sampled_from(list(self.model.values())))
        here = got.session
        before = here.confirmed
        if here.acknowledges:
            number = data.draw(st.sampled_from([0, *got.answers]))
            assert here.confirm(Connect(0, number))
            known = list(got.answers)[-MOST_BATCHES:]
            has = max([got.answers[each] for each in known if each <= number], default=before)
            again = number < here.batch
            # A client that lacks an answer does not have a later one.
            got.answers = {each: answered for each, answered in got.answers.items() if each <= number}
        else:
            again = data.draw(st.booleans())
            has = before if again else min(here.sent, here.answered)
            assert here.confirm(Connect(0, again=again))
        assert here.confirmed == max(before, has)
        if again:
            assert here.sent == here.confirmed
            got.since, got.taken = here.confirmed, []
        while not here.queue and self.read_on(got):
            pass
        self.answer(got)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def catch_up(self, data: st.DataObject) -> None:
        """A session that is behind and has nothing waiting reads one page from the store."""
        self.read_on(data.draw(st.sampled_from(list(self.model.values()))))

    def read_on(self, got: Got) -> bool:
        """Whether there was something to read."""
        here = got.session
        if not here.is_behind or here.queue:
            return False
        entries = self.after(here.position)[:PAGE]
        if not entries and here.position < self.feed.head:
            here.skip(self.feed.head)
            got.missed = True
        here.begin_reading()
        for published in entries:
            before = here.position
            here.offer(published, LIMITS)
            got.note_jump(before, published)
        if len(entries) >= PAGE or here.position < self.feed.head:
            here.fall_behind()
        return True

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def queues_are_bounded(self) -> None:
        for here in self.sessions():
            assert here.queued_bytes == sum(len(body) for _, body, _ in here.queue)
            if len({position for position, _, _ in here.queue}) > 1:
                assert len(here.queue) <= LIMITS.max_queued_events
                assert here.queued_bytes <= LIMITS.max_queued_bytes

    @invariant()
    def a_session_is_level_with_the_feed_or_behind(self) -> None:
        assert all(here.is_behind or here.position >= self.feed.head for here in self.sessions())

    @invariant()
    def what_was_missed_is_said(self) -> None:
        for got in self.model.values():
            assert got.session.has_missed == got.missed

    def check_taken(self, got: Got) -> None:
        """Everything from `since` to where the session is, in order, each once; less only if it says so."""
        due = [
            (int(published.position), i)
            for published in self.stream
            if got.since < published.position <= got.session.sent
            for i, event in enumerate(published.events)
            if got.wanted in ("/**", event.channel)
        ]
        if got.session.has_missed:
            remaining = iter(due)
            assert all(each in remaining for each in got.taken)
        else:
            assert got.taken == due

    # -- the model -----------------------------------------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        return [got.session for got in self.model.values()]

    def after(self, position: Position) -> list[StreamedEvent]:
        return [each for each in self.stream[self.kept_from :] if each.position > position]

    def places(self) -> list[Position]:
        return [BEGINNING, *(each.position for each in self.stream)]


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_latest_entry_is_kept_where_several_sessions_may_come_for_it() -> None:
    feed = Feed("alice", Position(0))
    for count in (1, 2):
        feed.sessions[f"c{count}"] = session_at(client_id=f"c{count}", subscriptions=TO_ALL)
        latest = entry(count, count - 1)
        feed.accept(latest, LIMITS)
        assert feed.latest is (latest if count == 2 else None)
