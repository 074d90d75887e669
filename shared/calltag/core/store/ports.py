"""The store as the services see it: state by partition for the worker, reading for the gateway, the registries.

One implementation speaks to Redis or Valkey; in one process the same code runs on an embedded server.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NewType, Protocol, TypeAlias

from calltag.core.bus.ports import Partition
from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call
from calltag.core.domain.ids import CallId, OperationId, UserId
from calltag.core.domain.status import StatusCode

Epoch = NewType("Epoch", int)
CommitPosition = NewType("CommitPosition", int)
WorkerId = NewType("WorkerId", str)
NEVER: Final = Epoch(0)
NOTHING: Final = CommitPosition(0)
State: TypeAlias = Call | Agent


class StoreError(Exception):
    """Root of what can go wrong in the store."""


class StoreUnavailable(StoreError):
    """The store is away or did not answer in time. Whether a write took place is not known; it may be repeated."""


class WritesLost(StoreUnavailable):
    """The store is back at a state from before commits that it had confirmed: a fail-over has lost them."""


class Fenced(StoreError):
    """Another worker has taken the partition over: nothing was written, and nothing will be under this epoch."""


class WriteRefused(StoreError):
    """The store takes no such write for this call or agent: nothing was written. Others may be written all the same."""


class CommitConflict(StoreError):
    """A call has another version than expected, or an operation is applied already: nothing was written."""


class StateUnreadable(StoreError):
    """What is kept of a call or an agent has not the form of this version; the message names the key, never values."""


class TooMuch(StoreError):
    """What is asked for takes more bytes than are to be read."""


class InstallationMismatch(StoreError):
    """The store belongs to an installation with another number of partitions or another schema."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an operation when it was applied: its code, and the version of the state after it."""

    code: StatusCode
    version: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class CallBlock:
    """On a call or an agent: the operation of it that is parked, why, and since when in Unix milliseconds. Until an
    operator has it replayed or dropped, no other operation is applied."""

    operation_id: OperationId
    reason: str
    at_ms: int


CallBlocks: TypeAlias = Mapping[str, CallBlock | None]
"""What is to be marked, and (None) of what the mark is to be taken away."""
NO_BLOCKS: Final[CallBlocks] = {}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The state under a key (None: there is none) and the operations among those asked for that are done.

    Where the record cannot be read, `unreadable` says why, and there is no state.
    """

    state: State | None
    done: Mapping[OperationId, Done] = field(default_factory=dict)
    unreadable: StateUnreadable | None = None
    block: CallBlock | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a batch did to the state under one key; `before` and `after` are the same object if nothing changed."""

    key: str
    before: State | None
    after: State | None
    done: Sequence[tuple[OperationId, Done]]


@dataclass(frozen=True, slots=True)
class TakeOver:
    """A partition now owned: the new epoch, and how many events the former owner committed but may not have sent.

    `former` is the epoch before, `position` the number of commits so far.
    """

    epoch: Epoch
    kept: int = 0
    former: Epoch = NEVER
    position: CommitPosition = NOTHING


@dataclass(frozen=True, slots=True)
class Committal:
    """What a commit came to: how many there were so far, and how many marks the partition has."""

    position: CommitPosition
    blocks: int


@dataclass(frozen=True, slots=True)
class HeldPartition:
    """A partition that a worker consumes, as the worker tells it.

    `epoch` is the one that it took the partition over in, None while it had nothing to do there since it came; then it
    may still wait for a former owner. `oldest_at_ms` is when the oldest operation in its hands was accepted, by the
    gateway's clock; None if there is none. `position` is how many commits the store has confirmed in that epoch and
    before, of which nothing comes again from the queue: it tells the next owner whether the store still has them, where
    this one dies.
    """

    partition: Partition
    epoch: Epoch | None = None
    unacknowledged: int = 0
    oldest_at_ms: int | None = None
    position: CommitPosition = NOTHING


@dataclass(frozen=True, slots=True)
class LivingWorker:
    """A worker whose lease has not ended, with the partitions that it told of when it last renewed it."""

    worker: WorkerId
    lease_ends_in_ms: int
    held: Sequence[HeldPartition]


