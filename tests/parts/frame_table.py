"""Frames that end a WebSocket, with the close codes that are right."""

from parts.raw_websocket import CLOSE, CONTINUATION, PING, PONG, TEXT, frame

MAX_BODY_BYTES = 65_536
MAX_FRAMES = 1_000
CONTROL_BURST = 200
MESSAGE = b'[{"channel":"/meta/unsubscribe","clientId":"none","subscription":"/none","id":"7"}]'

CLOSES: dict[str, tuple[list[bytes], int | tuple[int, ...]]] = {
    "not masked": ([frame(TEXT, MESSAGE, masked=False)], 1002),
    "RSV1 without an extension": ([frame(TEXT, MESSAGE, reserved=4)], 1002),
    "RSV2": ([frame(TEXT, MESSAGE, reserved=2)], 1002),
    "RSV3": ([frame(TEXT, MESSAGE, reserved=1)], 1002),
    "RSV1 on a ping": ([frame(PING, reserved=4)], 1002),
    "an opcode that is reserved": ([frame(3, MESSAGE)], 1002),
    "a control opcode that is reserved": ([frame(11)], 1002),
    "a ping in fragments": ([frame(PING, final=False)], 1002),
    "a ping of 126 bytes": ([frame(PING, b"x" * 126)], 1002),
    "a close of 126 bytes": ([frame(CLOSE, b"\x03\xe8" + b"x" * 124)], 1002),
    "a close of one byte": ([frame(CLOSE, b"\x03")], 1002),
    "a close with a code that is not sent": ([frame(CLOSE, b"\x03\xed")], 1002),
    "a close with invalid UTF-8": ([frame(CLOSE, b"\x03\xe8\xff")], 1007),
    "a continuation of nothing": ([frame(CONTINUATION, MESSAGE)], 1002),
    "a message within a message": ([frame(TEXT, b"[", final=False), frame(TEXT, b"]")], 1002),
    "a length of 64 bits with its first bit": ([b"\x81\xff" + b"\x80" + bytes(7) + bytes(4)], (1002, 1009)),
    "invalid UTF-8": ([frame(TEXT, b'["\xff"]')], 1007),
    "UTF-8 that ends too early": ([frame(TEXT, b'["\xc3')], 1007),
    "a surrogate in UTF-8": ([frame(TEXT, b'["\xed\xa0\x80"]')], 1007),
    "invalid UTF-8 in a fragment": ([frame(TEXT, b'["', final=False), frame(CONTINUATION, b'\xff"]')], 1007),
    "a message larger than the limit": ([frame(TEXT, b"[" + b" " * MAX_BODY_BYTES + b"]")], 1009),
    "a length far beyond the limit": ([b"\x81\xff" + (1 << 40).to_bytes(8) + bytes(4)], 1009),
    "fragments larger than the limit": (
        [frame(TEXT, b"[", final=False), *[frame(CONTINUATION, b" " * 8_000, final=False)] * 9],
        1009,
    ),
    "too many fragments": (
        [frame(TEXT, b"[", final=False), *[frame(CONTINUATION, b" ", final=False)] * (MAX_FRAMES + 10)],
        1008,
    ),
    "too many empty fragments": (
        [frame(TEXT, b"[", final=False), *[frame(CONTINUATION, final=False)] * (MAX_FRAMES + 10)],
        1008,
    ),
    "too many pings": ([frame(PING, b"x")] * (2 * CONTROL_BURST), 1008),
    "too many pongs": ([frame(PONG)] * (2 * CONTROL_BURST), 1008),
    "too many pings within a message": (
        [frame(TEXT, b"[", final=False), *[frame(PING)] * (2 * CONTROL_BURST)],
        1008,
    ),
    "a close": ([frame(CLOSE, b"\x03\xe8")], 1000),
}
