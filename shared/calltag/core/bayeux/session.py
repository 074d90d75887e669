"""A CometD session at its home: a state machine without I/O, clock or tasks.

Its inputs are connects, entries of the user's stream, and replies of Redis; its outputs are actions: answer, suspend,
read the stream, or claim the session. Only its own methods assign its fields."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from itertools import groupby
from operator import attrgetter
from typing import Final

from calltag.core.bayeux.channels import matches
from calltag.core.bayeux.events import BEGINNING, Event, Position, Queued, StreamedEvent
from calltag.core.bayeux.messages import AnswerBudget, BayeuxLimits
from calltag.core.bayeux.replays import Progress, Replays


class Ending(StrEnum):
    """Reason for the end of a session.

    In this order: the client disconnected; it sent nothing for too long; it sent only connects for too long; the login
    that authenticated its user ended; an operator closed it.
    """

    DISCONNECTED = "disconnected"
    EXPIRED = "expired"
    INACTIVE = "inactive"
    LOGIN_ENDED = "login_ended"
    CLOSED = "closed"


UNSAVED_BATCHES: Final = 65_536
"""More acknowledgement numbers than a home can assign between two saves. A claim without a flush by the former home
skips them, so that no number stands for two positions."""
MOST_BATCHES: Final = 16
"""Maximum number of unacknowledged batches that are kept."""
_POSITION: Final = attrgetter("position")


class SessionPhase(Enum):
    """States of a session."""

    CLAIMING = auto()
    """A claim is in flight; nothing is read from the stream or sent."""
    LIVE = auto()
    """The queue has all unsent events of the stream."""
    BEHIND = auto()
    """The stream has more than the queue, and is read before the next reply."""
    ENDED = auto()


class Step(Enum):
    """Actions for a connect."""

    ANSWER = auto()
    SUSPEND = auto()


@dataclass(slots=True)
class QueueMemory:
    """Memory budget of all queues of a node; a session that would exceed `most_bytes` falls behind."""

    most_bytes: int
    used_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Connect:
    """A /meta/connect as the session sees it."""

    timeout_ms: int
    acknowledged: int | None = None
    """Acknowledgement number from the client."""
    again: bool = False
    """The client may lack the last reply, and does not acknowledge."""
    is_alone: bool = True
    """The request has no other message."""


@dataclass(slots=True, eq=False)
class Session:
    """Positions in the user's stream: `position` is the last one queued or skipped, `sent` the last one sent,
    `confirmed` the last one that the client certainly has. `answered` is the value of `sent` at the last reply to a
    connect; events pushed since may be in flight.

    A subscription may begin before `sent`: these messages are read once, and sent before those that follow `sent`.
    """

    client_id: str
    user: str
    cycle: int
    confirmed: Position
    sent: Position
    position: Position
    answered: Position
    acknowledges: bool = False
    connects_only: bool = False
    """Events are sent with replies to connects only."""
    is_streaming: bool = False
    """The client has a WebSocket."""
    is_numbered: bool = False
    """Messages have `data.event` with their position."""
    transport: str = "long-polling"
    wishes_connects_only: bool | None = None
    state: SessionPhase = SessionPhase.LIVE
    subscriptions: Mapping[str, Position] = field(default_factory=dict)
    changes: int = 0
    """Version of the subscriptions in Redis."""
    replays: Replays = field(default_factory=Replays)
    batch: int = 0
    batches: list[tuple[int, Position]] = field(default_factory=list)
    queue: list[Queued] = field(default_factory=list)
    queued_bytes: int = 0
    """Size of `queue` and of the queue of the replays."""
    aside: list[bytes] = field(default_factory=list)
    """Messages outside the stream: the state of the services."""
    memory: QueueMemory | None = None
    overflow: str = ""
    has_connected: bool = False
    has_missed: bool = False
    """Events were lost by retention."""
    ending: Ending | None = None
    services_active: bool = True
    """The state of the services that was sent to the client last."""
    highest: Position = BEGINNING
    """Highest position that was sent; events up to here are repeats."""
    missed_while_claiming: bool = False
    """Events were received, or the stream had more, during the claim."""

    # -- properties ----------------------------------------------------------------------------------------------

    @property
    def pushes(self) -> bool:
        """Return whether events are pushed."""
        return self.is_streaming and not self.acknowledges and not self.connects_only

    @property
    def delivers_with_replies(self) -> bool:
        """Return whether events are sent with the reply to any message."""
        return not self.is_streaming and not self.acknowledges and not self.connects_only

    @property
    def has_news(self) -> bool:
        """Return whether there is something to send."""
        return (
            bool(self.queue or self.aside or self.replays.queue or self.has_missed)
            and self.state is not SessionPhase.CLAIMING
        )

    @property
    def has_messages(self) -> bool:
        """Return whether there are messages to send."""
        return bool(self.queue or self.aside or self.replays.queue) and self.state is not SessionPhase.CLAIMING

    @property
    def services_notified(self) -> bool:
        """Return the state of the services that was sent last."""
        return self.services_active is not bool(self.aside)

    @property
    def is_over(self) -> bool:
        return self.state is SessionPhase.ENDED

    @property
    def has_more(self) -> bool:
        """Return whether another connect would be answered at once."""
        return self.needs_reading or (not self.pushes and bool(self.queue or self.aside or self.replays.queue))

    @property
    def needs_reading(self) -> bool:
        """Return whether the stream has to be read before the next reply."""
        return self.state is SessionPhase.BEHIND or not self.replays.is_read

    @property
    def is_behind(self) -> bool:
        """Return whether the stream has more than the queue."""
        return self.state is SessionPhase.BEHIND

    def wants(self, channel: str, position: Position) -> bool:
        """Return whether the session is subscribed to a message."""
        exactly = self.subscriptions.get(channel)
        if exactly is not None and exactly < position:
            return True
        return any(since < position and matches(pattern, channel) for pattern, since in self.subscriptions.items())

    def queued(self, published: StreamedEvent, wants: Callable[[str, Position], bool] | None = None) -> list[Queued]:
        """Return the messages of an entry that this session, or the predicate `wants`, asks for."""
        position, accepted_at_ms, wants = published.position, published.accepted_at_ms, wants or self.wants
        return [
            Queued(position, each.numbered(position) if self.is_numbered else each.plain(), accepted_at_ms)
            for each in published.events
            if wants(each.channel, position)
        ]

    # -- connects ------------------------------------------------------------------------------------------------

    def served_by(self, transport: str, *, is_streaming: bool, connects_only: bool) -> None:
        """Note the transport of the connects; `connects_only` is its default, which an option of the session
        overrides."""
        self.transport, self.is_streaming = transport, is_streaming
        self.connects_only = connects_only if self.wishes_connects_only is None else self.wishes_connects_only

    def number_messages(self) -> None:
        """Add positions to messages from now on (extension `replay`)."""
        self.is_numbered = True

    def next_step(self, connect: Connect) -> Step:
        """Return the action for a connect, after `confirm` and reading of the stream."""
        is_first, self.has_connected = not self.has_connected, True
        is_due = self.has_news and not self.pushes
        if is_first or is_due or connect.timeout_ms == 0 or not connect.is_alone:
            return Step.ANSWER
        return Step.SUSPEND

    def confirm(self, connect: Connect) -> bool:
        """Confirm the events that the client has received; the rest is sent again.

        Return False if another home assigned the acknowledged number: its position is known from Redis only.
        """
        if self.acknowledges:
            number = connect.acknowledged or 0
            if number > self.batch:
                return False
            self._acknowledge(number)
            has_all = number == self.batch
        else:
            has_all = not connect.again
            if has_all:
                self._confirm(min(self.sent, self.answered))
        if has_all:
            self.replays.confirm()
        else:
            self.rewind()
        return True

    def _acknowledge(self, number: int) -> None:
        known = [position for batch, position in self.batches if batch <= number]
        if known:
            del self.batches[: len(known)]
            self._confirm(known[-1])

    def _confirm(self, position: Position) -> None:
        self.confirmed = max(self.confirmed, position)

    def confirm_sent(self) -> None:
        """Confirm all sent events, because the client closed its WebSocket cleanly."""
        if not self.acknowledges:
            self.note_answer()
            self._confirm(self.sent)
            self.replays.confirm()

    def rewind(self) -> None:
        """Send unconfirmed events again."""
        self.replays.rewind()
        if self.sent > self.confirmed:
            self.sent = self.answered = self.confirmed
            self._go_back()
        if self.replays.running:
            self._read_past()

    def _go_back(self) -> None:
        """Drop the queue; the stream is read again from the last position sent."""
        self._count(-_size_of(self.queue))
        self.queue.clear()
        self.position = self.sent
        if self.state is SessionPhase.LIVE:
            self.state = SessionPhase.BEHIND
        elif self.state is SessionPhase.CLAIMING:
            self.missed_while_claiming = True

    def close_batch(self) -> int:
        """Return the acknowledgement number of a reply with all events taken so far."""
        self.batch += 1
        self.batches.append((self.batch, self.sent))
        del self.batches[:-MOST_BATCHES]
        return self.batch

    def note_answer(self) -> None:
        """Note that a connect is answered with all events taken so far."""
        self.answered = self.sent
        self.replays.note_answer()

    # -- claims --------------------------------------------------------------------------------------------------

    def adopt(self, acknowledged: int | None, *, is_exact: bool) -> None:
        """Initialize the acknowledgement numbers of a session read from Redis. Unless the record `is_exact`, the former
        home may have assigned numbers since its last save."""
        if self.acknowledges:
            if acknowledged is not None and acknowledged > self.batch:
                self._acknowledge(acknowledged)
                self.batch = acknowledged
            if not is_exact:
                self.batch += UNSAVED_BATCHES

    def begin_claim(self) -> None:
        """Enter CLAIMING; events received meanwhile are read from the stream afterwards."""
        self.missed_while_claiming = self.state is SessionPhase.BEHIND
        self.state = SessionPhase.CLAIMING

    def claimed(self, cycle: int) -> None:
        """Leave CLAIMING, with the cycle of the take-over."""
        self.cycle = cycle
        if self.ending is None:
            self.state = SessionPhase.BEHIND if self.missed_while_claiming else SessionPhase.LIVE

    def verified(self, cycle: int) -> None:
        """Note the cycle in which Redis confirmed this home."""
        self.cycle = cycle

    def give_up_claim(self) -> bool:
        """Leave CLAIMING without a result; return False if the claim had one."""
        if self.state is not SessionPhase.CLAIMING:
            return False
        self.claimed(self.cycle)
        return True

    # -- the stream ----------------------------------------------------------------------------------------------

    def can_push_directly(self, previous: Position, position: Position) -> bool:
        """Return whether an entry can be pushed now: it is new, follows `position`, and nothing is queued."""
        return previous <= self.position < position > self.highest and not (
            self.queue or self.aside or self.replays.queue or self.has_missed or self.state is not SessionPhase.LIVE
        )

    def went_out(self, position: Position) -> None:
        """Note that entries up to a position were pushed."""
        self.position = self.sent = self.highest = position
        self.replays.follow(self.sent)

    def offer(self, published: StreamedEvent, limits: BayeuxLimits) -> bool:
        """Queue the next entry of the stream, unless the session is behind. Return whether there is news."""
        if published.position <= self.position:
            return False
        if self.state is not SessionPhase.LIVE:
            self.missed_while_claiming = True
            return False
        queued = self.queued(published)
        size = _size_of(queued)
        overflow = self._overflow(len(queued), size, limits) if (self.queue or self.replays.queue) and queued else ""
        if overflow:
            self.state, self.overflow = SessionPhase.BEHIND, overflow
            return False
        self.has_missed = self.has_missed or published.previous > self.position
        self.position = published.position
        self.queue += queued
        self._count(size)
        return bool(queued)

    def can_follow(self, previous: Position, position: Position) -> bool:
        """Return whether entries directly follow the session's position."""
        return self.state is SessionPhase.LIVE and previous <= self.position < position

    def follow(self, queued: Sequence[Queued], size: int, last: Position, limits: BayeuxLimits) -> bool:
        """Queue the messages of such entries; return False, with none queued, if they exceed a limit."""
        if queued and self._overflow(len(queued), size, limits):
            return False
        self.position = last
        self.queue += queued
        self._count(size)
        return True

    def take_overflow(self) -> str:
        """Return the limit that the queue exceeded since the last call, "" if none."""
        overflow, self.overflow = self.overflow, ""
        return overflow

    def begin_reading(self) -> None:
        """Accept entries read after the position, unless a replay has to be read first."""
        if self.state is SessionPhase.BEHIND and self.replays.is_read:
            self.state = SessionPhase.LIVE

    def fall_behind(self) -> None:
        """Note that the stream has entries that were not offered to the session."""
        if self.state is SessionPhase.LIVE:
            self.state = SessionPhase.BEHIND

    def skip(self, head: Position) -> None:
        """Note that the entries between the session's position and the head are no longer in the stream."""
        if self.position < head:
            self.position, self.has_missed = head, True

    def _overflow(self, more: int, more_bytes: int, limits: BayeuxLimits) -> str:
        """Return the limit that more messages would exceed, "" if none."""
        if len(self.queue) + len(self.replays.queue) + more > limits.max_queued_events:
            return "max_queued_events"
        if self.queued_bytes + more_bytes > limits.max_queued_bytes:
            return "max_queued_bytes"
        memory = self.memory
        return "max_queued_bytes_total" if memory and memory.used_bytes + more_bytes > memory.most_bytes else ""

    def _count(self, more_bytes: int) -> None:
        self.queued_bytes += more_bytes
        if self.memory is not None:
            self.memory.used_bytes += more_bytes

    # -- subscriptions and their past ------------------------------------------------------------------------------

    def subscribe(self, subscriptions: Mapping[str, Position], wishes: Mapping[str, Position], changes: int) -> None:
        """Replace the subscriptions; the positions in `wishes`, where new ones begin, may be in the past."""
        self.subscriptions, self.changes = subscriptions, changes
        if self.replays.replace(subscriptions, wishes):
            self._read_past()

    def resubscribe(self, subscriptions: Mapping[str, Position], stored: Mapping[str, Progress], changes: int) -> None:
        """Replace the subscriptions by the stored ones; replays that began here continue."""
        self.subscribe(subscriptions, self.replays.unknown(stored), changes)

    def take_over(self, subscriptions: Mapping[str, Position], stored: Mapping[str, Progress], changes: int) -> None:
        """Adopt subscriptions and replays of a former home."""
        self.subscriptions, self.changes = subscriptions, changes
        self.replays.adopt(stored)
        self._read_past()

    def _read_past(self) -> None:
        """Read the unsent part of the replays, from the beginning."""
        self._count(-_size_of(self.replays.queue))
        first = self.replays.first_unsent(self.position)
        if first < self.position:
            self._go_back()
        self.replays.begin_reading(first, self.sent)

    def fill(self, entries: Sequence[StreamedEvent], through: Position, limits: BayeuxLimits) -> None:
        """Queue entries of the past up to a position, within the limits.

        Entries after the session's position are ignored, but the first one shows whether the past is complete.
        """
        replays = self.replays
        previous = entries[0].previous if entries else self.position
        if BEGINNING < replays.read_to < previous:
            self.has_missed = True
        for published in entries:
            lacked = self.queued(published, self._lacks)
            size = _size_of(lacked)
            if published.position > self.position:
                break
            if replays.queue and lacked and self._overflow(len(lacked), size, limits):
                return
            replays.queue += lacked
            self._count(size)
            replays.reached(published.position)
        replays.end_reading(through, self.position)

    def _lacks(self, channel: str, position: Position) -> bool:
        return self.replays.lacks(self.subscriptions, channel, position)

    # -- messages beside the stream ----------------------------------------------------------------------------------

    def offer_services(self, event: Event, limits: BayeuxLimits, *, active: bool) -> bool:
        """Queue the state of the services, unless the client knows it; beyond the limit the oldest message is
        dropped."""
        if active == self.services_active or not any(matches(each, event.channel) for each in self.subscriptions):
            return False
        self.services_active = active
        self.aside.append(event.plain())
        del self.aside[: -limits.max_queued_events]
        return True

    # -- sending -----------------------------------------------------------------------------------------------------

    def repeats(self, queued: Queued) -> bool:
        """Return whether the event was sent before."""
        return queued.position <= self.highest

    def take(self, budget: AnswerBudget | None = None) -> list[bytes]:
        """Take queued messages, oldest first, within the budget; they count as sent.

        Events of one entry of the stream are taken together, because a position cannot express a part of an entry.
        """
        if self.state is SessionPhase.CLAIMING:
            return []
        if self.aside or self.replays.is_active:
            return self._take_in_order(budget)
        if not self.queue:
            self.sent = self.position
            return []
        return self._take_queued(budget)

    def _take_in_order(self, budget: AnswerBudget | None) -> list[bytes]:
        events: list[bytes] = []
        while self.aside and (budget is None or budget.admit(self.aside[:1])):
            events.append(self.aside.pop(0))
        if not self.aside:
            events += self._take_past(budget)
        if not self.aside and not self.replays.queue and self.replays.is_read:
            events += self._take_queued(budget)
        return events

    def _take_past(self, budget: AnswerBudget | None) -> list[bytes]:
        replays = self.replays
        taken, position = _first(replays.queue, budget)
        self._drop(replays.queue, len(taken))
        replays.note_sent(position if replays.queue else replays.read_to)
        return taken

    def _take_queued(self, budget: AnswerBudget | None) -> list[bytes]:
        taken, position = _first(self.queue, budget)
        self._drop(self.queue, len(taken))
        self.sent = max(self.sent, position) if self.queue else self.position
        self.replays.follow(self.sent)
        return taken

    def _drop(self, queue: list[Queued], count: int) -> None:
        self._count(-_size_of(queue[:count]))
        del queue[:count]

    def note_sent(self) -> None:
        """Note that the taken events were written: further sends of them are repeats."""
        self.highest = max(self.highest, self.sent)

    def take_missed(self) -> bool:
        """Return, once, whether events were lost."""
        missed, self.has_missed = self.has_missed, False
        return missed

    # -- end ---------------------------------------------------------------------------------------------------------

    def end(self, ending: Ending) -> None:
        """End the session for good."""
        self.state, self.ending = SessionPhase.ENDED, ending

    def leave_memory(self) -> None:
        """Release the queue's share of the node's memory, because the session is no longer here."""
        if self.memory is not None:
            self.memory.used_bytes -= self.queued_bytes
            self.memory = None


def _size_of(queue: Iterable[Queued]) -> int:
    return sum(len(each.body) for each in queue)


def _first(queue: Sequence[Queued], budget: AnswerBudget | None) -> tuple[list[bytes], Position]:
    """Return the first messages within the budget, and the position of the last one."""
    every = [each.body for each in queue]
    if every and (budget is None or budget.admit_all(every)):
        return every, queue[-1].position
    taken: list[bytes] = []
    last = BEGINNING
    for position, queued in groupby(queue, _POSITION):
        bodies = [each.body for each in queued]
        if budget is not None and not budget.admit(bodies):
            break
        taken += bodies
        last = position
    return taken, last
