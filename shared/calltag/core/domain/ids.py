"""Identifiers of the domain, and those that are derived from others."""

from hashlib import sha256
from typing import Final, NewType

CallId = NewType("CallId", str)
ConnId = NewType("ConnId", str)
DeviceId = NewType("DeviceId", str)
UserId = NewType("UserId", str)
OperationId = NewType("OperationId", str)
EventId = NewType("EventId", str)
SubjectKey = NewType("SubjectKey", str)
"""Key of the state that an operation changes: a call, or the contact-centre session of an agent. Operations with the
same key are applied in the order of sending."""

_CALL: Final = "call:"
_AGENT: Final = "agent:"
_OF_IDEMPOTENCY_KEY: Final = "ik"
_OF_SWITCH_EVENT: Final = "sw"
_NOT_APPLIED: Final = "-not-applied"
_DIGITS: Final = 32


def call_key(call_id: str) -> SubjectKey:
    """Return the key of a call."""
    return SubjectKey(_CALL + call_id)


def agent_key(user: str) -> SubjectKey:
    """Return the key of an agent."""
    return SubjectKey(_AGENT + user)


def is_agent_key(key: str) -> bool:
    """Return whether the key is that of an agent."""
    return key.startswith(_AGENT)


def subject_id(key: str) -> str:
    """Return the id of the call or of the user in a key; the partition is that of this id."""
    return key.partition(":")[2]


def idempotent_operation_id(user: UserId, key_digest: str) -> OperationId:
    """Return the id of the operation under an idempotency key, the same for each repetition of the request."""
    return OperationId(_OF_IDEMPOTENCY_KEY + sha256(f"{user}\0{key_digest}".encode()).hexdigest()[:_DIGITS])


def switch_operation_id(event_id: str) -> OperationId:
    """Return the id of the operation of a switch event, the same whenever the switch sends it."""
    return OperationId(_OF_SWITCH_EVENT + sha256(event_id.encode()).hexdigest()[:_DIGITS])


def is_derived(operation_id: OperationId) -> bool:
    """Return whether a client may send the operation again at any time, under the same id."""
    return operation_id.startswith((_OF_IDEMPOTENCY_KEY, _OF_SWITCH_EVENT))


def event_id(operation_id: OperationId, number: int = 0) -> EventId:
    """Return the id of an event of the operation, by its number from 0: the first has the id of the operation."""
    return EventId(operation_id if number == 0 else f"{operation_id}-{number}")


def refusal_id(operation_id: OperationId) -> EventId:
    """Return the id of the event that reports to the sender that its operation was not applied."""
    return EventId(operation_id + _NOT_APPLIED)


def refused_operation_id(event_id: EventId) -> OperationId:
    """Return the id of the operation that an event refuses, whether or not the operation may still be applied."""
    return OperationId(event_id.removesuffix(_NOT_APPLIED))
