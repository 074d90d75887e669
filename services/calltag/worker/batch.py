"""Fold a batch of operations into changes, events and replies; no I/O.

Each event holds its whole call, so a batch may produce far more bytes than its operations have. It ends before its
events exceed the limit; later operations are for the next batch."""

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import EVENT, OperationMessage, OperationReply
from calltag.core.domain.apply import apply
from calltag.core.domain.call import Call
from calltag.core.domain.events import Event, OperationRefused
from calltag.core.domain.ids import CallId, OperationId, call_key, order_key, refusal_id
from calltag.core.domain.operations import AgentOperation, CallEnded, CallOperation, Operation, SetCallDisposition
from calltag.core.domain.outcome import CallLimits, Outcome
from calltag.core.domain.status import StatusCode
from calltag.core.process.limits import MAX_BATCH_BYTES
from calltag.core.store.ports import CallBlock, Change, Done, Loaded, State, StateUnreadable, StoreError


class ParkingReason(StrEnum):
    """Reasons for parking an operation, in headers, metrics and the CLI."""

    UNREADABLE = "not_an_operation"
    """The message cannot be decoded by this version."""
    FAULT = "failed_repeatedly"
    """It, or its call, failed repeatedly while others succeeded."""
    CRASH = "crashes_workers"
    """Workers crashed on it."""
    BEHIND = "behind_a_parked_one"
    """An earlier operation of the same call is parked, and it has no sender to refuse it to."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure: `exception` is the class of the error, `where` the line that raised it, `after` the parked operation
    of the same call."""

    detail: str
    exception: str = ""
    where: str = ""
    after: str = ""


def fault_of(error: Exception) -> Failure:
    """Return the failure of an exception. Only messages of the store are known to hold no values."""
    name = type(error).__name__
    known = isinstance(error, StateUnreadable) or (isinstance(error, StoreError) and error.__cause__ is None)
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return Failure(str(error) if known else f"{name} was raised", name, where)


@dataclass(frozen=True, slots=True)
class Applied:
    """An operation with its outcome; `repeated` if it had been applied before."""

    operation: Operation
    done: Done
    repeated: bool = False


@dataclass(slots=True)
class Folded:
    """The result of a batch, in the order of its operations.

    `taken` counts the operations that were folded; the rest did not fit. `encoded` are the events as they are stored
    and published, `size_bytes` is their length. `faults` has the failure by key; `held` the indexes of that operation
    and later ones of its key, which had no effect. `behind` has the indexes of those to park behind the operation named
    with them, `unblocked` the keys whose block this batch removes.
    """

    taken: int = 0
    size_bytes: int = 0
    changes: list[Change] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    encoded: list[bytes] = field(default_factory=list)
    replies: list[tuple[NodeId, OperationReply]] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    faults: dict[str, Failure] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    behind: list[tuple[int, OperationId]] = field(default_factory=list)
    unblocked: list[str] = field(default_factory=list)

    def add_event(self, event: Event, encoded: bytes) -> None:
        """Add an event."""
        self.events.append(event)
        self.encoded.append(encoded)
        self.size_bytes += len(encoded)


@dataclass(slots=True)
class _Subject:
    """The state of one key while the batch is folded."""

    loaded: Loaded
    state: State | None
    block: CallBlock | None
    done: dict[OperationId, Done] = field(default_factory=dict)
    is_reached: bool = False

    def known(self, operation_id: OperationId) -> Done | None:
        return self.done.get(operation_id) or self.loaded.done.get(operation_id)


@dataclass(frozen=True, slots=True)
class _Step:
    """The outcome of an operation. One that is not `remembered` may be applied later."""

    done: Done
    state: State | None
    events: Sequence[tuple[Event, bytes]] = ()
    remembered: bool = False
    repeated: bool = False
    others: Sequence[Call] = ()

    @property
    def size_bytes(self) -> int:
        return sum(len(encoded) for _, encoded in self.events)


