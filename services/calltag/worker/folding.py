"""Folding a batch: operations in, changes, events and replies out; no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from calltag.core.bus.ports import NodeId
from calltag.core.domain.apply import apply
from calltag.core.domain.call import Call
from calltag.core.domain.events import Event, OperationRefused
from calltag.core.domain.ids import EventId, OperationId
from calltag.core.domain.operations import CallEnded, CallOperation, Operation
from calltag.core.domain.outcome import CallLimits, Outcome
from calltag.core.domain.status import StatusCode
from calltag.core.store.ports import Change, Done, Loaded, Mark, State
from calltag.core.wire.messages import OperationMessage, OperationReply
from calltag.worker.fault import Fault, fault_of


@dataclass(frozen=True, slots=True)
class Applied:
    """One operation with its outcome; `repeated` when it was applied before and only had to be recognised."""

    operation: Operation
    done: Done
    repeated: bool = False


@dataclass(slots=True)
class Folded:
    """What a batch amounts to, in the order of its operations.

    `faults` says by key why an operation failed; it and those after it with the same key have their places in `held`:
    nothing was done about them. `behind` has the places of those that are to be parked behind the operation named with
    them. `unmarked` are the keys whose mark falls with this batch.
    """

    changes: list[Change] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    replies: list[tuple[NodeId, OperationReply]] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    behind: list[tuple[int, OperationId]] = field(default_factory=list)
    unmarked: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Subject:
    """The state under one key while the batch runs over it."""

    loaded: Loaded
    state: State | None
    mark: Mark | None
    done: dict[OperationId, Done] = field(default_factory=dict)

    def known(self, operation_id: OperationId) -> Done | None:
        return self.done.get(operation_id) or self.loaded.done.get(operation_id)


def fold(messages: Sequence[OperationMessage], loaded: Mapping[str, Loaded], limits: CallLimits) -> Folded:
    """Apply the operations of one batch in order. An operation that is done already has no effect, only its reply."""
    folded = Folded()
    subjects = {key: _Subject(found, found.state, found.mark) for key, found in loaded.items()}
    for place, message in enumerate(messages):
        operation = message.operation
        subject = subjects[operation.key]
        done = subject.known(operation.id)
        repeated = done is not None
        if operation.key in folded.faults:
            folded.held.append(place)
            continue
        ends_silent = isinstance(operation, CallOperation) and operation.action == CallEnded("silent")
        if done is None and subject.mark is not None and subject.mark.operation_id != operation.id and not ends_silent:
            if operation.sender is None:
                # Nobody would be told of the refusal, and the switch tells each fact once.
                folded.behind.append((place, subject.mark.operation_id))
                continue
            done = refuse(operation, _behind(subject.mark), folded)
        elif done is None:
            try:
                done = _apply(subject, operation, limits, folded)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is of this call alone
                folded.faults[operation.key] = fault_of(error)
                folded.held.append(place)
                continue
        # That a call which the switch has forgotten ends sets nothing upon what is missing, and the mark ends with it.
        has_ended = ends_silent and done.code is StatusCode.SUCCESS
        if subject.mark is not None and (subject.mark.operation_id == operation.id or has_ended):
            folded.unmarked.append(operation.key)
            subject.mark = None
        folded.applied.append(Applied(operation, done, repeated))
        if message.reply_to is not None:
            state = None if repeated and not _may_see(operation, subject.state) else subject.state
            folded.replies.append((message.reply_to, _reply(operation.id, done, state)))
    for key, subject in subjects.items():
        if subject.done:
            folded.changes.append(Change(key, subject.loaded.state, subject.state, tuple(subject.done.items())))
        if isinstance(subject.state, Call):
            folded.calls.append(subject.state)
    return folded


def _apply(subject: _Subject, operation: Operation, limits: CallLimits, folded: Folded) -> Done:
    if subject.loaded.unreadable is not None:
        raise subject.loaded.unreadable
    outcome: Outcome = apply(subject.state, operation, limits)
    subject.state = outcome.state
    done = Done(outcome.code, outcome.state.version if outcome.state else 0, outcome.text)
    # What the switch tells of a call that is not there yet is told again once it is.
    if operation.sender is not None or outcome.code is not StatusCode.NOT_FOUND:
        subject.done[operation.id] = done
    if outcome.event is not None:
        folded.events.append(outcome.event)
    return done


def _behind(mark: Mark) -> Done:
    return Done(
        StatusCode.INTERNAL,
        0,
        f"operation {mark.operation_id} failed before it and is parked: an operator has to decide",
    )


def refuse(operation: Operation, done: Done, folded: Folded) -> Done:
    """Tell the sender that an operation was not applied. It is not done: it may be applied later, and its event then
    has another id."""
    if operation.sender is not None:
        call_id = operation.call_id if isinstance(operation, CallOperation) else None
        folded.events.append(
            OperationRefused(
                id=EventId(f"{operation.id}-not-applied"),
                user=operation.sender,
                operation_name=operation.action.name,
                call_id=call_id,
                code=done.code,
                text=done.text,
                accepted_at_ms=operation.accepted_at_ms,
            )
        )
    return done


def _may_see(operation: Operation, state: State | None) -> bool:
    """Whether the sender of a repeated operation may see the call as it is by now."""
    if not isinstance(operation, CallOperation) or not isinstance(state, Call) or operation.as_administrator:
        return True
    return operation.sender is None or state.is_open_to(operation.sender)


def _reply(operation_id: OperationId, done: Done, state: State | None) -> OperationReply:
    call = state if isinstance(state, Call) else None
    return OperationReply(operation_id=operation_id, code=done.code, text=done.text, call=call)
