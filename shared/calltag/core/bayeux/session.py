"""A CometD session on the node that holds it, as a plain value with the rules of its own queue.

What is to survive the node (subscriptions, what was sent and confirmed) is in the store; here is what waits to be sent.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple, Protocol

from calltag.core.bayeux.answer_budget import AnswerBudget
from calltag.core.bayeux.channels import matches
from calltag.core.bayeux.codec import Reply
from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.events import Event, Published
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.position import BEGINNING, Position


class Outlet(Protocol):
    """Sends a message to a session's client at once, in the form in which the transport takes it; False if something
    has to wait for that, and so nothing was sent. `one_of_many` says that others are sent the same."""

    def __call__(self, message: bytes, *, one_of_many: bool = False) -> bool: ...


@dataclass(frozen=True, slots=True)
class Held:
    """A /meta/connect whose reply waits. `cycle` numbers the connects of a session."""

    cycle: int
    reply: Reply
    deadline_ms: int


class Waiting(NamedTuple):
    """An event in a session's queue: its position in the user's stream, its text, and when it was accepted."""

    position: Position
    body: bytes
    accepted_at_ms: int


_POSITION: Final = attrgetter("position")


@dataclass(slots=True)
class QueueMemory:
    """Bytes that wait in the queues of all sessions of a node; a session that would pass `most_bytes` is behind."""

    most_bytes: int
    used_bytes: int = 0


@dataclass(slots=True)
class Session:
    """`position` is how far the user's stream was looked through for this session, `sent` how far it was sent.

    While the store is `asked` what the session subscribes to, it takes nothing: what comes meanwhile may be for a
    subscription of which only the store knows. A session that is `behind` takes no more from the stream as it comes:
    its queue is full, or there is more in the store than was read at once, or something came while the store was asked.
    It goes on from its position when the queue was sent. `multiple_clients` says what its client was told last: whether
    other tabs of the browser keep its connects from being held; `farewell` is what it is still to be told of the
    `ending`, and `told_at_ms` when it last got an event, by the node's clock.
    """

    client_id: str
    user: str
    cycle: int
    generation: int
    position: Position
    sent: Position
    acknowledges: bool = False
    numbered: bool = False
    streaming: bool = False
    connects_only: bool = False
    transport: str = "long-polling"
    sent_before: Position = BEGINNING
    """How far the session was sent when its last connect came: what goes out again is not beyond that."""
    answered: Position = BEGINNING
    """How far the session was sent when its last connect was answered; what was pushed since may be on its way."""
    subscriptions: Mapping[str, Position] = field(default_factory=dict)
    behind: bool = False
    asked: bool = False
    reconnecting: bool = False
    """A newer connect has asked the store what the client has: the queue is for its answer, and for no other."""
    overflow: str = ""
    """The limit that the queue met since its owner looked, "" if none."""
    missed: bool = False
    ending: Ending | None = None
    farewell: bytes = b""
    told_at_ms: int | None = None
    multiple_clients: bool = False
    services_active: bool = True
    """The state of the services that the client was told last; until it is told, it takes them for active."""
    held: Held | None = None
    interval_ms: int = 0
    expires_at_ms: int = 0
    noted_deadline_ms: int = 0
    queue: list[Waiting] = field(default_factory=list)
    queued_bytes: int = 0
    memory: QueueMemory | None = None
    """The memory that the queue is counted in, while the session is held."""
    aside: list[bytes] = field(default_factory=list)
    outlet: Outlet | None = None
    """Where events can go out by themselves, past the queue; only a session that pushes has one."""

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        return self.ending is not None

    @property
    def pushes(self) -> bool:
        """Whether events go out by themselves, rather than with a reply."""
        return self.streaming and not self.acknowledges and not self.connects_only

    @property
    def delivers_with_replies(self) -> bool:
        """Whether events go out with the reply to any message."""
        return not self.streaming and not self.acknowledges and not self.connects_only

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell."""
        return self.has_events or (self.missed and not self.reconnecting)

    @property
    def has_events(self) -> bool:
        """Whether there are messages to take now."""
        return not self.reconnecting and bool(self.queue or self.aside)

    def wants(self, channel: str, position: Position) -> bool:
        """Whether a message on the channel at that position is for this session."""
        exactly = self.subscriptions.get(channel)
        if exactly is not None and exactly < position:
            return True
        return any(since < position and matches(pattern, channel) for pattern, since in self.subscriptions.items())

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The store is asked what the session subscribes to while the context is open; if that fails, all stays."""
        before, self.asked = self.asked, True
        try:
            yield
        except BaseException:
            self.asked = before
            raise
        self.asked = False

    @contextmanager
    def reconnected(self) -> Iterator[None]:
        """A connect asks the store what the client has, and what it subscribes to, while the context is open."""
        self.reconnecting = True
        try:
            with self.asking():
                yield
        finally:
            self.reconnecting = False

    def restart(self, after: Position) -> None:
        """Go back to a position: what waits is dropped, and what follows is to be offered and sent again."""
        self.queue.clear()
        self._count(-self.queued_bytes)
        self.position = after
        self.sent = min(self.sent, after)
        self.answered = min(self.answered, after)
        self.behind = False

    def goes_past(self, previous: Position, position: Position) -> bool:
        """Whether the entry there may go out at once: all before it was sent, once, and nothing else is to be told."""
        return previous <= self.position < position > self.sent_before and not (
            self.queue or self.aside or self.behind or self.asked or self.missed or self.farewell
        )

    def wanted(self, entries: Iterable[Published]) -> list[bytes]:
        """The messages of entries that are for this session."""
        return [
            each.numbered(published.position) if self.numbered else each.plain()
            for published in entries
            for each in published.events
            if self.wants(each.channel, published.position)
        ]

    def offer(self, published: Published, limits: BayeuxLimits) -> bool:
        """Take the next entry of the stream, unless it was taken before or the session is behind or asked about.

        Returns whether there is something new to send.
        """
        if published.position <= self.position or self.behind:
            return False
        if self.asked:
            self.behind = True
            return False
        wanted = self.wanted((published,))
        size = sum(map(len, wanted))
        overflow = self._overflow(len(wanted), size, limits) if self.queue and wanted else ""
        if overflow:
            self.behind, self.overflow = True, overflow
            return False
        self.missed = self.missed or published.previous > self.position
        self.position = published.position
        self.queue.extend(Waiting(published.position, body, published.accepted_at_ms) for body in wanted)
        self._count(size)
        return bool(wanted)

    def _overflow(self, more: int, more_bytes: int, limits: BayeuxLimits) -> str:
        """The limit that more would pass, if any."""
        if len(self.queue) + more > limits.max_queued_events:
            return "max_queued_events"
        if self.queued_bytes + more_bytes > limits.max_queued_bytes:
            return "max_queued_bytes"
        memory = self.memory
        return "max_queued_bytes_total" if memory and memory.used_bytes + more_bytes > memory.most_bytes else ""

    def _count(self, more_bytes: int) -> None:
        self.queued_bytes += more_bytes
        if self.memory is not None:
            self.memory.used_bytes += more_bytes

    def leave_memory(self) -> None:
        """The session is held no more: its queue goes with it."""
        if self.memory is not None:
            self.memory.used_bytes -= self.queued_bytes
            self.memory = None

    def offer_aside(self, event: Event, limits: BayeuxLimits) -> bool:
        """Take an event that is in no stream; the oldest goes where there are too many."""
        if not any(matches(pattern, event.channel) for pattern in self.subscriptions):
            return False
        self.aside.append(event.plain())
        while len(self.aside) > limits.max_queued_events:
            del self.aside[0]
        return True

    def offer_services(self, event: Event, limits: BayeuxLimits, *, active: bool) -> bool:
        """Take the state of the services, unless it is what the client was told last."""
        if active == self.services_active or not self.offer_aside(event, limits):
            return False
        self.services_active = active
        return True

    def take_over_services(self, *, active: bool) -> None:
        """Another node held the session meanwhile, and told the client the state of the services."""
        self.aside.clear()
        self.services_active = active

    def repeats(self, waiting: Waiting) -> bool:
        """Whether the event was sent before."""
        return waiting.position <= self.sent_before

    @property
    def has_more(self) -> bool:
        """Whether more waits than was taken last, for the client to come for."""
        return self.behind or (not self.pushes and bool(self.queue or self.aside))

    def take(self, budget: AnswerBudget | None = None) -> list[bytes]:
        """Take what waits, oldest first, as far as the budget admits it; it counts as sent.

        Events of one entry of the stream are taken together: a position cannot tell that only some of them were sent.
        """
        events: list[bytes] = []
        if self.reconnecting:
            return events
        while self.aside and (budget is None or budget.admit(self.aside[:1])):
            events.append(self.aside.pop(0))
        if not self.aside:
            events += self._take_queued(budget)
        if not self.queue:
            self.sent = self.position
        return events

    def _take_queued(self, budget: AnswerBudget | None) -> list[bytes]:
        taken: list[bytes] = []
        for position, waiting in groupby(self.queue, _POSITION):
            bodies = [each.body for each in waiting]
            if budget is not None and not budget.admit(bodies):
                break
            taken += bodies
            self.sent = position
        del self.queue[: len(taken)]
        self._count(-sum(map(len, taken)))
        return taken
