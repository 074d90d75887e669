"""The stream of a user on its way into the sessions: in order, whole, each entry once."""

from dataclasses import dataclass

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from calltag.core.bayeux.events import Event, Published
from calltag.core.bayeux.feed import Feed, Gap
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.position import BEGINNING, Position
from calltag.core.bayeux.session import Session

LIMITS = BayeuxLimits(max_queued_events=3, max_queued_bytes=140)
PAGE = 2


def session(client_id: str, position: Position = BEGINNING, channel: str = "/**") -> Session:
    return Session(client_id, "alice", 1, 0, position, position, subscriptions={channel: BEGINNING})


def entry(position: int, previous: int) -> Published:
    return Published(Position(position), Position(previous), (Event("/a", {"n": position}),))


def test_entries_go_to_the_sessions_that_want_them() -> None:
    wants, other = session("c1"), session("c2", channel="/b")
    feed = Feed("alice", BEGINNING, {"c1": wants, "c2": other})
    assert feed.accept(entry(1, 0), LIMITS) == [wants]
    assert (feed.head, wants.position, other.position) == (1, 1, 1)


def test_an_entry_that_came_before_changes_nothing() -> None:
    here = session("c1")
    feed = Feed("alice", BEGINNING, {"c1": here})
    feed.accept(entry(5, 0), LIMITS)
    for accept in (feed.accept, feed.accept_next):
        assert accept(entry(5, 0), LIMITS) == []
        assert accept(entry(3, 2), LIMITS) == []
    assert (feed.head, len(here.queue)) == (5, 1)


def test_an_entry_after_a_gap_waits_until_the_gap_is_filled() -> None:
    here = session("c1")
    feed = Feed("alice", BEGINNING, {"c1": here})
    with pytest.raises(Gap):
        feed.accept(entry(7, 5), LIMITS)
    assert (feed.head, here.has_news) == (0, False)
    assert feed.accept_next(entry(5, 0), LIMITS) == [here]
    assert feed.accept(entry(7, 5), LIMITS) == [here]
    assert (feed.head, here.missed) == (7, False)


def test_a_gap_that_nothing_fills_is_said_to_the_sessions() -> None:
    here = session("c1")
    feed = Feed("alice", BEGINNING, {"c1": here})
    assert feed.accept_next(entry(7, 5), LIMITS) == [here]
    assert here.missed


@dataclass(slots=True)
class Got:
    """What the model knows of a session: from where on, and what it has got since."""

    session: Session
    since: Position
    wanted: str
    taken: list[tuple[int, int]]
    missed: bool = False

    def note_jump(self, before: Position, published: Published) -> None:
        """The session may have taken an entry, though others between were not offered."""
        if self.session.position == published.position > before < published.previous:
            self.missed = True


class Delivery(RuleBasedStateMachine):
    """A stream that loses its oldest entries, a bus that repeats and drops, and a feed with sessions that come late,
    go back and fall behind."""

    @initialize()
    def begin(self) -> None:
        self.stream: list[Published] = []
        self.kept_from = 0
        self.feed = Feed("alice", BEGINNING)
        self.model: dict[str, Got] = {}

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(step=st.integers(1, 3), channels=st.lists(st.sampled_from(["/a", "/b"]), max_size=4), size=st.integers(0, 90))
    def add(self, step: int, channels: list[str], size: int) -> None:
        """An entry is added to the stream; the bus may bring it later."""
        previous = self.stream[-1].position if self.stream else BEGINNING
        position = Position(previous + step)
        events = [Event(channel, {"n": [position, i], "x": "x" * size}) for i, channel in enumerate(channels)]
        self.stream.append(Published(position, previous, events))

    @precondition(lambda self: self.stream)
    @rule(data=st.data())
    def bring(self, data: st.DataObject) -> None:
        """The bus brings any entry: the next, an old one, or one after a gap."""
        published = data.draw(st.sampled_from(self.stream))
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

    @precondition(lambda self: self.kept_from < len(self.stream))
    @rule()
    def trim(self) -> None:
        """The stream loses its oldest entry."""
        self.kept_from += 1

    @precondition(lambda self: len(self.model) < 4)
    @rule(data=st.data(), wanted=st.sampled_from(["/a", "/b", "/**"]))
    def join(self, data: st.DataObject, wanted: str) -> None:
        """A session comes that has the stream up to some position."""
        since = data.draw(st.sampled_from(self.places()))
        here = session(f"c{len(self.model)}", since, wanted)
        here.behind = since < self.feed.head
        self.model[here.client_id] = Got(here, since, wanted, [])
        self.feed.sessions[here.client_id] = here

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """A session goes back: its client lacks what was sent."""
        got = data.draw(st.sampled_from(list(self.model.values())))
        after = data.draw(st.sampled_from([each for each in self.places() if each <= got.session.position]))
        got.session.restart(after)
        got.session.behind = after < self.feed.head
        got.since, got.taken = after, []
        got.session.missed = got.missed = False
        assert not got.session.queue

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        """The client gets what waits."""
        got = data.draw(st.sampled_from(list(self.model.values())))
        got.taken += [tuple(orjson.loads(body)["data"]["n"]) for body in got.session.take()]
        assert got.session.sent == got.session.position
        self.check_taken(got)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def catch_up(self, data: st.DataObject) -> None:
        """A session that is behind and has nothing waiting reads one page from the store."""
        got = data.draw(st.sampled_from(list(self.model.values())))
        here = got.session
        if not here.behind or here.queue:
            return
        entries = self.after(here.position)[:PAGE]
        here.behind = False
        for published in entries:
            before = here.position
            here.offer(published, LIMITS)
            got.note_jump(before, published)
        if not entries and here.position < self.feed.head:
            here.position, here.missed, got.missed = self.feed.head, True, True
        here.behind = here.behind or len(entries) >= PAGE or here.position < self.feed.head

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
        assert all(here.behind or here.position >= self.feed.head for here in self.sessions())

    @invariant()
    def what_was_missed_is_said(self) -> None:
        for got in self.model.values():
            assert got.session.missed == got.missed

    def check_taken(self, got: Got) -> None:
        """Everything from `since` to where the session is, in order, each once; less only if it says so."""
        due = [
            (int(published.position), i)
            for published in self.stream
            if got.since < published.position <= got.session.sent
            for i, event in enumerate(published.events)
            if got.wanted in ("/**", event.channel)
        ]
        if got.session.missed:
            remaining = iter(due)
            assert all(each in remaining for each in got.taken)
        else:
            assert got.taken == due

    # -- the model -----------------------------------------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        return [got.session for got in self.model.values()]

    def after(self, position: Position) -> list[Published]:
        return [each for each in self.stream[self.kept_from :] if each.position > position]

    def places(self) -> list[Position]:
        return [BEGINNING, *(each.position for each in self.stream)]


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_latest_entry_is_kept_where_several_sessions_may_come_for_it() -> None:
    feed = Feed("alice", Position(0))
    for count in (1, 2):
        feed.sessions[f"c{count}"] = session(f"c{count}")
        latest = entry(count, count - 1)
        feed.accept(latest, LIMITS)
        assert feed.latest is (latest if count == 2 else None)
