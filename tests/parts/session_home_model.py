"""Explicit-state model of a protocol: CometD sessions with a home node. `session_home_search` searches its states.

A CometD client long-polls. It sends a connect; the server answers it with events, or suspends it until there are some;
then the client sends the next connect. A load balancer may send each connect to another node. Redis, here called the
store, is authoritative: it holds a record per session, which names the session's home node. The home answers connects
from an in-memory copy of the record, without access to the store. The model has one session, two nodes, A and B, and
a stream of a few events. A position is a count of events: `sent` is 2 if events 1 and 2 were written to the client.

Record; a script reads and changes it atomically

    home, cycle     the home, and a fencing token, which grows whenever the session gets a home
    confirmed       position up to which the client certainly has the events
    sent            position up to which they were written to the client
    batch, batches  last acknowledgement number, and (number, position) of each answer that is not acknowledged
    exact           the record is never behind the copy of the home

Each connect reports how the connect before it ended. Without the acknowledgement extension, the client says `again` if
it failed. With the extension, the client sends the number of the last answer that it received, at first 0.

Rules; the names in brackets are their switches in `Rules`

1.  A node answers from memory if it has a copy, its lease is valid (`lease_compared_at_use`), and it has verified the
    copy since its lease last lapsed (`copies_verified_after_lapse`). Else the node claims the session. It also claims
    if the client acknowledges a number greater than the copy's: another home gave it (`unknown_number_claims`).
2.  A claim reads the record. If another node is the home, and the record is not exact, the claim asks it for a flush
    (`claim_flushes`). The home drops its copy (`flush_drops_copy`) and answers with the copy's state, or with nothing
    if it has no copy, or one of a later cycle than the claim has read (`flush_compares_cycle`). Until it is asked, it
    remains the home (`home_moves_after_flush`). Without a flush, the claim reads and takes over in one script; a node
    that claims from itself uses its own copy as the flushed state.
3.  A take-over, one script, ends the claim. It is refused, and with it the connect, if the cycle is no longer that
    which the claim has read (`take_over_compares_cycle`). Else it applies the connect to the flushed state, or to the
    record if there is none; it saves the result (`take_over_saves`), raises the cycle, changes the home, and returns
    the head of the stream (`take_over_returns_head`). A flush answer that is later than that is ignored
    (`late_flush_answer_ignored`). A node that awaits the reply to its take-over is already the home; it has no copy
    yet and answers a flush request only when it has (`flush_awaits_reply`).
4.  A claim that gets no answer to its flush takes over without a flushed state. With the extension, it may do so at any
    time. Without, it asks again until it sees that the lease of the home has lapsed, or the home says that it has no
    copy (`claim_awaits_lapse`): a home with a valid lease may still answer a connect that the client has given up, and
    take the next connect for the confirmation of that answer. To verify a copy, a script compares its cycle with the
    record's and raises both (`verify_raises_cycle`): a claim that has seen the lapse must not take over after that.
5.  A take-over without a flushed state from a record that is not exact raises the batch number by SKIP: the former home
    may have given numbers that it has not saved, and they must not mean other positions (`numbers_skip`). A home gives
    fewer than SKIP numbers between two saves.
6.  Without the extension, a connect confirms all that was sent, unless it says `again`: then all that is not confirmed
    is sent once more, from memory (`again_resends`) and at a take-over (`claim_again_resends`). While a connect awaits
    a flush, the client may give it up and be answered elsewhere, so it is possibly not the latest. Such a connect
    confirms nothing, and the answer to it is immediate and empty (`awaited_connect_answered_empty`).
7.  With the extension, a connect confirms the batches up to its number, and nothing else (`only_numbers_confirm`). All
    that is not confirmed is sent once more.
8.  An answer has the events after `sent` that the node knows. If there are none, the connect is suspended; an event or
    a timeout answers it.
9.  Write-behind: connects and answers make the copy dirty, also those that change nothing (`connect_marks_dirty`), and
    some time later the node saves it. A save with another cycle than the record's is refused (`save_compares_cycle`);
    then the node drops the copy (`refused_save_drops_copy`). A save returns the head of the stream, which replaces lost
    notices (`save_returns_head`).
10. A copy is roaming for some time after a take-over from another node. A node saves it when a connect arrives, and
    claims if that is refused (`roaming_connect_saved`), and once more before the answer leaves
    (`roaming_saves_before_answer`). The record is exact meanwhile, so claims need no flush. `exact` is cleared before
    the first answer that is not saved first (`exact_cleared`).
11. Publishing appends to the stream, then reads the home and sends it a notice. A node that receives the notice of an
    event knows all events up to it, as it reads those that it lacks from the stream.
12. A node without a valid lease may take over and answer the connect of that claim, but it has to verify the copy after
    the renewal (`lapsed_take_over_verified`). The lease lapses at the node before it does in the store.

Faults; `Setup` says how often each may happen

    answers  a connect or an answer is lost, or the client gives its connect up
    crashes  a node crashes and restarts with a new lease
    lapses   a lease lapses; a node that is paused or cut off is one that takes no steps meanwhile
    flushes  a claim stops waiting for a flush although the home has a valid lease: a message is late, or lost
    notices  the notice to the home is lost
    replies  the reply to a take-over is late

All messages between nodes may be late. A request or answer replaces an earlier one that has not arrived yet.

The model assumes that a connect that the client has given up arrives before the client sends the next one, or never.
It has single steps where a state in between changes nothing: a connect from the client to the node, an answer from the
save before it to the client, a script and its reply, except a take-over. In return, the implementation must ignore a
reply if the copy is no longer that of the request, treat a copy as not verified if the lease has lapsed since the
request was sent, and leave a copy dirty that has changed since.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple, TypeAlias

SKIP: Final = 10


@dataclass(frozen=True, slots=True)
class Rules:
    """Switches for the rules of the module docstring; a mutation leaves one out."""

    lease_compared_at_use: bool = True
    copies_verified_after_lapse: bool = True
    unknown_number_claims: bool = True
    claim_flushes: bool = True
    flush_drops_copy: bool = True
    flush_compares_cycle: bool = True
    home_moves_after_flush: bool = True
    take_over_compares_cycle: bool = True
    take_over_saves: bool = True
    take_over_returns_head: bool = True
    late_flush_answer_ignored: bool = True
    flush_awaits_reply: bool = True
    claim_awaits_lapse: bool = True
    verify_raises_cycle: bool = True
    numbers_skip: bool = True
    again_resends: bool = True
    claim_again_resends: bool = True
    awaited_connect_answered_empty: bool = True
    only_numbers_confirm: bool = True
    connect_marks_dirty: bool = True
    save_compares_cycle: bool = True
    refused_save_drops_copy: bool = True
    save_returns_head: bool = True
    roaming_connect_saved: bool = True
    roaming_saves_before_answer: bool = True
    exact_cleared: bool = True
    lapsed_take_over_verified: bool = True


ALL_RULES: Final = Rules()


class Property(StrEnum):
    """Kinds of violations; each property is checked in every reachable state."""

    MISSED = "missed"
    """The client receives an answer that begins after an event that it does not have: it never gets that event."""
    REPEATED = "repeated"
    """The client gets an event again, and since all effects of former faults ended, only notices were lost."""
    STALE = "stale"
    """A node answers from memory without a valid lease, with a copy not verified since, or after a refused save."""
    STUCK = "stuck"
    """The client does not get all events within some steps, although no further fault happens."""


ALL_PROPERTIES: Final = frozenset(Property)


class Budget(IntEnum):
    """Indexes of the budgets of a `Setup`."""

    ANSWERS = 0
    CRASHES = 1
    LAPSES = 2
    FLUSHES = 3
    NOTICES = 4
    REPLIES = 5
    CLAIMS = 6
    TIMEOUTS = 7


EXPLAIN_REPEATS: Final = (Budget.ANSWERS, Budget.CRASHES, Budget.LAPSES, Budget.FLUSHES)


@dataclass(frozen=True, slots=True)
class Setup:
    """The client, and how often each fault may happen. Claims and timeouts are not faults; they bound the search."""

    acknowledges: bool = False
    roams: bool = False
    events: int = 2
    answers: int = 0
    crashes: int = 0
    lapses: int = 0
    flushes: int = 0
    notices: int = 0
    replies: int = 0
    claims: int = 3
    timeouts: int = 1

    @property
    def budgets(self) -> tuple[int, ...]:
        return tuple(getattr(self, each.name.lower()) for each in Budget)


class Progress(NamedTuple):
    confirmed: int = 0
    sent: int = 0
    batch: int = 0
    batches: tuple[tuple[int, int], ...] = ()


class Connect(NamedTuple):
    """What a connect reports of the one before it; `number` is 0 without the acknowledgement extension."""

    again: bool
    number: int


class Record(NamedTuple):
    home: int
    cycle: int
    exact: bool
    progress: Progress


class Copy(NamedTuple):
    cycle: int
    progress: Progress
    roaming: bool = False
    dirty: bool = False
    verified: bool = True
    refused: bool = False


class Claim(NamedTuple):
    """A claim that awaits the flush of the home that it has read from the record."""

    cycle: int
    home: int
    connect: Connect
    has_seen_lapse: bool = False


class Client(NamedTuple):
    """The client: the node that it used last, what its next connect reports, and how many events it has."""

    node: int = 0
    again: bool = False
    number: int = 0
    received: int = 0


class Reply(NamedTuple):
    """The reply to a take-over, which its node has not received yet."""

    copy: Copy
    awaited: bool


NodeState: TypeAlias = tuple[str, bool, int, int, bool, bool, Copy | None, Claim | None, Reply | None]
Flush: TypeAlias = tuple[int, Progress | None]


@dataclass(slots=True)
class Node:
    """A node. It holds at most one connect, which is suspended or claims; its client waits for it or gave it up.

    The node knows the events up to `known`; notices of those up to `notified` are on their way.
    """

    name: str
    lease: bool = True
    known: int = 0
    notified: int = 0
    suspended: bool = False
    client_waits: bool = False
    copy: Copy | None = None
    claim: Claim | None = None
    reply: Reply | None = None

    def frozen(self) -> NodeState:
        known, notified = (self.known, self.notified) if self.copy or self.reply else (0, 0)
        connect = self.suspended, self.client_waits
        return self.name, self.lease, known, notified, *connect, self.copy, self.claim, self.reply


class State(NamedTuple):
    """All of the system. `asked` has the cycle of the flush request on its way to each node, 0 if there is none;
    `flushed` the answer on its way to each node; `disturbed` is true while a fault may have effects."""

    head: int
    record: Record
    nodes: tuple[NodeState, NodeState]
    client: Client
    asked: tuple[int, ...]
    flushed: tuple[Flush | None, ...]
    budgets: tuple[int, ...]
    disturbed: bool


def initial(setup: Setup) -> State:
    """Return the state after the handshake, which was at A."""
    nodes = Node("A", copy=Copy(1, Progress())).frozen(), Node("B").frozen()
    return State(0, Record(0, 1, False, Progress()), nodes, Client(), (0, 0), (None, None), setup.budgets, False)


class Violation(Exception):
    def __init__(self, broken: Property, text: str) -> None:
        super().__init__(f"{broken}: {text}")
        self.broken = broken


class OutOfBudget(Exception):
    """The step is beyond the bounds of the search."""


@dataclass(frozen=True, slots=True)
class Case:
    """A variant of the protocol, and the properties that are checked."""

    setup: Setup
    rules: Rules = ALL_RULES
    properties: frozenset[Property] = ALL_PROPERTIES


class World:
    """A state that one step changes.

    A step may choose between two outcomes, several times: `path` has the choices, and those beyond its end are false.
    """

    def __init__(self, case: Case, state: State, path: tuple[bool, ...] = (), faults: bool = True) -> None:
        self.setup, self.rules, self.properties = case.setup, case.rules, case.properties
        self.path, self.faults = path, faults
        self.choices = 0
        self.log: list[str] | None = None
        self.head, self.record, nodes, self.client, asked, flushed, budgets, self.disturbed = state
        self.nodes = [Node(*nodes[0]), Node(*nodes[1])]
        self.asked, self.flushed, self.budgets = list(asked), list(flushed), list(budgets)

    def frozen(self) -> State:
        nodes = self.nodes[0].frozen(), self.nodes[1].frozen()
        messages = tuple(self.asked), tuple(self.flushed)
        return State(self.head, self.record, nodes, self.client, *messages, tuple(self.budgets), self.disturbed)

    def say(self, text: str, *values: object) -> None:
        if self.log is not None:
            self.log.append(text.format(*values))

    def choose(self) -> bool:
        """Return one of two outcomes; the search tries both."""
        if not self.faults:
            return False
        self.choices += 1
        return self.choices <= len(self.path) and self.path[self.choices - 1]

    def violate(self, broken: Property, text: str) -> None:
        if broken in self.properties:
            raise Violation(broken, text)

    def happens(self, fault: Budget) -> bool:
        if not self.faults or not self.budgets[fault] or not self.choose():
            return False
        self.spend(fault)
        return True

    def spend(self, budget: Budget) -> None:
        if self.faults:
            if not self.budgets[budget]:
                raise OutOfBudget
            self.budgets[budget] -= 1
            self.disturbed = self.disturbed or budget in EXPLAIN_REPEATS


class ClientSide(World):
    """The client, and the checks of what it receives."""

    def fail(self, node: Node) -> None:
        """End the wait of the client, if it waits for this node, without an answer."""
        if node.client_waits:
            node.client_waits = False
            self.client = self.client._replace(again=not self.setup.acknowledges)

    def refuse(self, node: Node) -> None:
        if node.client_waits:
            self.say("{}: refuses the connect", node.name)
            self.fail(node)

    def receive(self, node: Node, start: int, end: int, batch: int) -> None:
        client = self.client
        if start > client.received:
            self.violate(Property.MISSED, f"an answer begins after event {start}, the client has {client.received}")
        if start < min(end, client.received) and not self.disturbed:
            self.violate(Property.REPEATED, f"the client gets event {start + 1} again, and no fault explains it")
        self.client = Client(client.node, False, batch, max(client.received, end))
        if self.disturbed and self.is_undisturbed(node):
            self.disturbed = False

    def is_undisturbed(self, node: Node) -> bool:
        """Return whether no effect of a fault remains; a message that is late may, if it is ignored."""
        copy, index = node.copy, self.nodes.index(node)
        other = self.nodes[1 - index]
        return (
            copy is not None
            and copy.cycle == self.record.cycle > self.asked[index]
            and copy.progress.sent == self.client.received
            and node.lease
            and copy.verified
            and other.lease
            and not other.copy
            and not other.claim
            and not other.reply
        )


class Home(ClientSide):
    """The home: answers and saves, rules 6 to 10."""

    def is_usable(self, node: Node, copy: Copy) -> bool:
        if not node.lease:
            return not self.rules.lease_compared_at_use
        return copy.verified or not self.rules.copies_verified_after_lapse

    def updated(self, copy: Copy, progress: Progress) -> Copy:
        dirty = copy.dirty or self.rules.connect_marks_dirty or progress != copy.progress
        return copy._replace(progress=progress, dirty=dirty)

    def apply(self, connect: Connect, progress: Progress, claims: bool = False, awaited: bool = False) -> Progress:
        """Return the progress after what a connect reports of the one before it."""
        rules, (confirmed, sent, batch, batches) = self.rules, progress
        if self.setup.acknowledges:
            if not rules.only_numbers_confirm:
                return Progress(sent, sent, batch)
            confirmed = max((position for number, position in batches if number <= connect.number), default=confirmed)
            batches = tuple(each for each in batches if each[0] > connect.number)
            return Progress(confirmed, confirmed, max(batch, connect.number), batches)
        if connect.again and rules.again_resends:
            return progress if claims and not rules.claim_again_resends else progress._replace(sent=confirmed)
        if awaited and rules.awaited_connect_answered_empty:
            return progress
        return progress._replace(confirmed=sent)

    def serve(self, node: Node) -> None:
        """Answer a suspended connect if there are events for it."""
        copy = node.copy
        if copy and node.suspended and node.known > copy.progress.sent and self.is_usable(node, copy):
            self.answer(node, copy)

    def answer(self, node: Node, copy: Copy, from_memory: bool = True, empty: bool = False) -> None:
        if from_memory and (not node.lease or not copy.verified or copy.refused):
            self.violate(Property.STALE, f"{node.name} answers from memory, but may not be the home")
        confirmed, start, batch, batches = copy.progress
        end = start if empty else max(start, node.known)
        if self.setup.acknowledges:
            batch += 1
            batches = (*batches, (batch, end))
        copy = node.copy = self.updated(copy, Progress(confirmed, end, batch, batches))
        if copy.roaming and self.rules.roaming_saves_before_answer and not self.store(node, copy):
            self.drop(node)
            return
        content = f"{start + 1}..{end}" if end > start else "nothing"
        number = f" as batch {batch}" if self.setup.acknowledges else ""
        received, node.suspended = node.client_waits, False
        if not received:
            self.say("{}: answers {}{}, to the connect that was given up", node.name, content, number)
        elif self.happens(Budget.ANSWERS):
            self.say("{}: answers {}{}, which is lost", node.name, content, number)
            self.fail(node)
        else:
            self.say("{}: answers {}{}", node.name, content, number)
            node.client_waits = False
            self.receive(node, start, end, batch)

    def drop(self, node: Node) -> None:
        self.refuse(node)
        node.copy, node.suspended = None, False

    def store(self, node: Node, copy: Copy) -> bool:
        """Run the script that saves a copy; return False if it refuses."""
        if copy.cycle != self.record.cycle and self.rules.save_compares_cycle:
            self.say("{}: saves, is refused", node.name)
            return False
        self.say("{}: saves", node.name)
        self.record, node.copy = self.record._replace(progress=copy.progress), copy._replace(dirty=False)
        if self.rules.save_returns_head:
            node.known = self.head
        return True

    def save(self, index: int) -> None:
        node = self.nodes[index]
        if node.copy and self.store(node, node.copy):
            self.serve(node)
        elif node.copy and not self.rules.refused_save_drops_copy:
            node.copy = node.copy._replace(dirty=False, refused=True)
        else:
            self.drop(node)

    def verify(self, index: int) -> None:
        node = self.nodes[index]
        if node.copy and node.copy.cycle == self.record.cycle:
            cycle = self.record.cycle + self.rules.verify_raises_cycle
            self.say("{}: verifies its copy, which is current, cycle {}", node.name, cycle)
            self.record = self.record._replace(cycle=cycle)
            node.copy, node.known = node.copy._replace(cycle=cycle, verified=True), self.head
            self.serve(node)
        else:
            self.say("{}: verifies its copy, which is stale", node.name)
            self.drop(node)

    def end_roaming(self, index: int) -> None:
        """Run the script that clears `exact`."""
        node = self.nodes[index]
        if node.copy and node.copy.cycle == self.record.cycle:
            self.say("{}: ends roaming", node.name)
            node.copy = node.copy._replace(roaming=False)
            self.record = self.record._replace(exact=self.record.exact and not self.rules.exact_cleared)
        else:
            self.say("{}: ends roaming, is refused", node.name)
            self.drop(node)

    def time_out(self, index: int) -> None:
        self.spend(Budget.TIMEOUTS)
        node = self.nodes[index]
        if node.copy:
            self.answer(node, node.copy)


class Claims(Home):
    """How a session gets another home: rules 1 to 5 and 12."""

    def connect(self, index: int) -> None:
        self.receive_reply(index)
        client, node, copy = self.client, self.nodes[index], self.nodes[index].copy
        connect = Connect(client.again, client.number)
        again = f", acknowledges {client.number}" if self.setup.acknowledges else ", again" if client.again else ""
        self.say("client: connects to {}{}", node.name, again)
        self.client, node.client_waits, node.suspended = client._replace(node=index), True, False
        if node.claim:
            node.claim = node.claim._replace(connect=connect)
        elif copy and self.is_usable(node, copy) and not self.is_unknown(connect, copy):
            self.connect_from_memory(index, copy, connect)
        else:
            self.claim(index, connect)

    def is_unknown(self, connect: Connect, copy: Copy) -> bool:
        return connect.number > copy.progress.batch and self.rules.unknown_number_claims

    def connect_from_memory(self, index: int, copy: Copy, connect: Connect) -> None:
        node = self.nodes[index]
        copy = node.copy = self.updated(copy, self.apply(connect, copy.progress))
        node.suspended = True
        if copy.roaming and self.rules.roaming_connect_saved and not self.store(node, copy):
            self.claim(index, connect)
        else:
            self.serve(node)

    def claim(self, index: int, connect: Connect) -> None:
        self.spend(Budget.CLAIMS)
        record, node, copy = self.record, self.nodes[index], self.nodes[index].copy
        own = copy.progress if copy and copy.cycle == record.cycle else None
        home = record.home
        node.copy, node.suspended = None, False
        if home == index or record.exact or not self.rules.claim_flushes:
            self.take_over(index, Claim(record.cycle, home, connect), own)
            return
        self.say("{}: claims, asks {} to flush", node.name, self.nodes[home].name)
        if not self.rules.home_moves_after_flush:
            record = self.record = record._replace(home=index, cycle=record.cycle + 1)
        node.claim = Claim(record.cycle, home, connect)
        self.asked[home] = record.cycle

    def answer_flush(self, index: int) -> None:
        node, copy, cycle = self.nodes[index], self.nodes[index].copy, self.asked[index]
        self.asked[index] = 0
        if copy and (copy.cycle <= cycle or not self.rules.flush_compares_cycle):
            self.say("{}: flushes, sent {}, confirmed {}", node.name, copy.progress.sent, copy.progress.confirmed)
            self.flushed[1 - index] = cycle, copy.progress
            if self.rules.flush_drops_copy:
                self.drop(node)
        else:
            self.say("{}: has nothing to flush", node.name)
            self.flushed[1 - index] = cycle, None

    def receive_flush(self, index: int) -> None:
        node, answer = self.nodes[index], self.flushed[index]
        self.flushed[index] = None
        cycle, progress = answer or (0, None)
        if node.claim and node.claim.cycle == cycle:
            self.take_over(index, node.claim, progress, awaited=True)
            return
        self.say("{}: receives the flush late", node.name)
        if node.copy and progress and not self.rules.late_flush_answer_ignored:
            node.copy = node.copy._replace(progress=progress)

    def may_stop_waiting(self, claim: Claim) -> bool:
        if claim.has_seen_lapse:
            return True
        if not self.faults or not self.budgets[Budget.FLUSHES]:
            return False
        return self.setup.acknowledges or not self.asked[claim.home] or not self.rules.claim_awaits_lapse

    def see_lapse(self, index: int) -> None:
        node = self.nodes[index]
        if node.claim:
            self.say("{}: sees that the lease of {} has lapsed", node.name, self.nodes[node.claim.home].name)
            node.claim = node.claim._replace(has_seen_lapse=True)

    def stop_waiting(self, index: int) -> None:
        node, claim = self.nodes[index], self.nodes[index].claim
        if not claim:
            return
        if not claim.has_seen_lapse:
            self.spend(Budget.FLUSHES)
            if self.asked[claim.home] and self.choose():
                self.asked[claim.home] = 0
                self.say("{}: does not receive the request to flush", self.nodes[claim.home].name)
        self.say("{}: stops waiting for the flush", node.name)
        self.take_over(index, claim, None, awaited=True)

    def take_over(self, index: int, claim: Claim, flushed: Progress | None, awaited: bool = False) -> None:
        """Run the script that makes a node the home."""
        record, node, rules = self.record, self.nodes[index], self.rules
        node.claim = None
        if record.cycle != claim.cycle and rules.take_over_compares_cycle:
            self.say("{}: takes over, is refused", node.name)
            self.refuse(node)
            return
        roaming = self.setup.roams and record.home != index and self.choose()
        progress = self.apply(claim.connect, flushed or record.progress, claims=True, awaited=awaited)
        if self.setup.acknowledges and not flushed and not record.exact and rules.numbers_skip:
            progress = progress._replace(batch=progress.batch + SKIP)
        exact = roaming or (record.exact and not rules.exact_cleared)
        cycle, saved = record.cycle + 1, progress if rules.take_over_saves else record.progress
        self.record = Record(index, cycle, exact, saved)
        if rules.take_over_returns_head:
            node.known = self.head
        self.say("{}: takes over{}, cycle {}", node.name, ", roaming" if roaming else "", cycle)
        verified = node.lease or not rules.lapsed_take_over_verified
        node.reply = Reply(Copy(cycle, progress, roaming, not rules.take_over_saves, verified), awaited)
        if self.happens(Budget.REPLIES):
            self.say("{}: the reply to its take-over is late", node.name)
        else:
            self.receive_reply(index)

    def receive_reply(self, index: int) -> None:
        """Answer the connect of a take-over, or suspend it."""
        node = self.nodes[index]
        if not node.reply:
            return
        (copy, awaited), node.reply = node.reply, None
        node.copy, node.suspended = copy, True
        if awaited and self.rules.awaited_connect_answered_empty and not self.setup.acknowledges:
            self.answer(node, copy, from_memory=False, empty=True)
        elif node.known > copy.progress.sent:
            self.answer(node, copy, from_memory=False)


Step: TypeAlias = tuple[Callable[["Model", int], None], int]


class Model(Claims):
    """Publishers, faults, and the steps that are possible in a state."""

    def publish(self, _: int) -> None:
        self.head += 1
        lost = self.happens(Budget.NOTICES)
        self.say("event {} is published{}", self.head, ", the notice to the home is lost" if lost else "")
        for index, node in enumerate(self.nodes):
            if (node.copy or node.reply) and not (lost and index == self.record.home):
                node.notified = self.head

    def receive_notice(self, index: int) -> None:
        node = self.nodes[index]
        node.known = node.notified
        self.say("{}: receives the notice of event {}", node.name, node.known)
        self.serve(node)

    def give_up(self, index: int) -> None:
        self.spend(Budget.ANSWERS)
        self.say("client: gives up its connect to {}", self.nodes[index].name)
        self.fail(self.nodes[index])

    def lose_connect(self, _: int) -> None:
        self.spend(Budget.ANSWERS)
        self.say("client: a connect is lost")
        self.client = self.client._replace(again=True)

    def crash(self, index: int) -> None:
        self.spend(Budget.CRASHES)
        node = self.nodes[index]
        self.say("{}: crashes and restarts", node.name)
        self.fail(node)
        self.nodes[index] = Node(node.name)

    def lapse(self, index: int) -> None:
        self.spend(Budget.LAPSES)
        node = self.nodes[index]
        self.say("{}: its lease lapses", node.name)
        node.lease = False
        if node.copy:
            node.copy = node.copy._replace(verified=False)
        if node.reply:
            node.reply = Reply(node.reply.copy._replace(verified=False), node.reply.awaited)

    def renew(self, index: int) -> None:
        self.say("{}: renews its lease", self.nodes[index].name)
        self.nodes[index].lease = True

    def steps(self) -> list[Step]:
        """Return the possible steps."""
        steps: list[Step] = []
        if self.head < self.setup.events:
            steps.append((Model.publish, 0))
        if not self.nodes[0].client_waits and not self.nodes[1].client_waits:
            steps += ((Model.connect, 0), (Model.connect, 1))
            if self.budgets[Budget.ANSWERS] and not self.client.again and not self.setup.acknowledges:
                steps.append((Model.lose_connect, 0))
        for index, node in enumerate(self.nodes):
            if node.client_waits and self.budgets[Budget.ANSWERS]:
                steps.append((Model.give_up, index))
            if self.asked[index] and not (node.reply and self.rules.flush_awaits_reply):
                steps.append((Model.answer_flush, index))
            if self.flushed[index]:
                steps.append((Model.receive_flush, index))
            if not node.lease:
                steps.append((Model.renew, index))
            if node.copy or node.claim or node.reply:
                steps += self.steps_of_session(index, node)
        return steps

    def steps_of_session(self, index: int, node: Node) -> list[Step]:
        """Return the steps of a node that has the session, or is about to."""
        steps: list[Step] = []
        if self.budgets[Budget.CRASHES]:
            steps.append((Model.crash, index))
        if self.budgets[Budget.LAPSES] and node.lease:
            steps.append((Model.lapse, index))
        if node.claim and self.may_stop_waiting(node.claim):
            steps.append((Model.stop_waiting, index))
        if node.claim and not self.nodes[node.claim.home].lease and not node.claim.has_seen_lapse:
            steps.append((Model.see_lapse, index))
        if node.reply:
            steps.append((Model.receive_reply, index))
        if node.copy:
            steps += self.steps_of_copy(index, node, node.copy)
        return steps

    def steps_of_copy(self, index: int, node: Node, copy: Copy) -> list[Step]:
        steps: list[Step] = []
        if node.known < node.notified:
            steps.append((Model.receive_notice, index))
        if copy.dirty:
            steps.append((Model.save, index))
        if copy.roaming:
            steps.append((Model.end_roaming, index))
        if node.lease and not copy.verified:
            steps.append((Model.verify, index))
        if node.suspended and node.known <= copy.progress.sent and self.is_usable(node, copy):
            steps.append((Model.time_out, index))
        return steps

    def recovery_steps(self) -> Iterator[Step]:
        """Yield the steps that happen if there are no further faults, the next one first.

        The client connects to the node that it used last. Notices reach the home only: publishers need not know which
        other nodes have copies.
        """
        for index, node in enumerate(self.nodes):
            if node.reply:
                yield Model.receive_reply, index
            if not node.lease:
                yield Model.renew, index
            if node.copy and not node.copy.verified:
                yield Model.verify, index
            if self.asked[index]:
                yield Model.answer_flush, index
            if self.flushed[index]:
                yield Model.receive_flush, index
        if not any(node.client_waits for node in self.nodes):
            yield Model.connect, self.client.node
        for index, node in enumerate(self.nodes):
            if node.copy and node.copy.dirty:
                yield Model.save, index
            if node.copy and node.known < node.notified and index == self.record.home:
                yield Model.receive_notice, index
        for index, node in enumerate(self.nodes):
            if node.client_waits and node.copy:
                yield Model.time_out, index
