"""WebSocket framing: the close codes of RFC 6455, the limits, and the opening handshake."""

import asyncio
import json
import random
import time
from collections.abc import Iterator

import pytest

from parts.endpoints import Endpoint, notifier_endpoint
from parts.frame_table import CLOSES, MAX_FRAMES, MESSAGE
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
