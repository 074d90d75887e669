"""The sessions whose home is this node, their users' streams, and the limits on both."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final, NoReturn, Protocol

from calltag.core.bayeux import errors
from calltag.core.bayeux.deadlines import Deadlines
from calltag.core.bayeux.events import Position
from calltag.core.bayeux.extensions import ConnectWish
from calltag.core.bayeux.messages import AnswerBudget, BayeuxLimit, BayeuxLimits, Message, Reply
from calltag.core.bayeux.session import Session
from calltag.core.bayeux.user_feed import Feed
from calltag.core.process.limits import Buckets, RateLimit, TokenBucket

_LATE_MS: Final = 50
"""Maximum delay of a connect's deadline."""
_EXPIRES_LATE_MS: Final = 1_000
"""Maximum delay of the expiry of a session."""
_IPV6_NETWORK_BITS: Final = 64
_COME_BACK_MS: Final = (2_000, 10_000)
_RETRY_AFTER_S: Final = (1, 5)
NEVER: Final = -1


class Outlet(Protocol):
    """The transport of a session, to which events and replies go."""

    def budget(self) -> AnswerBudget:
        """Return the bytes of events that the answer to a suspended connect may carry."""
        ...

    def send(self, suspended: "Suspended", events: list[bytes], reply: Reply) -> bool:
        """Answer a suspended connect; return False, with nothing written, if its client has disconnected."""
        ...

    def replace(self, suspended: "Suspended") -> None:
        """Answer a suspended connect that a newer one replaced, here or at another node."""
        ...

    def push(self, frame: bytes, *, one_of_many: bool) -> bool:
        """Send a frame with events now; return False, with nothing sent, if the transport has to wait."""
        ...

    def has_news(self, resident: "Resident") -> None:
        """Push queued messages, or close the transport of a session that has ended."""
        ...


@dataclass(slots=True, eq=False)
class RequestContext:
    """Transport, credentials and size of a request."""

    outlet: Outlet
    connection_id: int
    address: str = ""
    proof: bytes = b""
    request_bytes: int = 0
    messages: int = 1
    is_streaming: bool = False
    _budget: AnswerBudget | None = None

    @property
    def budget(self) -> AnswerBudget:
        """Return the bytes of events that the answer to the request may carry, beside its replies."""
        if self._budget is None:
            self._budget = self.outlet.budget().reserve(self.request_bytes, self.messages)
        return self._budget


@dataclass(slots=True, eq=False)
class ConnectRequest:
    """A /meta/connect that is being processed."""

    message: Message
    client_id: str
    wish: ConnectWish
    context: RequestContext
    arrived_ms: int
    is_alone: bool = True
    """The request has no other message."""
    checked_ms: int = 0
    """Time before the check of its credentials."""

    def checked_at(self, now_ms: int) -> None:
        """Note the time before the check of its credentials."""
        self.checked_ms = now_ms

    @property
    def acknowledges(self) -> bool:
        return self.wish.acknowledged is not None

    def is_retry(self, *, was_hurried: bool, is_first: bool) -> bool:
        """Return whether a connect on another connection than the last one indicates that the last answer was lost.

        Polling clients ask for each answer at once, each on a connection of its own; none do so on a WebSocket.
        """
        is_hurried = self.wish.is_hurried and self.is_alone
        return is_hurried and not is_first and (self.context.is_streaming or not was_hurried)


@dataclass(slots=True, eq=False)
class Suspended:
    """A suspended /meta/connect, with the parts of the message that its reply needs."""

    resident: "Resident"
    outlet: Outlet
    message: Message
    arrived_ms: int
    deadline_ms: int
    was_held: bool = True
    """It counts among the suspended connects of its browser."""

    @property
    def client_id(self) -> str:
        return self.resident.client_id

    @property
    def acknowledges(self) -> bool:
        return self.resident.session.acknowledges

    def not_held(self) -> None:
        """Note that the connect does not count among those of its browser."""
        self.was_held = False

    def answer_by(self, deadline_ms: int) -> None:
        """Answer no later than at this time."""
        self.deadline_ms = min(self.deadline_ms, deadline_ms)


