"""Bayeux messages: limits, decoding of requests and encoding of responses.

A request is a JSON array of messages, or a single message; clients that cannot send JSON send forms. An invalid message
does not affect the others: the engine answers it with an error of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias
from urllib.parse import parse_qs

import orjson

from calltag.core.strict_json import Structure, without_byte_order_mark

Message: TypeAlias = Mapping[str, object]
Reply: TypeAlias = dict[str, object]
FORM_TYPE: Final = b"application/x-www-form-urlencoded"
_MAX_FIELDS: Final = 100
_BYTE_ORDER_MARK: Final = "\ufeff"
_REPLY_BYTES: Final = 1_024
"""Bytes reserved for a reply, beside the parts of the request that it repeats."""
_REPEATED: Final = 2
"""Maximum number of times that a reply repeats a part of its request: in a field, and in its error."""


class BayeuxLimit(StrEnum):
    """Limits that can be exceeded, by the name of the setting in `CALLTAG_NOTIFIER__`."""

    SESSIONS = "max_sessions"
    SESSIONS_OF_USER = "max_sessions_per_user"
    SESSIONS_OF_ADDRESS = "max_sessions_per_address"
    HANDSHAKES = "handshakes_per_s"
    HANDSHAKES_OF_ADDRESS = "handshakes_per_s_per_address"
    REFUSED_HANDSHAKES = "max_refused_handshakes"
    SUBSCRIPTIONS = "max_subscriptions"
    MESSAGES = "max_messages"
    BODY_BYTES = "max_body_bytes"
    DEPTH = "max_depth"
    QUEUED_EVENTS = "max_queued_events"
    QUEUED_BYTES = "max_queued_bytes"
    QUEUED_BYTES_TOTAL = "max_queued_bytes_total"


@dataclass(frozen=True, slots=True)
class BayeuxLimits:
    """Values of the limits; times are in milliseconds, sizes in bytes."""

    timeout_ms: int = 30_000
    interval_ms: int = 0
    max_interval_ms: int = 10_000
    max_server_interval_ms: int | None = None
    max_sessions: int = 20_000
    max_sessions_per_user: int = 50
    max_sessions_per_address: int = 0
    """0 means no limit."""
    handshakes_per_s: float = 500.0
    handshake_burst: int = 1_000
    handshakes_per_s_per_address: float = 250.0
    """0 means no limit."""
    handshake_burst_per_address: int = 500
    max_handshake_addresses: int = 10_000
    max_refused_handshakes: int = 5
    max_subscriptions: int = 64
    max_queued_events: int = 1_000
    max_queued_bytes: int = 4_194_304
    max_queued_bytes_total: int = 268_435_456
    max_answer_bytes: int = 524_288
    max_frame_bytes: int = 65_536
    max_messages: int = 64
    max_body_bytes: int = 65_536
    max_depth: int = 32
    drain_spread_ms: int = 5_000


class CodecError(ValueError):
    """The request has no readable messages; `limit` is the name of the limit that it exceeds, "" if it is malformed."""

    def __init__(self, text: str, *, limit: str = "") -> None:
        super().__init__(f"{text} (CALLTAG_NOTIFIER__{limit.upper()})" if limit else text)
        self.limit = limit

    @property
    def too_large(self) -> bool:
        """Return whether the request exceeds a limit."""
        return bool(self.limit)


def decode(text: bytes, limits: BayeuxLimits) -> Sequence[object]:
    """Return the messages in a request, unvalidated; none for an empty array. Raises CodecError."""
    if len(text) > limits.max_body_bytes:
        raise CodecError(f"the request is larger than {limits.max_body_bytes} bytes", limit="max_body_bytes")
    # Fast path: most requests have fewer brackets than the limit.
    brackets = text.count(b"[") + text.count(b"{")
    if brackets > limits.max_depth and Structure.of(text).is_deeper_than(limits.max_depth):
        raise CodecError(f"the request is nested more than {limits.max_depth} deep", limit="max_depth")
    try:
        content: object = orjson.loads(without_byte_order_mark(text))
    except orjson.JSONDecodeError as error:
        raise CodecError(f"the request is not JSON: {error}") from None
    messages = content if isinstance(content, list) else [content]
    if len(messages) > limits.max_messages:
        raise CodecError(f"the request holds more than {limits.max_messages} messages", limit="max_messages")
    return messages


def can_encode(value: object) -> bool:
    """Return whether the value can be encoded: numbers of 64 bits, valid Unicode, limited nesting."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True


