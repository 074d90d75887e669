"""Decoding of requests, encoding of responses.

A request is a JSON array of messages, or a single message. An invalid message does not affect the others: the engine
answers it with an error of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import orjson

from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.strict_json.structure import Structure, without_byte_order_mark

Message: TypeAlias = Mapping[str, object]
Reply: TypeAlias = dict[str, object]


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
