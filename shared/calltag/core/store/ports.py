"""Ports of the store: state by partition for the worker, reads for the gateway, and the registries.

One implementation uses Redis or Valkey; a single process runs the same code on an embedded server.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, NewType, Protocol, TypeAlias

from calltag.core.broker.ports import Partition
from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call
from calltag.core.domain.ids import CallId, OperationId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.store.connection import Request

Epoch = NewType("Epoch", int)
CommitPosition = NewType("CommitPosition", int)
WorkerId = NewType("WorkerId", str)
NEVER: Final = Epoch(0)
NOTHING: Final = CommitPosition(0)
State: TypeAlias = Call | Agent


class StoreError(Exception):
    """Root of the errors of the store."""


class StoreUnavailable(StoreError):
    """Redis is unavailable or exceeded the deadline. A write may have taken effect; repeating it is safe."""


class WritesLost(StoreUnavailable):
    """Redis lacks commits that it had confirmed: a failover has lost them."""


class Fenced(StoreError):
    """Another worker has taken the partition over: nothing was written, and this epoch can write nothing more."""


class WriteRefused(StoreError):
    """Redis refuses this write: nothing was written. Writes to other calls or agents may still succeed."""


class CommitConflict(StoreError):
    """A call has a different version than expected, or an operation is already applied: nothing was written."""


class StateUnreadable(StoreError):
    """The record of a call or agent is not in the format of this version; the message names the key, never values."""


class TooMuch(StoreError):
    """The result exceeds the byte limit of the read."""


class InstallationMismatch(StoreError):
    """Redis belongs to an installation with a different number of partitions or a different schema."""


@dataclass(frozen=True, slots=True)
class Done:
    """Outcome of an applied operation: its code, and the version of the state after it."""

    code: StatusCode
    version: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class CallBlock:
    """Block of a call or an agent: its parked operation, the reason, and the time in Unix milliseconds. No other
    operation is applied until an operator replays or drops the parked one."""

    operation_id: OperationId
    reason: str
    at_ms: int


CallBlocks: TypeAlias = Mapping[str, CallBlock | None]
"""Blocks to set by key; None clears the block."""
NO_BLOCKS: Final[CallBlocks] = {}


@dataclass(frozen=True, slots=True)
class Loaded:
    """State under a key (None: no record), and the outcomes of the requested operations that are done.

    `unreadable` is set where the record cannot be read; there is no state then.
    """

    state: State | None
    done: Mapping[OperationId, Done] = field(default_factory=dict)
    unreadable: StateUnreadable | None = None
    block: CallBlock | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Change of the state under one key by a batch; `before` and `after` are the same object if nothing changed."""

    key: str
    before: State | None
    after: State | None
    done: Sequence[tuple[OperationId, Done]]


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Result of a take-over: the new epoch, and the number of events in the outbox, which may be unpublished.

    `former` is the previous epoch, `position` the number of commits so far.
    """

    epoch: Epoch
    kept: int = 0
    former: Epoch = NEVER
    position: CommitPosition = NOTHING


@dataclass(frozen=True, slots=True)
class Committal:
    """Result of a commit: the number of commits so far, and the number of blocks in the partition."""

    position: CommitPosition
    blocks: int


@dataclass(frozen=True, slots=True)
class HeldPartition:
    """A partition that a worker consumes, as the worker reports it.

    `epoch` is that of its take-over; None before its first delivery, while it may still wait for the former owner.
    `oldest_at_ms` is when the gateway accepted the oldest unacknowledged operation, by the gateway's clock; None if
    there is none. `position` is the last confirmed commit whose operations the queue cannot redeliver: after a crash,
    the next owner compares it with Redis to detect lost commits.
    """

    partition: Partition
    epoch: Epoch | None = None
    unacknowledged: int = 0
    oldest_at_ms: int | None = None
    position: CommitPosition = NOTHING


@dataclass(frozen=True, slots=True)
class LivingWorker:
    """A worker with a valid lease, and the partitions that it reported at its last renewal."""

    worker: WorkerId
    lease_ends_in_ms: int
    held: Sequence[HeldPartition]


class Published(NamedTuple):
    """An owner has published the events of all commits up to this position, the last of them in this epoch."""

    epoch: Epoch
    position: CommitPosition


class CallStore(Protocol):
    """State for the worker: each method accesses one partition. Every method may raise StoreUnavailable."""

    waits_for_replicas: bool
    """True if a commit is safe only after `wait_for_replicas`."""

    async def take_over(
        self, partition: Partition, after: Epoch = NEVER, published: Published | None = None
    ) -> TakeOver:
        """Raise the partition's epoch, above `after` in any case, which fences off commits of former owners.

        The outbox is emptied if this owner was the last one, and has published all that is in it.
        """
        ...

    async def kept(
        self, partition: Partition, epoch: Epoch, skip: int = 0, max_bytes: int | None = None
    ) -> Sequence[bytes]:
        """Return the outbox events after the `skip` oldest, in order: at most `max_bytes` (default: one batch), but at
        least one. They stay until `sent` drops all of them. Raises Fenced."""
        ...

    async def load(
        self, partition: Partition, wanted: Mapping[str, Sequence[OperationId]], max_bytes: int | None = None
    ) -> Mapping[str, Loaded]:
        """Read the state under each key, and the outcomes of its operations that are done.

        Returns the first keys that fit in `max_bytes` (default: one batch), but at least one.
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
        published: CommitPosition | None = None,
        following: Sequence[Request] = (),
    ) -> Committal:
        """Write changes, blocks and outcomes, and append the events to the outbox, atomically.

        `after` is the position of the last confirmed commit; `published` that up to which all events were published:
        if it is the current one, the outbox is emptied before. The requests `following` run after the commit, in its
        exchange, whether or not it took effect. Raises Fenced, CommitConflict, WriteRefused, and WritesLost if Redis is
        behind `after`: no commit may follow a lost one.
        """
        ...

    async def attempt(self, partition: Partition, epoch: Epoch, name: str, attempt: str) -> int:
        """Record an attempt at an operation by its id; return the number since `clear_attempts`. Raises Fenced.

        Idempotent per attempt.
        """
        ...

    async def clear_attempts(self, partition: Partition, name: str) -> None:
        """Delete all attempts at an operation, after one has completed."""
        ...

    async def withdraw_attempt(self, partition: Partition, name: str, attempt: str) -> None:
        """Delete an attempt that did not complete though its worker did not crash; other attempts still count."""
        ...

    async def is_done(self, partition: Partition, key: str, operation: OperationId) -> bool:
        """Return whether the operation took effect on the state under the key, without reading that state."""
        ...

    async def silent(self, partition: Partition, silent_ms: int, most: int, skip: int = 0) -> Sequence[CallId]:
        """Return at most `most` live calls unchanged for `silent_ms`, longest first, after the `skip` first ones."""
        ...

    async def wait_for_replicas(self, partition: Partition, epoch: Epoch, position: CommitPosition) -> None:
        """Wait until the configured number of replicas have all commits up to the position.

        Raises StoreUnavailable on timeout, WritesLost, Fenced.
        """
        ...

    async def read_position(self, partition: Partition) -> tuple[Epoch, CommitPosition]:
        """Return the current epoch and number of commits."""
        ...

    async def note_loss(self, partition: Partition, loss: str, commits: int, lost_for_good: int, at_ms: int) -> None:
        """Record for operators that Redis lost `commits`, of these `lost_for_good` beyond recovery.

        `loss` is an id: a loss that is reported again, perhaps with more commits, counts once.
        """
        ...

    async def sent(self, partition: Partition, epoch: Epoch, position: CommitPosition) -> None:
        """Trim the outbox after the events of all commits up to `position` were published. Raises Fenced.

        If there are later commits, all events stay until those are published as well.
        """
        ...