@dataclass(slots=True, eq=False)
class Resident:
    """A session whose home is this node, with its transport, deadlines and credentials here."""

    session: Session
    login: str = ""
    """Digest of the login that authenticated its user."""
    address: str = ""
    interval_ms: int = 0
    expires_at_ms: int = 0
    noted_ms: int = 0
    """The deadline that the registry checks next; 0 if none is noted."""
    suspended: Suspended | None = None
    outlet: Outlet | None = None
    """Transport to which events are pushed."""
    verified_in: int = NEVER
    """The period of the node's lease in which Redis last confirmed that this is its home."""
    watches: bool = False
    """It is subscribed to calls of others."""
    is_bearer: bool = False
    """Its id alone authenticates its user, until the user's `credential` changes."""
    credential: str = ""
    proof: bytes = b""
    """Digest of the credentials that last authenticated its user."""
    proven_until_ms: int = 0
    saves: int = 0
    is_dirty: bool = False
    is_roaming: bool = False
    """It moves between nodes often, and is saved before each answer."""
    connects: int = 0
    """Number of connects handled here."""
    settled: int = 0
    """Number of connects handled here since the last take-over."""
    last_connection: int = 0
    """The connection on which its last connect was answered."""
    wrote_on: int = 0
    """The connection on which events were written last, possibly with the reply to another message."""
    is_answer_lost: bool = False
    """That connection broke afterwards, so that the last answer may be lost."""
    was_hurried: bool = False
    """Its last connect asked for an answer at once."""
    delivered_at_ms: int | None = None
    """Time of the last event sent to it."""
    active_at_ms: int = 0
    """Time of its last message other than a connect, known to this node."""
    ends_at_ms: int | None = None
    """Hard end of its lifetime."""
    goodbye: bytes = b""
    """Message about its end that its client has not received."""
    has_other_tabs: bool = False
    """Its client was advised that other tabs of the browser keep its connects from being suspended."""

    @property
    def client_id(self) -> str:
        return self.session.client_id

    @property
    def due_ms(self) -> int:
        """Return the deadline of its suspended connect, or else its expiry."""
        return self.expires_at_ms if self.suspended is None else self.suspended.deadline_ms

    # -- connects --------------------------------------------------------------------------------------------------

    def begin_connect(self, interval_ms: int, expires_at_ms: int, *, is_hurried: bool) -> Suspended | None:
        """Make a connect the latest one; return a suspended earlier one, which it replaces."""
        self.connects += 1
        self.interval_ms, self.expires_at_ms = interval_ms, expires_at_ms
        self.was_hurried, self.is_answer_lost = is_hurried, False
        return self.resume()

    def resume(self) -> Suspended | None:
        """Return its suspended connect, which is suspended no longer."""
        suspended, self.suspended = self.suspended, None
        return suspended

    def push_to(self, outlet: Outlet | None) -> None:
        """Push events to this transport from now on."""
        self.outlet = outlet

    def delivered(self, now_ms: int) -> None:
        """Note that events were sent to it."""
        self.delivered_at_ms = now_ms

    def advise_tabs(self, *, has_others: bool) -> bool:
        """Note whether its client is advised of other tabs; return whether it was before."""
        before, self.has_other_tabs = self.has_other_tabs, has_others
        return before

    # -- its home and credentials ----------------------------------------------------------------------------------

    def claimed(self, period: int) -> None:
        """Note that this node became its home in a period of the lease, by a claim that nothing was saved after."""
        self.verified_in, self.saves = period, 0

    def adopted(self, active_at_ms: int, ends_at_ms: int | None, credential: str) -> None:
        """Take over what its former home knew."""
        self.active_at_ms, self.ends_at_ms, self.credential = active_at_ms, ends_at_ms, credential

    def verified(self, period: int) -> int:
        """Note that Redis has confirmed its home in a period of the lease; return the period before."""
        before, self.verified_in = self.verified_in, period
        return before

    def next_save(self) -> int:
        """Return the number of its next save."""
        self.saves += 1
        return self.saves

    def roam(self, is_roaming: bool) -> None:
        """Begin or end roaming."""
        self.is_roaming = is_roaming

    def settle(self) -> int:
        """Count a connect that was handled here; return the number since the last take-over."""
        self.settled += 1
        return self.settled

    def log_in(self, login: str) -> None:
        """Note the login that authenticated its user."""
        self.login = login

    def trust(self, proof: bytes, until_ms: int) -> None:
        """Trust these credentials for its user until they are checked again."""
        self.proof, self.proven_until_ms = proof, until_ms

    # -- its end -----------------------------------------------------------------------------------------------------

    def say_goodbye(self, message: bytes) -> None:
        """Queue a message about its end."""
        self.goodbye = message

    def take_goodbye(self) -> list[bytes]:
        """Return the message about its end, once."""
        message, self.goodbye = self.goodbye, b""
        return [message] if message else []