class StateStore(Protocol):
    """The worker's side: all of one call into StateStore concerns one partition. Every method may raise
    StoreUnavailable."""

    async def take_over(self, partition: Partition, after: Epoch = NEVER) -> TakeOver:
        """Raise the partition's epoch, beyond `after` in any case: from here on, commits of former owners fail."""
        ...

    async def kept(
        self, partition: Partition, epoch: Epoch, skip: int = 0, max_bytes: int | None = None
    ) -> Sequence[bytes]:
        """The events that are kept for sending after the `skip` oldest, in order: at most so many bytes (else those of
        one batch), and always the first. They stay until `sent` drops all of them. Raises Fenced."""
        ...

    async def load(
        self, partition: Partition, wanted: Mapping[str, Sequence[OperationId]], max_bytes: int | None = None
    ) -> Mapping[str, Loaded]:
        """Read the state under each key, and which of the operations named with it are done.

        No more is read than so many bytes (else those of one batch): the first keys that fit, and always the first.
        """
        ...

    async def commit(
        self,
        partition: Partition,
        epoch: Epoch,
        changes: Sequence[Change],
        events: Sequence[bytes],
        blocks: CallBlocks = NO_BLOCKS,
        *,
        after: CommitPosition = NOTHING,
    ) -> Committal:
        """Write all changes and marks, remember the operations and keep the events for sending: all of it or nothing.

        `after` is the position of the last commit that was confirmed. Raises Fenced, CommitConflict, WriteRefused, and
        WritesLost if the store is back before that: nothing is to be written onto what is missing.
        """
        ...

    async def attempt(self, partition: Partition, epoch: Epoch, name: str, attempt: str) -> int:
        """Record an attempt at an operation by its id; returns how many there were since `survived`. Raises Fenced.

        To record the same attempt again changes nothing.
        """
        ...

    async def clear_attempts(self, partition: Partition, name: str) -> None:
        """The attempts at an operation came to an end."""
        ...

    async def withdraw_attempt(self, partition: Partition, name: str, attempt: str) -> None:
        """An attempt at an operation came to no end, but its worker did not crash; other attempts still count."""
        ...

    async def is_done(self, partition: Partition, key: str, operation: OperationId) -> bool:
        """Whether the operation took effect on what is under the key, which itself is not read."""
        ...

    async def silent(self, partition: Partition, silent_ms: int, most: int, skip: int = 0) -> Sequence[CallId]:
        """Live calls without any change for that long, those silent longest first; the first of them are skipped."""
        ...

    async def wait_for_replicas(self, partition: Partition, epoch: Epoch, position: CommitPosition) -> None:
        """Wait until as many replicas as are wanted have all commits up to the position.

        Raises StoreUnavailable if they have not in time, WritesLost, Fenced.
        """
        ...

    async def read_position(self, partition: Partition) -> tuple[Epoch, CommitPosition]:
        """The epoch and the number of commits, as the store has them now."""
        ...

    async def note_loss(self, partition: Partition, loss: str, commits: int, gone: int, at_ms: int) -> None:
        """Remember, for operators, that the store lost commits, some of them for good.

        `loss` is an id: a loss that is told again, perhaps with more commits, counts once.
        """
        ...

    async def sent(self, partition: Partition, epoch: Epoch, position: CommitPosition) -> None:
        """Drop the kept events: those of all commits up to `position` were sent. Raises Fenced.

        If there are later commits, all events are kept until those are sent as well.
        """
        ...


class PendingCall(Protocol):
    """A call that is being read, without its user data; to be awaited. Raises StoreUnavailable, StateUnreadable."""

    def __await__(self) -> Generator[object, None, Call | None]: ...

    def drop(self) -> None:
        """Nobody wants to know (any more)."""
        ...


class CallReader(Protocol):
    """The gateway's side. Every method may raise StoreUnavailable, those that read one record StateUnreadable."""

    async def call(self, call_id: CallId, *, with_user_data: bool = True) -> Call | None:
        """The call as it is now, on demand without its user data; a released one is kept for a while."""
        ...

    def begin_call(self, call_id: CallId) -> PendingCall:
        """The same, without user data, asked for at once: what else is asked now shares its round trip."""
        ...

    async def calls_of(
        self, user: UserId, *, with_user_data: bool = True, max_bytes: int | None = None
    ) -> Sequence[Call]:
        """The user's calls that are not released, oldest first; those that cannot be read are left out.

        Raises TooMuch as soon as their user data takes more than `max_bytes`.
        """
        ...

    async def is_on(self, user: UserId, count: int) -> bool:
        """Whether the user is on at least so many calls that are not released."""
        ...

    async def block(self, call_id: CallId) -> CallBlock | None:
        """The mark of the call, if it has one."""
        ...

    async def agent(self, user: UserId) -> Agent | None:
        """The agent's contact-centre session, if there ever was one."""
        ...


class CallIndex(Protocol):
    """Which users are on which calls. May raise StoreUnavailable."""

    lifetime_ms: int
    """How long a list stays after it was last written."""

    async def update(self, calls: Sequence[Call]) -> None:
        """Bring the lists of calls of all these calls' users up to date."""
        ...


class WorkerRegistry(Protocol):
    """The workers that share the partitions, with leases. May raise StoreUnavailable."""

    async def renew(self, worker: WorkerId, held: Sequence[HeldPartition] = ()) -> Sequence[WorkerId]:
        """Keep the worker among the living for one lease, and tell what it consumes; return all that live.

        They come in the order of their places: who is new is the last one, and the last one takes the place of one that
        is gone.
        """
        ...

    async def leave(self, worker: WorkerId) -> None:
        """Give the worker's partitions to the others."""
        ...

    async def living(self) -> Sequence[LivingWorker]:
        """All that live, in the order of their places; changes nothing."""
        ...