def encode_event(channel: str, data: object, ext: Mapping[str, object] | None = None) -> bytes:
    """Encode a message from server to clients; it never has a clientId."""
    event: dict[str, object] = {"data": data, "channel": channel}
    if ext:
        event["ext"] = ext
    return orjson.dumps(event)


def encode_reply(reply: Reply) -> bytes:
    """Encode a message of the server that is queued like an event."""
    return orjson.dumps(reply)


def encode(events: Sequence[bytes], replies: Sequence[Reply]) -> bytes:
    """Encode a response: events first, so that a client has processed them when it reads the replies."""
    return b"[" + b",".join([*events, *map(orjson.dumps, replies)]) + b"]"


def encode_parts(events: Sequence[bytes], replies: Sequence[Reply], most_bytes: int) -> Iterator[bytes]:
    """Encode the same response in parts of at most `most_bytes`, unless an event, or all replies, are larger.

    All replies are in the last part.
    """
    part: list[bytes] = []
    size = 1
    for unit in [*events, *([b",".join(map(orjson.dumps, replies))] if replies else [])]:
        if part and size + len(unit) + 1 > most_bytes:
            yield encode(part, ())
            part, size = [], 1
        part.append(unit)
        size += len(unit) + 1
    if part:
        yield encode(part, ())


def messages_of_form(body: bytes, what: str = "form") -> bytes:
    """Return the JSON array of all messages in a form or in a query, which has the same syntax. Raises CodecError."""
    fields = _fields(body, what)
    if not fields:
        raise CodecError(f"the {what} has no field named message")
    parts = [field.removeprefix(_BYTE_ORDER_MARK).strip() for field in fields]
    inner = [part[1:-1] if part.startswith("[") and part.endswith("]") else part for part in parts]
    return f"[{','.join(part for part in inner if part.strip())}]".encode()


def _fields(body: bytes, what: str) -> Sequence[str]:
    try:
        return parse_qs(body.decode(), errors="strict", max_num_fields=_MAX_FIELDS).get("message", [])
    except UnicodeDecodeError:
        raise CodecError(f"the {what} is not UTF-8") from None
    except ValueError:
        raise CodecError(f"the {what} has more than {_MAX_FIELDS} fields") from None


class AnswerBudget:
    """Bytes left for events in one response. The first event always fits, so that clients make progress.

    `written_bytes` returns the size of an event as the transport encodes it.
    """

    def __init__(self, most_bytes: int, written_bytes: Callable[[bytes], int] = len) -> None:
        self._left = most_bytes
        self._written_bytes = written_bytes
        self._is_empty = True

    def reserve(self, request_bytes: int, messages: int) -> "AnswerBudget":
        """Reserve bytes for the replies to a request; return the budget."""
        self._left -= _REPEATED * request_bytes + _REPLY_BYTES * messages
        return self

    def admit_all(self, events: Sequence[bytes]) -> bool:
        """Return whether all of these independent events fit; if so, they are counted."""
        size = sum(map(self._written_bytes, events)) + len(events)
        if size > self._left:
            return False
        self._left -= size
        self._is_empty = False
        return True

    def admit(self, events: Sequence[bytes]) -> bool:
        """Return whether the events fit as an indivisible group; if so, they are counted."""
        size = sum(self._written_bytes(event) + 1 for event in events)
        if size > self._left and not self._is_empty:
            return False
        self._left -= size
        self._is_empty = False
        return True