@dataclass(slots=True)
class Connections:
    """The session whose answer was written last on each connection; several sessions may share a connection."""

    _residents: dict[int, Resident] = field(default_factory=dict)

    def connected(self, resident: Resident, connection_id: int) -> None:
        """Note the connection of a session's latest connect, on which it is answered."""
        if not resident.wrote_on == connection_id == resident.last_connection:
            self.forget(resident)
            resident.last_connection = resident.wrote_on = connection_id
        # Another session may have used the connection meanwhile.
        self._residents[connection_id] = resident

    def wrote(self, resident: Resident, connection_id: int) -> None:
        """Note that events of a session are sent with another reply, possibly on another connection."""
        resident.wrote_on = connection_id
        self._residents[connection_id] = resident

    def broke(self, connection_id: int) -> Resident | None:
        """Return the session whose last answer may be lost with a broken connection."""
        resident = self._residents.pop(connection_id, None)
        if resident is None or connection_id not in (resident.last_connection, resident.wrote_on):
            return None
        return resident

    def forget(self, resident: Resident) -> None:
        """Forget the connections of a session."""
        for each in (resident.last_connection, resident.wrote_on):
            if self._residents.get(each) is resident:
                del self._residents[each]


class Crowded(Exception):
    """A limit is reached; `error` is the error of the Bayeux reply."""

    def __init__(self, limit: BayeuxLimit, text: str, error: str) -> None:
        super().__init__(text)
        self.limit = limit
        self.error = error


def come_back_ms() -> int:
    """Return the retry interval of a refused client, spread so that clients do not return together."""
    return random.randint(*_COME_BACK_MS)  # noqa: S311 - spreads load, protects nothing


def retry_after_s() -> int:
    """Return the same for the Retry-After header, in seconds."""
    return random.randint(*_RETRY_AFTER_S)  # noqa: S311 - spreads load, protects nothing


def network_of(address: str) -> str:
    """Return the address, or the /64 of an IPv6 address: a client may choose any address in it."""
    if ":" not in address:
        return address
    try:
        return str(ip_network((address.partition("%")[0], _IPV6_NETWORK_BITS), strict=False))
    except ValueError:
        return address


