"""Identifiers of the domain, and those that are derived from others."""

import re
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
_BESIDE_DIGITS: Final = 16
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_CONSULT: Final = re.compile(r"(.+)_C[0-9A-V]{16}", re.DOTALL)


def call_key(call_id: str) -> SubjectKey:
    """Return the key of a call."""
    return SubjectKey(_CALL + call_id)


def agent_key(user: str) -> SubjectKey:
    """Return the key of an agent."""
    return SubjectKey(_AGENT + user)


def root_of(call_id: CallId) -> CallId:
    """Return the call to which a call belongs by its id: the first of those that began from one another.

    All of them are in one partition, and operations on them are applied in the order of sending.
    """
    consult = _CONSULT.fullmatch(call_id)
    return call_id if consult is None else CallId(consult[1])


def new_call_id(operation: OperationId) -> CallId:
    """Return the id of the call that an operation begins: 32 characters, the same when the operation is repeated."""
    return CallId(_base32(f"call:{operation}", 32))


def new_consult_call_id(call_id: CallId, operation: OperationId) -> CallId:
    """Return the id of the call that an operation on another call begins; both have the same root."""
    return CallId(f"{root_of(call_id)}_C{_base32(f'consult:{operation}', 16)}")


def related_call_id(root: CallId, name: str) -> CallId:
    """Return the id of a call that the switch names, and that belongs together with another one.

    A name that is such an id already, as a client or the API shows it, names that call.
    """
    root = root_of(root)
    return CallId(name if root_of(CallId(name)) == root else f"{root}_C{_base32(f'switch:{name}', 16)}")


def new_conn_id(operation: OperationId) -> ConnId:
    """Return the connection id of the call that an operation begins: 16 hex digits."""
    return ConnId(sha256(f"conn:{operation}".encode()).hexdigest()[:16])


def _base32(text: str, length: int) -> str:
    number = int.from_bytes(sha256(text.encode()).digest()[: length * 5 // 8])
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(5 * length - 5, -5, -5))


def order_key(key: str) -> SubjectKey:
    """Return the key of the operations that are applied in order with those on this key: the root of a call."""
    return SubjectKey(key) if is_agent_key(key) else call_key(root_of(CallId(subject_id(key))))


def partition_key(key: str) -> str:
    """Return the input of `partition_of` for a key."""
    return subject_id(order_key(key))


def is_agent_key(key: str) -> bool:
    """Return whether the key is that of an agent."""
    return key.startswith(_AGENT)


def subject_id(key: str) -> str:
    """Return the id of the call or of the user in a key."""
    return key.partition(":")[2]


def idempotent_operation_id(user: UserId, key_digest: str) -> OperationId:
    """Return the id of the operation under an idempotency key, the same for each repetition of the request."""
    return OperationId(_OF_IDEMPOTENCY_KEY + sha256(f"{user}\0{key_digest}".encode()).hexdigest()[:_DIGITS])


def switch_operation_id(event_id: str) -> OperationId:
    """Return the id of the operation of a switch event, the same whenever the switch sends it."""
    return OperationId(_OF_SWITCH_EVENT + sha256(event_id.encode()).hexdigest()[:_DIGITS])


def operation_id_beside(operation_id: OperationId, what: str) -> OperationId:
    """Return the id of another operation of the same request, the same for each repetition of it."""
    return OperationId(f"{operation_id}.{sha256(what.encode()).hexdigest()[:_BESIDE_DIGITS]}")


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
