"""WebSocket framing: the close codes of RFC 6455, the limits, and the opening handshake."""

import asyncio
import json
import random
import time
from collections.abc import Iterator

import pytest

from parts.endpoints import Endpoint, notifier_endpoint
from parts.raw_http import connection, cut, get
from parts.raw_websocket import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WebSocket,
    frame,
    upgrade,
    websocket,
)
from parts.system import System, embedded_system

WITHIN_S = 15.0
PATH = "/genesys/cometd"
BOTH = pytest.mark.parametrize("endpoint", ["notifier", "tls"], indirect=True)
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


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """All in one process, with deadlines of a second."""
    settings = {
        "CALLTAG_HTTP__WRITE_STALL_S": "1",
        "CALLTAG_HTTP__CLOSE_DEADLINE_S": "1",
        "CALLTAG_HTTP__MAX_FRAMES_PER_MESSAGE": "5",
        "CALLTAG_HTTP__MAX_CONTROL_FRAMES_PER_S": "1",
    }
    with embedded_system(tmp_path_factory.mktemp("short"), **settings) as running:
        yield running


async def answers(opened: WebSocket) -> bool:
    """Whether a message is answered."""
    await opened.send([frame(TEXT, MESSAGE)])
    while (got := await opened.next_frame(WITHIN_S)) is not None:
        if got.opcode == TEXT and b'"id":"7"' in got.payload:
            return True
    return False


@BOTH
@pytest.mark.parametrize("name", CLOSES)
async def test_invalid_frames_close_with_the_code_for_them(endpoint: Endpoint, name: str) -> None:
    frames, right = CLOSES[name]
    codes = right if isinstance(right, tuple) else (right,)
    for pieces in ([b"".join(frames)], cut(b"".join(frames), 1 if len(frames) < 5 and len(frames[0]) < 200 else 1_009)):
        async with websocket(endpoint.address, PATH) as opened:
            await opened.send(pieces)
            code = await opened.close_code(WITHIN_S)
            assert code in codes, f"{name}, in {len(pieces)} packets: closed by {code} instead of {right}"
            # Where the client does not answer the close, its deadline ends the connection.
            await opened.send([frame(CLOSE, codes[0].to_bytes(2))])
            assert await opened.is_closed(WITHIN_S), "the connection is left open after the close"


@BOTH
async def test_fragments_and_control_frames_between_them_are_answered(endpoint: Endpoint) -> None:
    async with websocket(endpoint.address, PATH) as opened:
        whole = frame(TEXT, MESSAGE)
        await opened.send(cut(whole, 1))
        got = await opened.next_frame(WITHIN_S)
        assert got is not None
        assert json.loads(got.payload)[0]["id"] == "7"
        # Control frames may come between fragments.
        await opened.send(
            [frame(TEXT, MESSAGE[:20], final=False), frame(PING, b"here"), frame(CONTINUATION, MESSAGE[20:])]
        )
        pong, got = await opened.next_frame(WITHIN_S), await opened.next_frame(WITHIN_S)
        assert pong is not None
        assert (pong.opcode, pong.payload) == (PONG, b"here")
        assert got is not None
        assert json.loads(got.payload)[0]["id"] == "7"
        # As many fragments as there may be, empty ones among them.
        middle = [frame(CONTINUATION, b"" if number % 2 else b" ", final=False) for number in range(MAX_FRAMES - 10)]
        await opened.send([frame(TEXT, b"", final=False), *middle, frame(CONTINUATION, MESSAGE)])
        got = await opened.next_frame(WITHIN_S)
        assert got is not None
        assert json.loads(got.payload)[0]["id"] == "7"


@BOTH
async def test_an_ordinary_rate_of_pings_is_answered(endpoint: Endpoint) -> None:
    async with websocket(endpoint.address, PATH) as opened:
        await opened.send([frame(PING, b"%d" % number) for number in range(100)])
        got = [await opened.next_frame(WITHIN_S) for _ in range(100)]
        assert [each.payload for each in got if each is not None] == [b"%d" % number for number in range(100)]
        assert await answers(opened)


@BOTH
async def test_text_in_any_cut_into_frames_and_packets_is_the_same_message(endpoint: Endpoint) -> None:
    seed = random.randrange(1 << 30)
    chosen = random.Random(seed)
    text = '[{"channel":"/meta/unsubscribe","clientId":"é€😀","subscription":"/none","id":"é€😀"}]'.encode()
    async with websocket(endpoint.address, PATH) as opened:
        for _ in range(40):
            places = sorted(chosen.randrange(len(text)) for _ in range(chosen.randrange(6)))
            parts = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
            frames = [
                frame(CONTINUATION if number else TEXT, part, final=number == len(parts) - 1)
                for number, part in enumerate(parts)
            ]
            await opened.send(cut(b"".join(frames), chosen.randrange(1, 60)))
            got = await opened.next_frame(WITHIN_S)
            assert got is not None, f"seed {seed}"
            assert json.loads(got.payload)[0].get("id") == "é€😀", f"seed {seed}: {got.payload!r}"