@dataclass(slots=True)
class SessionRegistry:
    """In-memory; Redis is authoritative."""

    limits: BayeuxLimits
    clock_ms: Callable[[], int]
    residents: dict[str, Resident] = field(default_factory=dict)
    feeds: dict[str, Feed] = field(default_factory=dict)
    dirty: list[Resident] = field(default_factory=list)
    on_sooner: Callable[[], None] = lambda: None
    """Called when a deadline is noted before all others."""
    _deadlines: Deadlines[str] = field(default_factory=Deadlines)
    _of_addresses: Counter[str] = field(default_factory=Counter)
    _begun: dict[str, str] = field(default_factory=dict)
    _begun_until: Deadlines[str] = field(default_factory=Deadlines)
    _arriving: int = 0
    _handshakes: TokenBucket = field(init=False)
    _handshakes_of_addresses: Buckets = field(init=False)

    def __post_init__(self) -> None:
        limits = self.limits
        self._handshakes = TokenBucket(limits.handshakes_per_s, limits.handshake_burst)
        of_address = RateLimit(limits.handshakes_per_s_per_address, limits.handshake_burst_per_address)
        self._handshakes_of_addresses = Buckets(of_address, limits.max_handshake_addresses)

    # -- sessions ------------------------------------------------------------------------------------------------

    def add(self, resident: Resident, head: Position) -> Feed:
        """Add a session; the feed of a user without one begins at `head`."""
        session = resident.session
        self.residents[session.client_id] = resident
        self.connected(session.client_id)
        if resident.address:
            self._of_addresses[resident.address] += 1
        feed = self.feeds.setdefault(session.user, Feed(session.user, head))
        feed.sessions[session.client_id] = session
        return feed

    def remove(self, resident: Resident) -> bool:
        """Remove a session. Return whether it was the last one of its user here."""
        session = resident.session
        if self.residents.get(session.client_id) is not resident:
            return False
        del self.residents[session.client_id]
        self._leave_address(resident)
        session.leave_memory()
        feed = self.feeds[session.user]
        del feed.sessions[session.client_id]
        if feed.sessions:
            return False
        del self.feeds[session.user]
        return True

    def has(self, resident: Resident) -> bool:
        """Return whether this object is still registered for its session."""
        return self.residents.get(resident.session.client_id) is resident

    def move(self, resident: Resident, address: str) -> None:
        """Count the session at the address of its client."""
        if address and resident.address != address:
            self._leave_address(resident)
            resident.address = address
            self._of_addresses[address] += 1

    def begin(self, client_id: str, address: str) -> None:
        """Count a new session at the address of its handshake until it connects, here or at another node.

        Raises Crowded.
        """
        most = self.limits.max_sessions_per_address
        if not most or not address:
            return
        for begun, _ in self._begun_until.due(self.clock_ms()):
            self.connected(begun)
        if self._of_addresses[address] >= most:
            raise Crowded(
                BayeuxLimit.SESSIONS_OF_ADDRESS,
                f"this address has {most} sessions here already (CALLTAG_NOTIFIER__MAX_SESSIONS_PER_ADDRESS)",
                errors.too_many_sessions(most),
            )
        self._of_addresses[address] += 1
        self._begun[client_id] = address
        self._begun_until.add(self.clock_ms() + self.limits.timeout_ms + self.limits.max_interval_ms, client_id)

    def connected(self, client_id: str) -> None:
        """Stop counting a new session at its address: it has connected or ended."""
        address = self._begun.pop(client_id, "")
        if address:
            self._release(address)

    def _release(self, address: str) -> None:
        self._of_addresses[address] -= 1
        if not self._of_addresses[address]:
            del self._of_addresses[address]

    def _leave_address(self, resident: Resident) -> None:
        if resident.address:
            self._release(resident.address)
            resident.address = ""

    # -- deadlines -----------------------------------------------------------------------------------------------

    def expire_at(self, resident: Resident, deadline_ms: int) -> None:
        """Set the expiry of a session; a suspended connect defers it."""
        resident.expires_at_ms = deadline_ms
        self.note(resident)

    def suspend(self, suspended: Suspended) -> None:
        """Suspend a connect until its deadline."""
        suspended.resident.suspended = suspended
        self.note(suspended.resident)

    def call_when_sooner(self, on_sooner: Callable[[], None]) -> None:
        """Call this when a deadline is noted that is sooner than all others."""
        self.on_sooner = on_sooner

    def note(self, resident: Resident) -> None:
        """Note the next deadline of a session, unless an earlier one is noted: then it is checked when that is due.

        A deadline that is only slightly earlier is not noted, because clients choose it with each connect.
        """
        due_ms, late_ms = resident.due_ms, _EXPIRES_LATE_MS if resident.suspended is None else _LATE_MS
        if not resident.noted_ms or due_ms < resident.noted_ms - late_ms:
            resident.noted_ms = due_ms
            if due_ms < self._deadlines.next_ms:
                self.on_sooner()
            self._deadlines.add(due_ms, resident.session.client_id)

    @property
    def next_due_ms(self) -> float:
        """Return the earliest deadline; infinity if there is none."""
        return self._deadlines.next_ms

    def due(self, now_ms: int) -> Iterator[Resident]:
        """Yield the sessions whose suspended connect is due or which have expired, and remove these deadlines."""
        for client_id, noted_ms in self._deadlines.due(now_ms):
            resident = self.residents.get(client_id)
            if resident is None or resident.noted_ms != noted_ms:
                continue
            resident.noted_ms = 0
            if resident.due_ms <= now_ms:
                yield resident
            if self.has(resident) and not resident.noted_ms:
                resident.noted_ms = max(resident.due_ms, now_ms + _LATE_MS)
                self._deadlines.add(resident.noted_ms, client_id)

    def take_marked(self) -> list[Resident]:
        """Return the sessions to be saved, which are marked no longer."""
        marked, self.dirty = self.dirty, []
        for resident in marked:
            resident.is_dirty = False
        return [each for each in marked if self.has(each)]

    def mark(self, resident: Resident) -> None:
        """Mark a session to be saved."""
        if not resident.is_dirty:
            resident.is_dirty = True
            self.dirty.append(resident)

    def lose_answer(self, resident: Resident) -> None:
        """Note that the last answer may be lost."""
        resident.is_answer_lost = True
        if self.has(resident):
            self.mark(resident)

    # -- limits --------------------------------------------------------------------------------------------------

    def check_handshake(self, address: str) -> None:
        """Apply the rate limits to a handshake from the address, before its credentials are checked. Raises Crowded.

        Each address has a rate of its own, so that one cannot use up the total rate.
        """
        self._check_sessions()
        now_ms, limits = self.clock_ms(), self.limits
        if address and self._handshakes_of_addresses.wait_s(network_of(address), now_ms):
            _refuse_handshake(BayeuxLimit.HANDSHAKES_OF_ADDRESS, limits.handshakes_per_s_per_address)
        if not self._handshakes.take(now_ms):
            _refuse_handshake(BayeuxLimit.HANDSHAKES, limits.handshakes_per_s)

    @contextmanager
    def arrival(self, client_id: str) -> Iterator[None]:
        """Reserve a place for a session that is added inside the context, unless it is here already. Raises Crowded."""
        if client_id in self.residents:
            yield
            return
        self._check_sessions()
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def _check_sessions(self) -> None:
        most = self.limits.max_sessions
        if len(self.residents) + self._arriving >= most:
            raise Crowded(
                BayeuxLimit.SESSIONS,
                f"{most} sessions are held here already (CALLTAG_NOTIFIER__MAX_SESSIONS); try again in a moment",
                errors.too_many_sessions(most),
            )


def _refuse_handshake(limit: BayeuxLimit, per_s: float) -> NoReturn:
    raise Crowded(
        limit,
        f"{per_s:g} handshakes a second are accepted here (CALLTAG_NOTIFIER__{limit.upper()})",
        errors.too_many_handshakes(per_s),
    )
