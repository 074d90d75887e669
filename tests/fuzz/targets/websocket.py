"""Frames of a WebSocket in pieces, given to a connection without a socket, with the notifier behind it.

The first byte of an input says how the rest is sent: as the text or the data of one frame, as a frame of text for each
line, of which one that is `!` publishes an event, or as it is, in place of frames; whether the session acknowledges;
and how large a piece is.

What is sent in frames goes twice: in pieces to a node that answers at once what it can, and whole to one that has a
task for each frame. What the server says is the same.
"""

from collections.abc import Iterator

import orjson

from calltag.core.bayeux.messages import BayeuxLimits
from fuzz.cometd import PATH, Cometd, cometd, without_chances
from fuzz.peer import Peer
from fuzz.target import LOOP, Target
from fuzz.targets import bayeux

UPGRADE = (
    b"GET " + PATH + b" HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LIMITS = BayeuxLimits()
MOST_LINES = 12
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LAST_ID = b'"the-last-one"'
LAST = b'{"channel":"/meta/subscribe","id":' + LAST_ID + b"}"
CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1013}
CONNECT = bayeux.CONNECT.replace(b"long-polling", b"websocket")
SEEDS = [
    *(bytes([how]) + seed for how in range(4) for seed in (CONNECT, b"[]")),
    b"\x00" + bayeux.HELLO,
    b"\x12" + b"\n!\n".join([CONNECT] * 4),
    b"\x16" + b"\n!\n!\n".join(bayeux.ACKNOWLEDGED).replace(b"long-polling", b"websocket"),
    b"\xfe" + CONNECT + b"\n!\n!\n" + CONNECT + b"\n[" + CONNECT[1:-1] + b"," + CONNECT[1:],
    b"\x03\x81\x80\x00\x00\x00\x00",
    b"\x03\x89\x80\x00\x00\x00\x00\x01\x80\x00\x00\x00\x00",
    b"\x03\x88\x82\x00\x00\x00\x00\x03\xe8",
    b"\x03\xc1\x00\xff\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
]
WORDS = [
    *bayeux.WORDS, CONNECT, b"\x81\x80", b"\x88\x80", b"\x89\x85", b"\x00\x00\x00\x00", b"\x7f", b"\x7e\x00\x10",
    b"\xf1",
]  # fmt: skip


def one_input(data: bytes) -> None:
    """The server says what the protocol allows, answers all or closes, and ends the connection when the client does."""
    first = data[0] if data else 3
    LOOP.run(_compare(first % 4, 1 + first // 8 * 16, data[1:], ack=first & 4 > 0))


async def _compare(how: int, piece: int, data: bytes, *, ack: bool) -> None:
    async with cometd(LIMITS, at_once=True, ack=ack) as at_once, cometd(LIMITS, at_once=False, ack=ack) as in_tasks:
        here = _said(await _talk(at_once, how, data, piece))
        there = _said(await _talk(in_tasks, how, data, len(data) + 100))
        # What is not well-formed ends the connection, whatever is under way.
        assert how == 3 or here == there


async def _talk(served: Cometd, how: int, data: bytes, piece: int) -> bytes:
    """What the server said, after its answer to the handshake."""
    peer = served.peer()
    await peer.send(UPGRADE, piece)
    await served.quiet()
    head, _, _ = peer.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    if how < 3:
        data = data.replace(b"@", served.alice.client_id.encode())
    lines = data.split(b"\n")[:MOST_LINES] if how == 2 else [data]
    for number, line in enumerate(lines):
        if how == 2 and line == b"!":
            await served.installation.publish(number)
        else:
            await peer.send(line if how == 3 else frame(BINARY if how == 1 else TEXT, line), piece)
        if how == 2:
            await served.quiet()
    await peer.send(frame(TEXT, LAST), piece)
    await served.quiet()
    assert how == 3 or LAST_ID in peer.written or any(opcode == CLOSE for _, opcode, _ in whole(_frames(peer)))
    await peer.send(frame(CLOSE, b"\x03\xe8"), piece)
    peer.close_sending_side()
    await served.quiet()
    peer.go()
    await served.quiet()
    assert not served.http.sockets.opened
    frames = _frames(peer)
    _check_frames(frames)
    assert how == 3 or frames, "neither an answer nor a reason to close"
    return frames


def _frames(peer: Peer) -> bytes:
    return peer.written.partition(b"\r\n\r\n")[2]


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame of a client, with a mask of zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 127]) + size.to_bytes(8)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


def whole(frames: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Flags, opcode and payload of each frame of a server that is there to its end."""
    while len(frames) > 1:
        start, size = 2, frames[1]
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(frames[2:start])
        if len(frames) < start + size:
            return
        yield frames[0] >> 4, frames[0] & 15, frames[start : start + size]
        frames = frames[start + size :]


def _said(frames: bytes) -> list[bytes]:
    """All messages in order, and the close frame."""
    said = []
    for _, opcode, payload in whole(frames):
        if opcode == TEXT:
            said += [without_chances(orjson.dumps(message)) for message in orjson.loads(payload)]
        elif opcode == CLOSE:
            said.append(payload)
    return said


def _check_frames(frames: bytes) -> None:
    """Frames without masks or fragments: arrays of messages, pongs, and at the end a close with a known code."""
    closed = False
    for flags, opcode, payload in whole(frames):
        assert not closed
        assert flags == 8
        assert opcode in {TEXT, CLOSE, PING, PONG}
        closed = opcode == CLOSE
        if opcode == TEXT:
            assert isinstance(orjson.loads(payload), list)
        elif closed and payload:
            code = int.from_bytes(payload[:2])
            assert code in CODES
            assert code != 1011 or payload[2:] != b"internal error"
            payload[2:].decode()


TARGET = Target("websocket", one_input, SEEDS, WORDS, slow=True)
