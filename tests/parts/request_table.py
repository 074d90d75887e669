"""Requests as bytes, good ones and malformed ones, with the paragraph of the RFC and the answers that are right."""

from dataclasses import dataclass

from parts.endpoints import BODY_BYTES, Endpoint
from parts.raw_http import HEAD, Answer, chunked, get, head

MAX_HEAD_BYTES = 65_536
MAX_FIELDS = 200
TOO_LONG = MAX_HEAD_BYTES + 10_000


@dataclass(frozen=True, slots=True)
class Served:
    """The answer of the application to the request with this id; `status` 0 is the one of a body that is read whole."""

    id: str
    status: int | None = 404

    def __str__(self) -> str:
        return {0: "the answer to its whole body", None: "any answer"}.get(
            self.status, str(self.status)
        ) + f" ({self.id})"

    def fits(self, answer: Answer, endpoint: Endpoint) -> bool:
        status = endpoint.status if self.status == 0 else self.status
        return answer.id == self.id and status in {None, answer.status}


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer of the server itself, with one of these statuses; the connection closes."""

    statuses: tuple[int, ...] = (400,)

    def __str__(self) -> str:
        return " or ".join(map(str, self.statuses))

    def fits(self, answer: Answer, endpoint: Endpoint) -> bool:  # noqa: ARG002 - the interface's
        return answer.status in self.statuses and answer.id != "first"


@dataclass(frozen=True, slots=True)
class Row:
    """One or more requests, what is answered, and whether the connection is closed then.

    `or_refused`: the RFC leaves it to the server to answer 400 instead.
    """

    name: str
    rfc: str
    raw: bytes
    answers: tuple[Served | Refused, ...]
    closes: bool = False
    or_refused: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def served(name: str, rfc: str, raw: bytes, *ids: str, closes: bool = False, or_refused: bool = False) -> Row:
    """The request, or the requests with these ids, to an address where nothing is."""
    return Row(name, rfc, raw, tuple(map(Served, ids or ("a",))), closes, or_refused)


def whole(name: str, rfc: str, raw: bytes, *, or_refused: bool = False) -> Row:
    """A request whose body the application reads, and gets whole."""
    return Row(name, rfc, raw, (Served("a", 0),), or_refused=or_refused)


def refused(name: str, rfc: str, raw: bytes, *statuses: int) -> Row:
    return Row(name, rfc, raw, (Refused(statuses or (400,)),), closes=True)


def post(*fields: str | bytes, body: bytes = b"<body>", version: str = "1.1") -> bytes:
    """A request whose body the application reads; the fields say how long that is."""
    return head(f"POST <read> HTTP/{version}", "Host: a", "<login>", "X-Request-Id: a", *fields) + body


def unread(*fields: str | bytes, body: bytes) -> bytes:
    """A request whose body nobody reads."""
    return head("POST /nowhere HTTP/1.1", "Host: a", "X-Request-Id: a", *fields) + body


def line(text: str | bytes, *fields: str | bytes) -> bytes:
    """A request line with all that belongs to it."""
    return head(text, "Host: a", "X-Request-Id: a", *fields)


def with_field(text: str | bytes) -> bytes:
    return line("GET /nowhere HTTP/1.1", text)


def in_chunks(body: bytes, *fields: str) -> bytes:
    return post("Transfer-Encoding: chunked", *fields, body=body)


LENGTH = f"Content-Length: {BODY_BYTES}"
HALVES = b"30\r\n<first half>\r\n30\r\n<second half>\r\n"
SMUGGLED = get("smuggled")
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")

GOOD = [
    served("a request", "9112 3", get("a")),
    served("two requests", "9112 9.3.2", get("a") + get("b"), "a", "b"),
    served("twenty requests", "9112 9.3.2", b"".join(get(f"r{n}") for n in range(20)), *(f"r{n}" for n in range(20))),
    served("absolute-form", "9112 3.2.2", line("GET http://a/nowhere HTTP/1.1")),
    served("absolute-form with a port", "9112 3.2.2", head("GET http://a:80/nowhere HTTP/1.1", "Host: a:80",
                                                           "X-Request-Id: a")),
    served("absolute-form, scheme in capitals", "9110 4.2.3", line("GET HTTP://a/nowhere HTTP/1.1")),
    served("absolute-form of another host than Host", "9112 3.2.2", line("GET http://b.example/nowhere HTTP/1.1")),
    Row("absolute-form without a path", "9112 3.2.2", line("GET http://a HTTP/1.1"), (Served("a", None),)),
    Row("asterisk-form", "9112 3.2.4", line("OPTIONS * HTTP/1.1"), (Served("a", None),)),
    served("an empty line before the request", "9112 2.2", b"\r\n" + get("a")),
    served("three empty lines before the request", "9112 2.2", b"\r\n\r\n\r\n" + get("a")),
    served("an empty line after a body", "9112 2.2", unread("Content-Length: 3", body=b"abc\r\n") + get("b"), "a", "b"),
    served("HTTP/1.0 without Host", "9112 3.2", head("GET /nowhere HTTP/1.0", "X-Request-Id: a"), closes=True),
    served("HTTP/1.0 with Host", "9112 3.2", line("GET /nowhere HTTP/1.0"), closes=True),
    served("Connection: close", "9112 9.6", get("a", "Connection: close"), closes=True),
    served("Connection: close in other letters", "9112 9.6", get("a", "connection: CLOSE"), closes=True),
    served("Connection: close among others", "9112 9.6", get("a", "Connection: keep-alive, close"), closes=True),
    served("Connection: close in a second field", "9112 9.6", get("a", "Connection: x", "Connection: close"),
           closes=True),
    served("a request behind a close is not answered", "9112 9.6", get("a", "Connection: close") + SMUGGLED,
           closes=True),
    served("HEAD has no body", "9112 6.3 (1)", get(HEAD, method="HEAD"), HEAD),
    served("HEAD and GET in turn", "9112 6.3 (1)", get(HEAD, method="HEAD") + get("b"), HEAD, "b"),
    *(Row(method, "9110 9.1", get("a", method=method), (Served("a", None),)) for method in
      ("DELETE", "PUT", "PATCH", "OPTIONS")),
    served("a query", "9112 3.2.1", get("a", target="/nowhere?a=b&c=%20d")),
    served("a target of 8,000 bytes", "9112 3", get("a", target="/nowhere?" + "x" * 7_990)),
    served("Host with a port", "9110 7.2", head("GET /nowhere HTTP/1.1", "Host: a.example:8080", "X-Request-Id: a")),
    served("Host is an IPv6 address", "9110 7.2", head("GET /nowhere HTTP/1.1", "Host: [::1]:80", "X-Request-Id: a")),
    served("Host in capitals", "9110 7.2", head("GET /nowhere HTTP/1.1", "HOST: A.Example", "X-Request-Id: a")),
    served("an empty Host", "9112 3.2", head("GET /nowhere HTTP/1.1", "Host:", "X-Request-Id: a"), or_refused=True),
    served("space around a value", "9112 5.1", with_field("X-A: \t  b \t ")),
    served("no space before a value", "9112 5.1", with_field("X-A:b")),
    served("an empty value", "9112 5.1", with_field("X-A:")),
    served("a tab within a value", "9110 5.5", with_field("X-A: b\tc")),
    served("bytes beyond ASCII in a value", "9110 5.5", with_field(b"X-A: \x80\xe9\xff")),
    served("every character of a name", "9110 5.6.2", with_field("!#$%&'*+-.^_`|~09azAZ: b")),
    served("a field twice", "9110 5.2", line("GET /nowhere HTTP/1.1", "X-A: b", "X-A: c")),
    served("a head just below the limit", "9110 5.4", with_field("X-A: " + "b" * (MAX_HEAD_BYTES - 2_000))),
    served("as many fields as there may be", "9110 5.4",
           line("GET /nowhere HTTP/1.1", *(f"X-{n}: b" for n in range(MAX_FIELDS - 10)))),
]  # fmt: skip
BODIES = [
    whole("a body by its length", "9112 6.2", post(LENGTH)),
    whole("Content-Length in capitals", "9110 5.1", post(LENGTH.upper())),
    whole("Content-Length with zeros before it", "9110 8.6", post(f"Content-Length: 00{BODY_BYTES}")),
    whole("the same Content-Length twice", "9112 6.3 (5)", post(LENGTH, LENGTH), or_refused=True),
    whole("the same Content-Length as a list", "9112 6.3 (5)", post(f"{LENGTH}, {BODY_BYTES}"), or_refused=True),
    whole("one chunk", "9112 7.1", in_chunks(b"60\r\n<body>\r\n0\r\n\r\n")),
    whole("two chunks", "9112 7.1", in_chunks(HALVES + b"0\r\n\r\n")),
    whole("a chunk size with zeros before it", "9112 7.1", in_chunks(b"00060\r\n<body>\r\n000\r\n\r\n")),
    whole("chunked in other letters", "9112 7", post("TRANSFER-ENCODING: Chunked", body=HALVES + b"0\r\n\r\n")),
    whole("chunk extensions", "9112 7.1.1", in_chunks(b'60;a;b=c;d="e f;"\r\n<body>\r\n0;z=1\r\n\r\n')),
    whole("trailers", "9112 7.1.2", in_chunks(HALVES + b"0\r\nX-A: b\r\nX-C: d\r\n\r\n")),
    whole("trailers that look like framing", "9110 6.5.1",
          in_chunks(HALVES + b"0\r\nContent-Length: 500\r\nTransfer-Encoding: gzip\r\nHost: b\r\n\r\n")),
    served("a body that nobody reads", "9112 9.3", unread("Content-Length: 300", body=b"x" * 300)),
    served("a body that nobody reads and that is a request", "9112 6.2",
           unread(f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED)),
    served("chunks that nobody reads", "9112 9.3",
           unread("Transfer-Encoding: chunked", body=chunked(b"x" * 100, SMUGGLED))),
    served("chunks without content", "9112 7.1", unread("Transfer-Encoding: chunked", body=chunked())),
    served("no content", "9112 6.2", unread("Content-Length: 0", body=b"")),
    served("POST without any length", "9112 6.3 (7)", unread(body=b"") + get("b"), "a", "b"),
    served("GET with a body", "9110 9.3.1", get("a", f"Content-Length: {len(SMUGGLED)}") + SMUGGLED),
    served("DELETE with chunks", "9110 9.3.5",
           head("DELETE /nowhere HTTP/1.1", "Host: a", "X-Request-Id: a", "Transfer-Encoding: chunked")
           + chunked(SMUGGLED)),
    served("HTTP/1.0 with a body", "9112 6.2", head("POST /nowhere HTTP/1.0", "X-Request-Id: a", "Content-Length: 3")
           + b"abc", closes=True),
]  # fmt: skip
UPGRADES = [
    whole("h2c is offered with a body by its length", "9110 7.8", post(LENGTH, *H2C)),
    whole("h2c is offered with chunks", "9110 7.8", in_chunks(HALVES + b"0\r\n\r\n", *H2C)),
    whole("TLS/1.0 is offered", "9110 7.8", post(LENGTH, "Connection: Upgrade", "Upgrade: TLS/1.0")),
    whole("an unknown protocol is offered", "9110 7.8", post(LENGTH, "Connection: upgrade", "Upgrade: x/1, y")),
    whole("Upgrade without Connection", "9110 7.8", post(LENGTH, "Upgrade: websocket")),
    whole("a body with an offer of WebSocket", "6455 4.1", post(LENGTH, "Connection: Upgrade", "Upgrade: websocket")),
    served("h2c is offered without a body", "9110 7.8", get("a", *H2C) + get("b", *H2C), "a", "b"),
    served("h2c is offered with a body that is a request", "9110 7.8",
           unread(*H2C, f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED)),
    served("h2c is offered by HTTP/1.0", "9110 7.8", line("GET /nowhere HTTP/1.0", *H2C), closes=True),
]  # fmt: skip
LINES = [
    refused("the request line ends with LF", "9112 2.2", b"GET /nowhere HTTP/1.1\nHost: a\r\n\r\n"),
    refused("a field ends with LF", "9112 2.2", b"GET /nowhere HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n"),
    refused("the head ends with LF", "9112 2.2", b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\n"),
    refused("all lines end with LF", "9112 2.2", b"GET /nowhere HTTP/1.1\nHost: a\n\n"),
    refused("CR within a value", "9112 2.2", with_field(b"X-A: b\rX-B: c")),
    refused("CR at the end of a value", "9112 2.2", with_field(b"X-A: b\r")),
    refused("CR in the request line", "9112 2.2", line(b"GET /nowhere HTTP/1.1\rX: y")),
    refused("no version", "9112 3", line("GET /nowhere")),
    refused("no target", "9112 3", line("GET HTTP/1.1")),
    refused("two spaces before the target", "9112 3", line("GET  /nowhere HTTP/1.1")),
    refused("two spaces before the version", "9112 3", line("GET /nowhere  HTTP/1.1")),
    refused("a tab between the parts", "9112 3", line("GET\t/nowhere\tHTTP/1.1")),
    refused("a space before the method", "9112 3", line(" GET /nowhere HTTP/1.1"), 400, 501),
    refused("a space after the version", "9112 3", line("GET /nowhere HTTP/1.1 ")),
    refused("a space in the target", "9112 3.2", line("GET /no where HTTP/1.1")),
    refused("a NUL in the target", "9112 3.2", line(b"GET /no\x00where HTTP/1.1")),
    refused("a control character in the target", "9112 3.2", line(b"GET /no\x01where HTTP/1.1")),
    refused("a target without a slash", "9112 3.2.1", line("GET nowhere HTTP/1.1")),
    refused("no token is the method", "9110 9.1", line("G(T /nowhere HTTP/1.1"), 400, 501),
    refused("an unknown method", "9110 9.1", line("BREW /nowhere HTTP/1.1"), 501),
    refused("a method in small letters", "9110 9.1", line("get /nowhere HTTP/1.1"), 501),
    refused("CONNECT", "9112 3.2.3", head("CONNECT a:80 HTTP/1.1", "Host: a:80"), 400, 405, 501),
    refused("HTTP in small letters", "9112 2.3", line("GET /nowhere http/1.1")),
    refused("another protocol", "9112 2.3", line("GET /nowhere HTTX/1.1")),
    refused("a version without its minor number", "9112 2.3", line("GET /nowhere HTTP/1")),
    refused("a version with two digits", "9112 2.3", line("GET /nowhere HTTP/1.10"), 400, 505),
    refused("a version with letters", "9112 2.3", line("GET /nowhere HTTP/1.x")),
    refused("HTTP/2.0", "9110 15.6.6", line("GET /nowhere HTTP/2.0"), 505),
    refused("HTTP/3.0", "9110 15.6.6", line("GET /nowhere HTTP/3.0"), 505),
    refused("HTTP/0.9", "9110 15.6.6", line("GET /nowhere HTTP/0.9"), 400, 505),
    refused("the preface of HTTP/2", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 501, 505),
    refused("the hello of TLS", "9112 3", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 60 + b"\r\n\r\n"),
]  # fmt: skip
FIELDS = [
    refused("a space before the colon", "9112 5.1", with_field("X-A : b")),
    refused("a tab before the colon", "9112 5.1", with_field("X-A\t: b")),
    refused("a line is continued after a space", "9112 5.2", with_field("X-A: b\r\n c")),
    refused("a line is continued after a tab", "9112 5.2", with_field("X-A: b\r\n\tc")),
    refused("the first field begins with a space", "9112 2.2",
            head("GET /nowhere HTTP/1.1", " X-A: b", "Host: a", "X-Request-Id: a")),
    refused("a name is empty", "9112 5", with_field(": b")),
    refused("there is no colon", "9112 5", with_field("X-A")),
    refused("a space within a name", "9110 5.1", with_field("X A: b")),
    refused("a bracket within a name", "9110 5.1", with_field("X(A): b")),
    refused("a quote within a name", "9110 5.1", with_field('X"A: b')),
    refused("a byte beyond ASCII within a name", "9110 5.1", with_field(b"X\xc3\xa9: b")),
    refused("a NUL within a name", "9110 5.1", with_field(b"X\x00A: b")),
    refused("a NUL within a value", "9110 5.5", with_field(b"X-A: b\x00c")),
    refused("a control character within a value", "9110 5.5", with_field(b"X-A: b\x01c")),
    refused("DEL within a value", "9110 5.5", with_field(b"X-A: b\x7fc")),
    refused("no Host", "9112 3.2", head("GET /nowhere HTTP/1.1", "X-Request-Id: a")),
    refused("no Host with absolute-form", "9112 3.2", head("GET http://a/nowhere HTTP/1.1", "X-Request-Id: a")),
    refused("two different Hosts", "9112 3.2", with_field("Host: b")),
    refused("the same Host twice", "9112 3.2", with_field("Host: a")),
    refused("two Hosts with HTTP/1.0", "9112 3.2", line("GET /nowhere HTTP/1.0", "Host: b")),
    *(refused(f"Host is {host}", "9112 3.2", head("GET /nowhere HTTP/1.1", f"Host: {host}", "X-Request-Id: a"))
      for host in ("a b", "a/c", "a, b", "user@a", "a:b", "[::1", "a?b", "a#b", "a\\b", "http://a")),
    refused("a field larger than the head may be", "6585 5", with_field("X-A: " + "b" * TOO_LONG), 431),
    refused("fields larger than the head may be", "6585 5",
            line("GET /nowhere HTTP/1.1", *(f"X-{n}: " + "b" * 700 for n in range(120))), 431),
    refused("a name larger than the head may be", "6585 5", with_field("X" * TOO_LONG + ": b"), 431),
    refused("a target larger than the head may be", "9110 15.5.15",
            line(f"GET /{'x' * TOO_LONG} HTTP/1.1"), 414, 431),
    refused("more fields than there may be", "6585 5",
            line("GET /nowhere HTTP/1.1", *(f"X-{n}: b" for n in range(MAX_FIELDS + 10))), 431),
]  # fmt: skip
LENGTHS = [
    *(refused(f"Content-Length is {text or 'empty'}", "9112 6.3 (5)", post(f"Content-Length: {text}"))
      for text in ("-1", "+96", "96a", "0x60", "", "9 6", "96.0", "96,97", "96,", "\u0669")),
    refused("Content-Length is a number with 30 digits", "9110 8.6", post("Content-Length: " + "9" * 30), 400, 413),
    refused("Content-Length is more than 64 bits", "9110 8.6", post(f"Content-Length: {2**64 + BODY_BYTES}"), 400, 413),
    refused("two different lengths", "9112 6.3 (5)", post(LENGTH, "Content-Length: 5")),
    refused("two different lengths, one of them none", "9112 6.3 (5)", post("Content-Length: 0", LENGTH)),
    refused("a length and chunks", "9112 6.3 (3)", post("Transfer-Encoding: chunked", LENGTH, body=chunked())),
    refused("chunks after a length", "9112 6.3 (3)", post("Content-Length: 5", "Transfer-Encoding: chunked",
                                                          body=chunked())),
    refused("Transfer-Encoding in HTTP/1.0", "9112 6.1", post("Transfer-Encoding: chunked", body=chunked(),
                                                              version="1.0")),
    refused("chunked is not the last coding", "9112 6.3 (4)", post("Transfer-Encoding: chunked, gzip",
                                                                   body=chunked()), 400, 501),
    refused("chunked is not the last coding by two fields", "9112 6.3 (4)",
            post("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", body=chunked()), 400, 501),
    refused("chunked twice", "9112 6.1", post("Transfer-Encoding: chunked, chunked", body=chunked()), 400, 501),
    refused("chunked twice by two fields", "9112 6.1",
            post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=chunked()), 400, 501),
    refused("gzip and chunked", "9112 6.1", post("Transfer-Encoding: gzip, chunked", body=chunked()), 501),
    refused("gzip and chunked by two fields", "9112 6.1",
            post("Transfer-Encoding: gzip", "Transfer-Encoding: chunked", body=chunked()), 400, 501),
    *(refused(f"the transfer coding is {coding or 'empty'}", "9112 6.1", post(f"Transfer-Encoding: {coding}",
                                                                          body=chunked()), 400, 501)
      for coding in ("gzip", "identity", "xchunked", "chunked-x", '"chunked"', "chunked;q=1", "")),
    refused("a vertical tab before chunked", "9110 5.5",
            post(b"Transfer-Encoding: \x0bchunked", body=chunked()), 400, 501),
    refused("a space before the colon of Transfer-Encoding", "9112 5.1", post("Transfer-Encoding : chunked",
                                                                              body=chunked())),
    refused("a space before the colon of Content-Length", "9112 5.1", post(f"Content-Length : {BODY_BYTES}")),
]  # fmt: skip
CHUNKS = [
    *(refused(f"a chunk's size is {size!r}", "9112 7.1", in_chunks(size.encode() + b"\r\n<body>\r\n0\r\n\r\n"))
      for size in ("x", "-60", "+60", "0x60", "", " 60", "6 0", "60,", "1" + "0" * 16 + "60", "\t60")),
    refused("no CRLF after a chunk", "9112 7.1", in_chunks(b"60\r\n<body>0\r\n\r\n")),
    refused("other bytes after a chunk", "9112 7.1", in_chunks(b"60\r\n<body>xx0\r\n\r\n")),
    refused("LF after a chunk", "9112 7.1", in_chunks(b"60\r\n<body>\n0\r\n\r\n")),
    refused("LF after a chunk's size", "9112 7.1", in_chunks(b"60\n<body>\r\n0\r\n\r\n")),
    refused("CR alone after a chunk's size", "9112 7.1", in_chunks(b"60\rx<body>\r\n0\r\n\r\n")),
    refused("LF after the last chunk", "9112 7.1", in_chunks(b"60\r\n<body>\r\n0\n\n")),
    refused("LF within an extension", "9112 7.1.1", in_chunks(b"60;a\nb\r\n<body>\r\n0\r\n\r\n")),
    refused("a NUL within an extension", "9112 7.1.1", in_chunks(b"60;a\x00b\r\n<body>\r\n0\r\n\r\n")),
    refused("a chunk is shorter than its size", "9112 7.1", in_chunks(b"62\r\n<body>\r\n0\r\n\r\n")),
    refused("an extension larger than a head may be", "9112 7.1.1",
            in_chunks(b"60;" + b"a" * TOO_LONG + b"\r\n<body>\r\n0\r\n\r\n")),
    refused("extensions larger than a head may be", "9112 7.1.1",
            in_chunks((b"1;" + b"a" * 900 + b"\r\n \r\n") * 100 + b"60\r\n<body>\r\n0\r\n\r\n")),
    refused("a chunk's size of endless zeros", "9112 7.1",
            in_chunks(b"0" * TOO_LONG + b"60\r\n<body>\r\n0\r\n\r\n")),
    refused("a trailer larger than a head may be", "9112 7.1.2",
            in_chunks(HALVES + b"0\r\nX-A: " + b"b" * TOO_LONG + b"\r\n\r\n"), 400, 431),
    refused("trailers larger than a head may be", "9112 7.1.2",
            in_chunks(HALVES + b"0\r\n" + b"a:\r\n" * (MAX_HEAD_BYTES // 4 + 5_000) + b"\r\n"), 400, 431),
    refused("a trailer without a colon", "9112 7.1.2", in_chunks(HALVES + b"0\r\nX-A\r\n\r\n")),
    refused("a trailer with a space before its colon", "9112 5.1", in_chunks(HALVES + b"0\r\nX-A : b\r\n\r\n")),
    refused("a trailer ends with LF", "9112 2.2", in_chunks(HALVES + b"0\r\nX-A: b\n\r\n")),
    refused("a trailer with a NUL", "9110 5.5", in_chunks(HALVES + b"0\r\nX-A: b\x00\r\n\r\n")),
]  # fmt: skip
ROWS = [*GOOD, *BODIES, *UPGRADES, *LINES, *FIELDS, *LENGTHS, *CHUNKS]
assert len({row.name for row in ROWS}) == len(ROWS)
