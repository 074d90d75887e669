"""Folding a batch: operations in, changes, events and replies out; no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from calltag.core.bus.ports import NodeId
from calltag.core.domain.apply import apply
from calltag.core.domain.call import Call
from calltag.core.domain.events import Event
from calltag.core.domain.ids import OperationId
from calltag.core.domain.operations import Operation
from calltag.core.domain.outcome import CallLimits, Outcome
from calltag.core.store.ports import Change, Done, Loaded, State
from calltag.core.wire.messages import OperationMessage, OperationReply


@dataclass(frozen=True, slots=True)
class Applied:
    """One operation with its outcome; `repeated` when it was applied before and only had to be recognised."""

    operation: Operation
    done: Done
    repeated: bool = False


@dataclass(slots=True)
class Folded:
    """What a batch amounts to, in the order of its operations."""

    changes: list[Change] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    replies: list[tuple[NodeId, OperationReply]] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


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
    for message in messages:
        operation = message.operation
        subject = subjects[operation.key]
        done = subject.known(operation.id)
        repeated = done is not None
        if done is None:
            done = _apply(subject, operation, limits, folded)
        folded.applied.append(Applied(operation, done, repeated))
        if message.reply_to is not None:
            folded.replies.append((message.reply_to, _reply(operation.id, done, subject.state)))
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
    subject.done[operation.id] = done
    if outcome.event is not None:
        folded.events.append(outcome.event)
    return done


def _reply(operation_id: OperationId, done: Done, state: State | None) -> OperationReply:
    call = state if isinstance(state, Call) else None
    return OperationReply(operation_id=operation_id, code=done.code, text=done.text, call=call)
