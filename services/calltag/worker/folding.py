"""Folding a batch: operations in, changes, events and replies out; no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from calltag.core.bus.ports import NodeId
from calltag.core.domain.apply import apply
from calltag.core.domain.call import Call
from calltag.core.domain.events import Event, OperationRefused
from calltag.core.domain.ids import EventId, OperationId
from calltag.core.domain.operations import CallOperation, Operation
from calltag.core.domain.outcome import CallLimits, Outcome
from calltag.core.domain.status import StatusCode
from calltag.core.store.ports import Change, Done, Loaded, State, StateUnreadable
from calltag.core.wire.messages import OperationMessage, OperationReply


@dataclass(frozen=True, slots=True)
class Applied:
    """One operation with its outcome; `repeated` when it was applied before and only had to be recognised."""

    operation: Operation
    done: Done
    repeated: bool = False


@dataclass(slots=True)
class Folded:
    """What a batch amounts to, in the order of its operations.

    `set_aside` holds the places in the batch of those operations whose call or agent cannot be read.
    """

    changes: list[Change] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    replies: list[tuple[NodeId, OperationReply]] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    set_aside: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Subject:
    """The state under one key while the batch runs over it."""

    loaded: Loaded
    state: State | None
    done: dict[OperationId, Done] = field(default_factory=dict)

    def known(self, operation_id: OperationId) -> Done | None:
        return self.done.get(operation_id) or self.loaded.done.get(operation_id)


def fold(messages: Sequence[OperationMessage], loaded: Mapping[str, Loaded], limits: CallLimits) -> Folded:
    """Apply the operations of one batch in order. An operation that is done already has no effect, only its reply."""
    folded = Folded()
    subjects = {key: _Subject(found, found.state) for key, found in loaded.items()}
    for place, message in enumerate(messages):
        operation = message.operation
        subject = subjects[operation.key]
        done = subject.known(operation.id)
        repeated = done is not None
        if done is None and subject.loaded.unreadable is not None:
            folded.set_aside.append(place)
            done = _refuse(operation, subject.loaded.unreadable, folded)
        elif done is None:
            done = _apply(subject, operation, limits, folded)
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
    outcome: Outcome = apply(subject.state, operation, limits)
    subject.state = outcome.state
    done = Done(outcome.code, outcome.state.version if outcome.state else 0, outcome.text)
    # What the switch tells of a call that is not there yet is told again once it is.
    if operation.sender is not None or outcome.code is not StatusCode.NOT_FOUND:
        subject.done[operation.id] = done
    if outcome.event is not None:
        folded.events.append(outcome.event)
    return done


def _refuse(operation: Operation, unreadable: StateUnreadable, folded: Folded) -> Done:
    """Refuse what would work on a record that cannot be read. It is not done: who can read it may still do it."""
    done = Done(StatusCode.INTERNAL, 0, str(unreadable))
    if operation.sender is not None:
        call_id = operation.call_id if isinstance(operation, CallOperation) else None
        folded.events.append(
            OperationRefused(
                id=EventId(operation.id),
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