def fold(
    messages: Sequence[OperationMessage],
    loaded: Mapping[str, Loaded],
    limits: CallLimits,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Folded:
    """Apply the first operations in order: those whose calls are loaded, and whose events fit in `max_bytes`.

    The first event is taken however large it is. An operation that is done already has no effect, only its reply.
    """
    folded = Folded()
    subjects = {key: _Subject(found, found.state, found.block) for key, found in loaded.items()}
    for message in messages:
        family = _family(message.operation, subjects)
        if family is None or not _take(message, family, limits, folded, max_bytes):
            break
        folded.taken += 1
        family.subject.is_reached = True
    for key, subject in subjects.items():
        if subject.done or subject.state is not subject.loaded.state:
            folded.changes.append(Change(key, subject.loaded.state, subject.state, tuple(subject.done.items())))
        if subject.is_reached and isinstance(subject.state, Call):
            folded.calls.append(subject.state)
    return folded


@dataclass(frozen=True, slots=True)
class _Family:
    """The subject of an operation, and those of the other calls that it may change."""

    subject: _Subject
    others: Mapping[CallId, _Subject]
    every: Mapping[str, _Subject]
    """All subjects of the batch, by key."""

    def calls(self) -> Mapping[CallId, Call]:
        """Return the other calls that exist. Raises StateUnreadable."""
        found = {}
        for call_id, each in self.others.items():
            if each.loaded.unreadable is not None:
                raise each.loaded.unreadable
            if isinstance(each.state, Call):
                found[call_id] = each.state
        return found

    def unblock(self, key: str) -> None:
        """Remove the block of all calls that belong together."""
        for name, each in self.every.items():
            if order_key(name) == key:
                each.block = None

    def change(self, calls: Sequence[Call]) -> None:
        """Set the other calls that an operation changed."""
        for call in calls:
            subject = self.others[call.id]
            subject.state, subject.is_reached = call, True


def _family(operation: Operation, subjects: Mapping[str, _Subject]) -> _Family | None:
    """Return the subjects of an operation; None if they are not all loaded."""
    subject = subjects.get(operation.key)
    if subject is None:
        return None
    if not isinstance(operation, CallOperation):
        return _Family(subject, {}, subjects)
    others: dict[CallId, _Subject] = {}
    missing = [*operation.others, *_related(subject)]
    while missing:
        call_id = missing.pop()
        if call_id in others or call_id == operation.call_id:
            continue
        other = subjects.get(call_key(call_id))
        if other is None:
            return None
        others[call_id] = other
        missing += _related(other)
    return _Family(subject, others, subjects)


def _related(subject: _Subject) -> Iterable[CallId]:
    return subject.state.related if isinstance(subject.state, Call) else ()


def _take(message: OperationMessage, family: _Family, limits: CallLimits, folded: Folded, max_bytes: int) -> bool:
    """Fold one operation, unless its events do not fit."""
    operation, place, subject = message.operation, folded.taken, family.subject
    if operation.order_key in folded.faults:
        folded.held.append(place)
        return True
    if operation.sender is None and (block := _in_the_way(operation, subject)) is not None:
        # It has no sender to refuse it to.
        folded.behind.append((place, block.operation_id))
        return True
    try:
        step = _step(family, operation, limits)
    except Exception as error:  # noqa: BLE001 - it concerns this call alone
        folded.faults[operation.order_key] = fault_of(error)
        folded.held.append(place)
        return True
    if folded.events and step.events and folded.size_bytes + step.size_bytes > max_bytes:
        return False
    for event, encoded in step.events:
        folded.add_event(event, encoded)
    family.change(step.others)
    _record(message, family, step, folded)
    return True


def _record(message: OperationMessage, family: _Family, step: _Step, folded: Folded) -> None:
    operation, done, subject = message.operation, step.done, family.subject
    subject.state = step.state
    if step.remembered:
        subject.done[operation.id] = done
    # The end of a silent call does not depend on the parked operation, and removes the block, which is that of the
    # first of the calls that belong together.
    is_first = operation.key == operation.order_key
    has_ended = is_first and _ends_silent(operation) and done.code is StatusCode.SUCCESS
    if subject.block is not None and (subject.block.operation_id == operation.id or has_ended):
        folded.unblocked.append(operation.order_key)
        family.unblock(operation.order_key)
    folded.applied.append(Applied(operation, done, step.repeated))
    if message.reply_to is not None:
        is_hidden = (step.repeated or _sets_disposition(operation)) and not _may_see(operation, subject.state)
        state = None if is_hidden else subject.state
        folded.replies.append((message.reply_to, _reply(operation.id, done, state)))


def _ends_silent(operation: Operation) -> bool:
    return isinstance(operation, CallOperation) and operation.action == CallEnded("silent")


def _sets_disposition(operation: Operation) -> bool:
    """Return whether it is allowed to a sender who has left the call."""
    return isinstance(operation.action, SetCallDisposition)


def _in_the_way(operation: Operation, subject: _Subject) -> CallBlock | None:
    """Return the block that keeps the operation from being applied."""
    block = subject.block
    if block is None or block.operation_id == operation.id or subject.known(operation.id) is not None:
        return None
    return None if _ends_silent(operation) else block


def _step(family: _Family, operation: Operation, limits: CallLimits) -> _Step:
    subject = family.subject
    known = subject.known(operation.id)
    if known is not None:
        return _Step(known, subject.state, repeated=True)
    block = _in_the_way(operation, subject)
    if block is not None:
        done = _behind(block)
        return _with_events(done, subject.state, refusal(operation, done), remembered=False)
    if subject.loaded.unreadable is not None:
        raise subject.loaded.unreadable
    outcome: Outcome = apply(subject.state, operation, limits, family.calls())
    done = Done(outcome.code, outcome.state.version if outcome.state else 0, outcome.text)
    # An event of the switch for a call that is not known yet is sent again later.
    remembered = operation.sender is not None or outcome.code is not StatusCode.NOT_FOUND
    return replace(_with_events(done, outcome.state, outcome.events, remembered=remembered), others=outcome.others)


def _with_events(done: Done, state: State | None, events: Sequence[Event], *, remembered: bool) -> _Step:
    return _Step(done, state, [(event, EVENT.encode(event)) for event in events], remembered)


def _behind(block: CallBlock) -> Done:
    return Done(
        StatusCode.INTERNAL,
        0,
        f"operation {block.operation_id} failed before it and is parked: an operator has to decide",
    )


def refusal(operation: Operation, done: Done) -> Sequence[OperationRefused]:
    """Return the event for the sender, if any, of an operation that was not applied. It may be applied later, with an
    event of another id."""
    if operation.sender is None:
        return ()
    event = OperationRefused(
        id=refusal_id(operation.id),
        user=operation.sender,
        operation_name=operation.operation_name,
        call_id=operation.call_id if isinstance(operation, CallOperation) else None,
        code=done.code,
        text=done.text,
        accepted_at_ms=operation.accepted_at_ms,
        device=operation.device if isinstance(operation, AgentOperation) else None,
    )
    return (event,)


def _may_see(operation: Operation, state: State | None) -> bool:
    """Return whether the sender of a repeated operation may see the call as it is now."""
    if not isinstance(operation, CallOperation) or not isinstance(state, Call) or operation.as_administrator:
        return True
    return operation.sender is None or state.is_open_to(operation.sender)


def _reply(operation_id: OperationId, done: Done, state: State | None) -> OperationReply:
    call = state if isinstance(state, Call) else None
    return OperationReply(operation_id=operation_id, code=done.code, text=done.text, call=call)