@BOTH
@pytest.mark.parametrize("version", ["12", "14", "0", "8", "x"])
async def test_another_version_is_answered_with_the_one_that_is_served(endpoint: Endpoint, version: str) -> None:
    """RFC 6455 4.4: 426 and Sec-WebSocket-Version: 13."""
    async with connection(endpoint.address) as opened:
        await opened.send([upgrade(PATH, version=version)])
        [answer] = await opened.final(1, WITHIN_S)
        assert answer.status == 426, str(answer)
        assert answer.fields.get("sec-websocket-version") == "13", answer.fields


@BOTH
@pytest.mark.parametrize("version", ["", None])
async def test_an_opening_handshake_without_a_version_is_refused(endpoint: Endpoint, version: str | None) -> None:
    async with connection(endpoint.address) as opened:
        await opened.send([upgrade(PATH, version=version)])
        assert [each.status for each in await opened.final(1, WITHIN_S)] in ([400], [426])


@BOTH
@pytest.mark.parametrize("key", [None, "", "x", "AAAA", "!" * 24])
async def test_an_opening_handshake_without_a_good_key_is_refused(endpoint: Endpoint, key: str | None) -> None:
    """RFC 6455 4.2.1 (5): 16 bytes as base64."""
    async with connection(endpoint.address) as opened:
        await opened.send([upgrade(PATH, key=key)])
        assert [each.status for each in await opened.final(1, WITHIN_S)] == [400]


@BOTH
async def test_an_opening_handshake_by_post_is_a_post(endpoint: Endpoint) -> None:
    """RFC 6455 4.1: the method must be GET; RFC 9110 7.8: else the offer is ignored."""
    async with connection(endpoint.address) as opened:
        raw = upgrade("<read>", "Content-Type: application/json", "Content-Length: 96", method="POST")
        await opened.send([endpoint.filled(raw + b"<body>")])
        assert [(each.status, each.id) for each in await opened.final(1, WITHIN_S)] == [(200, "a")]


@BOTH
async def test_a_websocket_where_none_is_served_is_refused_and_the_connection_in_step(endpoint: Endpoint) -> None:
    async with connection(endpoint.address) as opened:
        await opened.send([upgrade("/nowhere")])
        assert [each.status for each in await opened.final(1, WITHIN_S)] in ([403], [404])
        await opened.send([get("b")])
        got = await opened.final(2, WITHIN_S)
        assert opened.closed or [each.id for each in got][1:] == ["b"]


@BOTH
async def test_a_request_pipelined_before_an_upgrade_is_answered_first(endpoint: Endpoint) -> None:
    async with connection(endpoint.address) as opened:
        await opened.send([get("first") + upgrade(PATH)])
        assert await opened.statuses(2, WITHIN_S) == [404, 101]


async def test_the_limits_are_settings(short: System) -> None:
    endpoint = notifier_endpoint(short)
    async with websocket(endpoint.address, PATH) as opened:
        assert await answers(opened)
        await opened.send([frame(TEXT, b"[", final=False), *[frame(CONTINUATION, b" ", final=False)] * 6])
        assert await opened.close_code(WITHIN_S) == 1008
    async with websocket(endpoint.address, PATH) as opened:
        await opened.send([frame(PING)] * 15)
        assert await opened.close_code(WITHIN_S) == 1008


async def test_a_close_that_is_not_answered_ends_at_its_deadline(short: System) -> None:
    async with websocket(notifier_endpoint(short).address, PATH) as opened:
        await opened.send([frame(TEXT, b"\xff")])
        assert await opened.close_code(WITHIN_S) == 1007
        began = time.monotonic()
        assert await opened.is_closed(WITHIN_S), "the connection waits for the client's close"
        assert time.monotonic() - began < WITHIN_S


async def test_nothing_more_is_read_from_a_client_that_does_not_read(short: System) -> None:
    """Answers cannot pile up: the sending blocks, and the stalled connection ends."""
    async with websocket(notifier_endpoint(short).address, PATH) as opened:
        await opened.stop_reading()
        sent, batch = 0, frame(TEXT, MESSAGE) * 500
        try:
            async with asyncio.timeout(4 * WITHIN_S):
                while sent < 200_000_000:
                    opened.writer.write(batch)
                    await opened.writer.drain()
                    sent += len(batch)
        except TimeoutError:
            pytest.fail(f"{sent} bytes were taken, and the connection is still there")
        except OSError:
            pass
        # Buffers of the kernel on both sides, and little more.
        assert sent < 40_000_000, f"{sent} bytes were read from a client that reads none"
