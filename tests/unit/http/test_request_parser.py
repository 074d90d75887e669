"""Requests parsed from bytes in any pieces: what is one, what is none, and how much of either is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltag.core.http.request_parser import (
    BadRequest,
    ChunkedBody,
    HeadParser,
    LengthBody,
    RequestHead,
    RequestLimit,
    body_of,
)

HOST = b"Host: x\r\n"


def parsed(raw: bytes, *, cuts: list[int] | None = None, **bounds: int) -> tuple[RequestHead | None, int]:
    """The head, and how many bytes were taken, fed in pieces that end at `cuts`."""
    parser = HeadParser(bounds.get("max_bytes", 10_000), bounds.get("max_headers", 20))
    ends = sorted({cut % len(raw) for cut in cuts or []} | {len(raw)})
    taken = start = 0
    for end in ends:
        took = parser.feed(b"-" + raw[start:end], 1) - 1
        taken += took
        if took < end - start:
            break
        start = end
    return parser.head, taken


def head_of(raw: bytes) -> RequestHead:
    head, taken = parsed(raw)
    assert head is not None
    assert taken == len(raw)
    return head


def test_a_request_line_and_its_fields() -> None:
    head = head_of(b"POST /a%20b?c=%20d HTTP/1.1\r\nHost: a:1\r\nX-A:  b c \t\r\nContent-Length: 12\r\n\r\n")
    assert (head.method, head.path, head.query, head.version) == ("POST", b"/a%20b", b"c=%20d", "1.1")
    assert head.headers == [(b"host", b"a:1"), (b"x-a", b"b c"), (b"content-length", b"12")]
    assert (head.framing, head.content_length, head.keep_alive) == ("length", 12, True)


@given(st.lists(st.integers(min_value=0), max_size=10), st.binary(max_size=30))
def test_the_pieces_in_which_a_head_comes_make_no_difference(cuts: list[int], rest: bytes) -> None:
    raw = b"\r\n\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nX: y\r\nContent-Length: 3\r\n\r\n"
    whole, taken = parsed(raw + rest)
    assert taken == len(raw)
    in_pieces, taken_in_pieces = parsed(raw + rest, cuts=cuts)
    assert taken_in_pieces == taken
    assert in_pieces is not None
    assert whole is not None
    for name in RequestHead.__slots__:
        assert getattr(in_pieces, name) == getattr(whole, name)


@pytest.mark.parametrize(
    ("version", "fields", "keeps"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Keep-Alive, CLOSE\r\n", False),
        (b"1.1", b"Connection: x-close\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_who_keeps_the_connection(version: bytes, fields: bytes, *, keeps: bool) -> None:
    assert head_of(b"GET / HTTP/%b\r\n%b%b\r\n" % (version, HOST, fields)).keep_alive is keeps


@pytest.mark.parametrize(
    ("fields", "is_websocket"),
    [
        (b"Connection: Upgrade\r\nUpgrade: websocket\r\n", True),
        (b"Connection: keep-alive, UPGRADE\r\nUpgrade: WebSocket\r\n", True),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", False),
        (b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", False),
        (b"Upgrade: websocket\r\n", False),
        (b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n", False),
    ],
)
def test_which_upgrade_is_taken(fields: bytes, *, is_websocket: bool) -> None:
    assert head_of(b"GET / HTTP/1.1\r\n" + HOST + fields + b"\r\n").is_websocket is is_websocket


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"http://a.example:81/b?c", b"/b", b"c", b"a.example:81"),
        (b"HTTPS://a.example", b"/", b"", b"a.example"),
        (b"http://a.example?c", b"/", b"c", b"a.example"),
        (b"/b?c?d", b"/b", b"c?d", b"x"),
        (b"//b", b"//b", b"", b"x"),
    ],
)
def test_the_forms_of_a_target(target: bytes, path: bytes, query: bytes, host: bytes) -> None:
    head = head_of(b"GET %b HTTP/1.1\r\n%b\r\n" % (target, HOST))
    assert (head.path, head.query) == (path, query)
    assert [value for name, value in head.headers if name == b"host"] == [host]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b/c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        (b"GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n", 400),
        (b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"FETCH / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 400),
        (b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
@pytest.mark.parametrize("cuts", [[], list(range(200))])
def test_what_is_no_request(raw: bytes, status: int, cuts: list[int]) -> None:
    with pytest.raises(BadRequest) as refused:
        parsed(raw, cuts=cuts)
    assert (refused.value.status, refused.value.limit) == (status, RequestLimit.MALFORMED)


@pytest.mark.parametrize("cuts", [[], list(range(0, 12_000, 100))])
def test_heads_are_bounded_by_bytes_and_by_fields(cuts: list[int]) -> None:
    long = b"GET / HTTP/1.1\r\n" + HOST + b"X: %b\r\n\r\n"
    at_bound = long % (b"y" * (10_000 - len(long) + 2))
    assert len(at_bound) == 10_000
    assert parsed(at_bound, cuts=cuts)[0] is not None
    with pytest.raises(BadRequest, match="larger than 10000 bytes") as refused:
        parsed(at_bound.replace(b"y\r", b"yy\r"), cuts=cuts)
    assert (refused.value.status, refused.value.limit) == (431, RequestLimit.HEAD_BYTES)
    many = b"GET / HTTP/1.1\r\n" + HOST
    assert parsed(many + b"X: y\r\n" * 19 + b"\r\n", cuts=cuts)[0] is not None
    with pytest.raises(BadRequest, match="more than 20 fields") as refused:
        parsed(many + b"X: y\r\n" * 20 + b"\r\n", cuts=cuts)
    assert (refused.value.status, refused.value.limit) == (431, RequestLimit.HEADERS)


def body_fed(body: ChunkedBody | LengthBody, raw: bytes, piece: int, room: int = 1_000) -> tuple[bytes, int]:
    """The body, and how many bytes were taken, as a connection feeds it."""
    into = bytearray()
    pending, taken = b"", 0
    for start in range(0, len(raw), piece):
        pending += raw[start : start + piece]
        while True:
            end = body.feed(pending, 0, room - len(into) % room, into)
            taken += end
            pending = pending[end:]
            if not end or body.is_complete:
                break
    return bytes(into), taken


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=20),
    st.integers(min_value=1, max_value=400),
    st.sampled_from([b"", b";a=b", b' ; a="b"']),
    st.sampled_from([b"", b"A: b\r\n", b"A:\r\nB: c\r\n"]),
)
def test_chunks_in_any_pieces_are_the_body(chunks: list[bytes], piece: int, extension: bytes, trailers: bytes) -> None:
    raw = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    raw += b"0\r\n" + trailers + b"\r\n"
    body = ChunkedBody(1_000)
    content, taken = body_fed(body, raw + b"GET /", piece)
    assert (content, body.is_complete) == (b"".join(chunks), True)
    assert taken == len(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"1 \r\na\r\n",
        b"1\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\naX\r\n",
        b"11111111111111111\r\n",
        b"0\r\nA b\r\n\r\n",
        b"0\r\n A: b\r\n\r\n",
        b"0\r\nGET / HTTP/1.1\r\n\r\n",
        b"1;\x01\r\na\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"0\n\n",
    ],
)
@pytest.mark.parametrize("piece", [1, 1_000])
def test_malformed_chunks(raw: bytes, piece: int) -> None:
    with pytest.raises(BadRequest) as refused:
        body_fed(ChunkedBody(1_000), raw + b"\r\n" * 3, piece)
    assert (refused.value.status, refused.value.limit) == (400, RequestLimit.MALFORMED)


@pytest.mark.parametrize(
    "raw",
    [
        b"0\r\n" + b"A: b\r\n" * 200,
        b"1;" + b"a" * 990 + b"\r\na\r\n0;aaaaaaaa\r\n\r\n",
        b"0\r\nA:" + b"b" * 5_000,
        b"1;" + b"a" * 5_000,
    ],
)
@pytest.mark.parametrize("piece", [1, 1_000])
def test_the_framing_of_chunks_is_bounded(raw: bytes, piece: int) -> None:
    with pytest.raises(BadRequest) as refused:
        body_fed(ChunkedBody(1_000), raw, piece)
    assert refused.value.limit is RequestLimit.FRAMING_BYTES


def test_small_chunks_are_not_what_the_bound_is_for() -> None:
    body = ChunkedBody(1_000)
    content, _ = body_fed(body, b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n", 60_000, room=100_000)
    assert (content, body.is_complete) == (b"a" * 20_000, True)


def test_many_chunks_at_once_are_left_for_another_turn() -> None:
    body, into = ChunkedBody(1_000), bytearray()
    raw = b"1\r\na\r\n" * 5_000
    taken = body.feed(raw, 0, 100_000, into)
    assert 0 < taken < len(raw)
    assert body.is_interrupted
    turns = 1
    while taken < len(raw):
        taken = body.feed(raw, taken, 100_000, into)
        turns += 1
    assert (turns, len(into), body.is_interrupted) == (10, 5_000, False)


@given(st.integers(min_value=1, max_value=50), st.integers(min_value=1, max_value=10))
def test_no_more_than_there_is_room_for_is_taken(size: int, room: int) -> None:
    head = RequestHead(
        "POST",
        b"/",
        b"",
        "1.1",
        [],
        framing="length",
        content_length=size,
        keep_alive=True,
        expects_continue=False,
        is_websocket=False,
    )
    body, into = body_of(head, 1_000), bytearray()
    raw, taken = b"x" * (size + 5), 0
    while not body.is_complete:
        before, into = taken, bytearray()
        taken = body.feed(raw, taken, room, into)
        assert taken - before == len(into) <= room
    assert taken == size
