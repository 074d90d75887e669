"""Random streams of requests for one connection: valid ones, mutated ones, and the packets that they come in."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

from hypothesis import strategies as st

from parts.endpoints import BODY_BYTES, Endpoint
from parts.raw_http import HEAD, get, head

MOST_UNREAD_BYTES = 1_000
"""So much of a body that the application does not read, a server reads itself instead of closing."""
BODY = bytes(range(128, 128 + BODY_BYTES))
"""Stands for the body that an endpoint reads, byte for byte."""
END = b"x" * 70_000
"""Refused by every server that waits for a request, so that each stream comes to an end."""

_METHODS = ("HEAD", "GET", "POST", "POST", "read", "read")
_FIELDS = ("X-A: b", "X-Empty:", "Accept: text/html;q=0.5, */*", "Cookie: a=b; c=d", "X-Long: " + "y" * 900)
_UPGRADES = ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",)
_EXTENSIONS = (b"", b";a", b";a=b", b';a="b c"')
_TRAILERS = (b"", b"X-T: u\r\n", b"X-T: u\r\nContent-Length: 9\r\n")
_INSERTED = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b":", b";", b",", b"0", b"1", b"f", b"\xff", b"\r\n\r\n", b"0\r\n\r\n",
    b"\r\nContent-Length: 5", b"\r\nContent-Length: 0", b"\r\nTransfer-Encoding: chunked", b"\r\nHost: b",
    b"\r\nTransfer-Encoding : chunked", b"\r\n Transfer-Encoding: chunked", b"\r\nConnection: close", b"chunked",
    b"\r\nTransfer-Encoding: xchunked", b"\r\nUpgrade: h2c\r\nConnection: Upgrade", b"\r\nExpect: 100-continue",
    b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stream:
    """The requests of one connection, each with its id; `<read>` and the like stand for what the endpoint fills in."""

    requests: tuple[bytes, ...]
    ids: tuple[str, ...]
    read: frozenset[str]
    """Ids of requests whose body the application reads."""


def filled(raw: bytes, endpoint: Endpoint) -> bytes:
    """Return the bytes of a stream as they are sent to the endpoint."""
    return endpoint.filled(raw.translate(bytes(range(BODY[0])) + endpoint.body + bytes(range(BODY[-1] + 1, 256))))


def packets(data: bytes, sizes: list[int]) -> list[bytes]:
    """Return the data in packets of these sizes, and the rest in one."""
    ends = [0, *accumulate(sizes), len(data)]
    return [part for part in (data[a:b] for a, b in pairwise(ends)) if part]


SIZES = st.lists(st.integers(1, 400), max_size=12)
"""Sizes of packets."""


def _in_chunks(draw: st.DrawFn, body: bytes) -> bytes:
    parts = packets(body, draw(st.lists(st.integers(1, 40), max_size=6)))
    size = st.sampled_from(("%x", "%X", "00%x"))
    chunks = [
        (draw(size) % len(part)).encode() + draw(st.sampled_from(_EXTENSIONS)) + b"\r\n" + part + b"\r\n"
        for part in parts
    ]
    return b"".join(chunks) + b"0\r\n" + draw(st.sampled_from(_TRAILERS)) + b"\r\n"


@st.composite
def streams(draw: st.DrawFn, most: int = 8, methods: tuple[str, ...] = _METHODS) -> Stream:
    """One to `most` valid requests; `read` is a POST whose body the application reads."""
    requests, ids, read = [], [], set()
    for number in range(draw(st.integers(1, most))):
        method = draw(st.sampled_from(methods))
        request_id = f"{HEAD if method == 'HEAD' else 'r'}{number}"
        fields = draw(st.lists(st.sampled_from((*_FIELDS, *_UPGRADES)), max_size=4, unique=True))
        if method in {"GET", "HEAD"}:
            requests.append(get(request_id, *fields, method=method))
        else:
            requests.append(_with_body(draw, request_id, fields, is_read=method == "read"))
        if method == "read":
            read.add(request_id)
        ids.append(request_id)
    return Stream(tuple(requests), tuple(ids), frozenset(read))


def _with_body(draw: st.DrawFn, request_id: str, fields: list[str], *, is_read: bool) -> bytes:
    body = BODY if is_read else draw(st.binary(max_size=MOST_UNREAD_BYTES))
    line = "POST <read> HTTP/1.1\r\n<login>" if is_read else "POST /nowhere HTTP/1.1"
    if draw(st.booleans()):
        return head(line, "Host: a", f"X-Request-Id: {request_id}", f"Content-Length: {len(body)}", *fields) + body
    framing = "Transfer-Encoding: chunked"
    return head(line, "Host: a", f"X-Request-Id: {request_id}", *fields, framing) + _in_chunks(draw, body)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A stream with some bytes inserted, removed or doubled; the request lines stay as they are."""
    data = bytearray()
    for request in draw(streams(most=4, methods=_METHODS[1:])).requests:
        line, _, rest = request.partition(b"\r\n")
        changed = bytearray(b"\r\n" + rest)
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(changed)))
            kind = draw(st.sampled_from(("insert", "insert", "remove", "double")))
            if kind == "insert":
                changed[at:at] = draw(st.sampled_from(_INSERTED))
            elif kind == "remove":
                del changed[at : at + draw(st.integers(1, 4))]
            else:
                changed[at:at] = changed[at : at + draw(st.integers(1, 30))]
        data += line + changed
    return bytes(data)