class PendingCall(Protocol):
    """Awaitable read of a call without its user data. Raises StoreUnavailable, StateUnreadable."""

    def __await__(self) -> Generator[object, None, Call | None]: ...

    def drop(self) -> None:
        """Discard the result."""
        ...


class CallReader(Protocol):
    """Reads for the gateway. Every method may raise StoreUnavailable, those that read one record StateUnreadable."""

    async def call(self, call_id: CallId, *, with_user_data: bool = True) -> Call | None:
        """Return the current call, optionally without its user data; a released call is kept until its TTL ends."""
        ...

    def begin_call(self, call_id: CallId) -> PendingCall:
        """Start reading a call without user data; further requests of the same loop turn share the round trip."""
        ...

    async def calls_of(
        self, user: UserId, *, with_user_data: bool = True, max_bytes: int | None = None
    ) -> Sequence[Call]:
        """Return the user's calls that are not released, oldest first; unreadable ones are omitted.

        Raises TooMuch as soon as their user data exceeds `max_bytes`.
        """
        ...

    async def with_calls(self, users: Sequence[UserId]) -> Sequence[UserId]:
        """Return those of the users who may have calls, in order."""
        ...

    async def is_on(self, user: UserId, count: int) -> bool:
        """Return whether the user is on at least `count` calls that are not released."""
        ...

    async def block(self, call_id: CallId) -> CallBlock | None:
        """Return the block of the call, if it has one."""
        ...

    async def agent(self, user: UserId) -> Agent | None:
        """Return the agent's contact-centre session; None if there never was one."""
        ...


class CallIndex(Protocol):
    """Index of calls by user. May raise StoreUnavailable."""

    lifetime_ms: int
    """TTL of a list after its last write."""

    async def update(self, calls: Sequence[Call]) -> None:
        """Update the lists of all users of these calls. Idempotent."""
        ...


class WorkerRegistry(Protocol):
    """Leases of the workers that share the partitions. May raise StoreUnavailable."""

    async def renew(self, worker: WorkerId, held: Sequence[HeldPartition] = ()) -> Sequence[WorkerId]:
        """Renew the worker's lease, and report the partitions that it consumes; return all live workers.

        They are in the order of their places: a new worker comes last, and the last one takes the place of a worker
        that has left or whose lease has expired.
        """
        ...

    async def leave(self, worker: WorkerId) -> None:
        """End the worker's lease, so that the others take its partitions."""
        ...

    async def living(self) -> Sequence[LivingWorker]:
        """Return all live workers in the order of their places, without changing the registry."""
        ...
