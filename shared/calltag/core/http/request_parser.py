"""Incremental parser of HTTP/1.1 and 1.0 requests (RFC 9112), without I/O.

llhttp (httptools) parses the head, in pieces of any size, and gets no byte beyond its end. Behind it comes the body,
whose framing is decoded here, or the next request, which waits unparsed.
"""

import re
from enum import StrEnum
from typing import Final, Literal

import httptools

_END_OF_HEAD: Final = b"\r\n\r\n"
_OVERLAP: Final = len(_END_OF_HEAD) - 1
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_FIELD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_MAX_LINE_BYTES: Final = 4_096
"""Maximum length of a chunk's size line or of a trailer field."""
_LINES_A_TURN: Final = 1_000
_FRAMING_PER_BODY_BYTE: Final = 8
"""Framing allowed for each byte of the body: a chunk of one byte takes five bytes more, so the smallest chunks pass."""
_REQUEST_LINE: Final = re.compile(rb"[^ ]+ [^ ]+ HTTP/[0-9]\.[0-9]")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SCHEMES: Final = (b"http", b"https")
_USUAL: Final = (
    "Host", "User-Agent", "Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control",
    "Connection", "Content-Length", "Content-Type", "Cookie", "Origin", "Pragma", "Referer", "Sec-Fetch-Dest",
    "Sec-Fetch-Mode", "Sec-Fetch-Site", "Transfer-Encoding", "X-CSRF-Token", "X-Forwarded-For", "X-Forwarded-Host",
    "X-Forwarded-Proto", "X-Request-Id", "X-Requested-With",
)  # fmt: skip
_NAMES: Final = {text: name.lower().encode() for name in _USUAL for text in (name.encode(), name.lower().encode())}
"""Usual spellings of field names, in lower case; all heads share these objects."""
_FRAMING_NAMES: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"}
)

Framing = Literal["none", "length", "chunked"]


class RequestLimit(StrEnum):
    """Reasons for refusing a client, as labels of `calltag_http_refused_total`; a limit has the name of its setting."""

    MALFORMED = "malformed"
    HEAD_BYTES = "max_head_bytes"
    HEADERS = "max_headers"
    FRAMING_BYTES = "max_framing_bytes"
    HEAD_DEADLINE = "head_deadline_s"
    BODY_DEADLINE = "body_deadline_s"
    TLS_DEADLINE = "tls_deadline"
    WRITE_STALL = "write_stall_s"
    CLOSE_DEADLINE = "close_deadline_s"
    PONG_DEADLINE = "pong_deadline_s"
    CONNECTIONS = "max_connections"
    CONNECTIONS_PER_ADDRESS = "max_connections_per_address"
    MESSAGE_BYTES = "max_message_bytes"
    FRAMES_PER_MESSAGE = "max_frames_per_message"
    CONTROL_FRAMES = "max_control_frames_per_s"
    RECEIVED_BYTES = "max_received_bytes"


class BadRequest(Exception):
    """The request is refused with `status`, and its connection closed: the start of the next request is unknown."""

    def __init__(self, text: str, status: int = 400, limit: RequestLimit = RequestLimit.MALFORMED) -> None:
        super().__init__(text)
        self.status = status
        self.limit = limit


Headers = list[tuple[bytes, bytes]]


class RequestHead:
    """Request line and fields, immutable by convention. `path` and `query` are not decoded."""

    __slots__ = (
        "_headers",
        "content_length",
        "expects_continue",
        "framing",
        "is_websocket",
        "keep_alive",
        "method",
        "note",
        "path",
        "query",
        "raw",
        "user",
        "version",
    )

    def __init__(
        self,
        method: str,
        path: bytes,
        query: bytes,
        version: str,
        headers: Headers,
        *,
        framing: Framing,
        content_length: int,
        keep_alive: bool,
        expects_continue: bool,
        is_websocket: bool,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.version = version
        self._headers: Headers | None = headers
        self.framing: Framing = framing
        self.content_length = content_length
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.is_websocket = is_websocket
        self.raw = b""
        """All bytes of the head, where they are cached to recognize a repeated head."""
        self.user = ""
        """Name of the user whom a trusted proxy has authenticated; "" if none has."""
        self.note: object = None
        """Facts that a handler derived from the head, cached for the next request with the same head."""

    def identify(self, user: str) -> None:
        """Note the user whom a trusted proxy has authenticated."""
        self.user = user

    def keep(self, note: object) -> None:
        """Cache facts that were derived from the head."""
        self.note = note

    @property
    def headers(self) -> Headers:
        """Return the fields in order, with names in lower case."""
        return _fields_in(self.raw) if self._headers is None else self._headers

    def compact(self) -> None:
        """Keep the fields only in `raw`, to save memory while the request is suspended."""
        if self.raw and self._headers is not None and _fields_in(self.raw) == self._headers:
            self._headers = None


def _fields_in(raw: bytes) -> Headers:
    """Return the fields of a valid head."""
    lines = raw.lstrip(b"\r\n").split(b"\r\n")[1:-2]
    fields = (line.partition(b":") for line in lines)
    return [(_NAMES.get(name) or name.lower(), value.strip(b" \t")) for name, _, value in fields]


class HeadParser:
    """Parses one head: `feed` consumes its bytes, and sets `head` when it is complete."""

    __slots__ = (
        "_complete",
        "_headers",
        "_line",
        "_max_bytes",
        "_max_headers",
        "_parser",
        "_tail",
        "_target",
        "head",
        "size",
    )

    def __init__(self, max_bytes: int, max_headers: int) -> None:
        self._max_bytes = max_bytes
        self._max_headers = max_headers
        self._parser = httptools.HttpRequestParser(self)
        self._headers: Headers = []
        self._target = b""
        self._line = b""
        """The request line, possibly with bytes behind it."""
        self._tail = b""
        self._complete = False
        self.head: RequestHead | None = None
        self.size = 0
        """Number of bytes consumed."""

    def feed(self, data: bytes, start: int = 0) -> int:
        """Consume bytes from `start` up to the end of the head; return where it stopped. Raises BadRequest."""
        while start < len(data) and not self._complete:
            end = self._end_in(data, start)
            part = data[start:] if end < 0 else data[start:end]
            # Empty lines are allowed before a request line, and do not end a head (RFC 9112, 2.2).
            self._tail = (self._tail + part)[-_OVERLAP:] if end < 0 else b""
            start += len(part)
            self._parse(part)
        if self._complete and self.head is None:
            self.head = self._checked()
            self.close()
        return start

    def _end_in(self, data: bytes, start: int) -> int:
        """Return the end of the empty line behind a head, which may begin in an earlier piece; -1 if there is none."""
        if self._tail:
            end = (self._tail + data[start : start + _OVERLAP]).find(_END_OF_HEAD)
            if end >= 0:
                return start + end + len(_END_OF_HEAD) - len(self._tail)
        end = data.find(_END_OF_HEAD, start)
        return end if end < 0 else end + len(_END_OF_HEAD)

    def close(self) -> None:
        """Drop the parser, whose callbacks refer to this object: a cycle would wait for the garbage collector."""
        del self._parser

    def _parse(self, part: bytes) -> None:
        self.size += len(part)
        if b"\r\n" not in self._line:
            self._line = (self._line + part).lstrip(b"\r\n")
        if self.size > self._max_bytes:
            raise BadRequest(
                f"the head of the request is larger than {self._max_bytes} bytes", 431, RequestLimit.HEAD_BYTES
            )
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            # RFC 9110 (7.8) lets a server ignore an upgrade; the framing of the body does not change.
            pass
        except httptools.HttpParserInvalidMethodError:
            if _TOKEN.fullmatch(self._line.partition(b" ")[0]) is None:
                raise BadRequest("the request does not begin with a method") from None
            raise BadRequest("the method is not known here", 501) from None
        except httptools.HttpParserError as error:
            status = 505 if str(error) == "Invalid HTTP version" else 400
            raise BadRequest(f"the request is malformed: {error}", status) from None
        if len(self._headers) > self._max_headers:
            raise BadRequest(f"the request has more than {self._max_headers} fields", 431, RequestLimit.HEADERS)

    def on_url(self, target: bytes) -> None:
        """Called by the parser, possibly with a part of the target."""
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for each field."""
        self._headers.append((_NAMES.get(name) or name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Called by the parser at the end of the head."""
        self._complete = True

    def _checked(self) -> RequestHead:
        if _REQUEST_LINE.fullmatch(self._line.partition(b"\r\n")[0]) is None:
            raise BadRequest("the request line is not method, target and version with single spaces")
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise BadRequest(f"HTTP/{version} is not served here; use HTTP/1.1", 505)
        method: str = self._parser.get_method().decode()
        authority, path, query = _target_of(method, self._target)
        fields = _Fields(self._headers)
        fields.check_host(version, authority)
        framing, length = fields.framing(version)
        return RequestHead(
            method=method,
            path=path,
            query=query,
            version=version,
            headers=self._headers,
            framing=framing,
            content_length=length,
            keep_alive=fields.keeps_alive(version),
            expects_continue=version == "1.1" and fields.expect == b"100-continue",
            is_websocket=version == "1.1" and method == "GET" and framing == "none" and fields.offers_websocket(),
        )


def _target_of(method: str, target: bytes) -> tuple[bytes | None, bytes, bytes]:
    """Return authority (None where the target has none), path and query (RFC 9112, 3.2)."""
    if b"#" in target:
        raise BadRequest("the request target has a fragment")
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return None, path, query
    if target == b"*" and method == "OPTIONS":
        return None, target, b""
    if method == "CONNECT":
        raise BadRequest("CONNECT is not served here", 501)
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise BadRequest("the request target is neither a path nor a URL")
    place, _, query = rest.partition(b"?")
    authority, slash, path = place.partition(b"/")
    if not authority:
        raise BadRequest("the URL in the request target has no host")
    return authority, slash + path or b"/", query


class _Fields:
    """The fields that frame a message or belong to its connection."""

    __slots__ = ("_connection", "_headers", "_hosts", "_length", "_transfer", "_upgrade", "expect")

    def __init__(self, headers: Headers) -> None:
        self._headers = headers
        self._hosts: list[bytes] = []
        self._length: bytes | None = None
        self._transfer: bytes | None = None
        self._connection = b""
        self._upgrade = b""
        self.expect = b""
        for name, value in headers:
            if name not in _FRAMING_NAMES:
                continue
            if name == b"host":
                self._hosts.append(value)
            elif name == b"content-length":
                self._length = value
            elif name == b"transfer-encoding":
                self._transfer = value if self._transfer is None else self._transfer + b"," + value
            elif name == b"connection":
                self._connection += b"," + value.lower()
            elif name == b"upgrade":
                self._upgrade += b"," + value.lower()
            elif name == b"expect":
                self.expect = value.lower()

    def check_host(self, version: str, authority: bytes | None) -> None:
        """Raises BadRequest (RFC 9112, 3.2); an authority in the target overrides the field (3.2.2)."""
        if len(self._hosts) > 1:
            raise BadRequest("the request has more than one Host field")
        if not self._hosts and version == "1.1":
            raise BadRequest("the request has no Host field")
        if not all(map(_HOST.fullmatch, (*self._hosts, authority or b""))):
            raise BadRequest("the Host of the request is not a host with an optional port")
        if authority is not None:
            self._headers[:] = [(b"host", authority), *(field for field in self._headers if field[0] != b"host")]

    def framing(self, version: str) -> tuple[Framing, int]:
        """Return the framing of the body, and its length if known. Raises BadRequest (RFC 9112, 6.1 and 6.3)."""
        if self._transfer is None:
            length = int(self._length or b"0")
            return ("length", length) if length else ("none", 0)
        if self._length is not None:
            raise BadRequest("the request has both Content-Length and Transfer-Encoding")
        if version == "1.0":
            raise BadRequest("HTTP/1.0 has no Transfer-Encoding")
        codings = [coding.strip(b" \t").lower() for coding in self._transfer.split(b",")]
        if codings[-1] != b"chunked":
            raise BadRequest("the last transfer coding of the request is not chunked")
        if len(codings) > 1:
            raise BadRequest("the only transfer coding that is served here is chunked", 501)
        return "chunked", 0

    def keeps_alive(self, version: str) -> bool:
        """Return whether the client asks for keep-alive (RFC 9112, 9.3)."""
        if version == "1.1" and not self._connection:
            return True
        options = self._options(self._connection)
        return b"close" not in options and (version == "1.1" or b"keep-alive" in options)

    def offers_websocket(self) -> bool:
        """Return whether the only offered upgrade is WebSocket; others are ignored."""
        return bool(self._upgrade) and (
            self._options(self._upgrade) == {b"websocket"} and b"upgrade" in self._options(self._connection)
        )

    @staticmethod
    def _options(value: bytes) -> set[bytes]:
        return {option.strip(b" \t") for option in value.split(b",")} - {b""}


class LengthBody:
    """Decoder of a body framed by Content-Length."""

    __slots__ = ("is_interrupted", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.is_interrupted = False

    @property
    def is_complete(self) -> bool:
        """Return whether all bytes were received."""
        return not self.remaining

    def feed(self, data: bytes, start: int, room: int, into: bytearray) -> int:
        """Move up to `room` bytes of `data` from `start` into `into`; return where it stopped."""
        end = min(len(data), start + self.remaining, start + room)
        into += data[start:end]
        self.remaining -= end - start
        return end


class ChunkedBody:
    """Decoder of a chunked body (RFC 9112, 7.1). Drops extensions and trailers; bounds the bytes of all framing."""

    __slots__ = (
        "_allowed",
        "_in_chunk",
        "_in_trailers",
        "_max_framing_bytes",
        "_needs_line_end",
        "is_complete",
        "is_interrupted",
    )

    def __init__(self, max_framing_bytes: int) -> None:
        self._max_framing_bytes = max_framing_bytes
        self._allowed = max_framing_bytes
        self._in_chunk = 0
        """Bytes left of the chunk."""
        self._needs_line_end = False
        self._in_trailers = False
        self.is_complete = False
        self.is_interrupted = False
        """`feed` stopped with data left, to let other connections run."""

    def feed(self, data: bytes, start: int, room: int, into: bytearray) -> int:
        """Move up to `room` bytes of the body into `into`; return where it stopped.

        An incomplete line is not consumed: it is to be fed again with more bytes. Raises BadRequest.
        """
        full = len(into) + room
        lines = 0
        self.is_interrupted = False
        while start < len(data) and not self.is_complete:
            self.is_interrupted = lines == _LINES_A_TURN
            if self.is_interrupted:
                break
            if self._in_chunk:
                end = min(len(data), start + self._in_chunk, start + full - len(into))
                if end == start:
                    break
                into += data[start:end]
                self._in_chunk -= end - start
                self._allowed += _FRAMING_PER_BODY_BYTE * (end - start)
                self._needs_line_end = not self._in_chunk
                start = end
                continue
            end = data.find(b"\r\n", start, start + _MAX_LINE_BYTES)
            if end < 0:
                self._check_unfinished(data, start)
                break
            self._take_line(data[start:end])
            start = end + 2
            lines += 1
        return start

    def _check_unfinished(self, data: bytes, start: int) -> None:
        if len(data) - start >= _MAX_LINE_BYTES:
            raise self._too_much(f"a line of the chunked body's framing is longer than {_MAX_LINE_BYTES} bytes")
        if b"\n" in data[start:]:
            raise BadRequest("a line of the chunked body's framing ends without CR")
        if self._needs_line_end and data[start : start + 2] not in {b"", b"\r"}:
            raise BadRequest("a chunk does not end where its size says")

    def _take_line(self, line: bytes) -> None:
        self._allowed -= len(line) + 2
        if self._allowed < 0:
            raise self._too_much(
                f"chunk sizes, extensions and trailers of the request take more than {self._max_framing_bytes} bytes"
            )
        if self._needs_line_end:
            if line:
                raise BadRequest("a chunk does not end where its size says")
            self._needs_line_end = False
        elif not self._in_trailers:
            size = _CHUNK.fullmatch(line)
            if size is None:
                raise BadRequest("a chunk size of the request is malformed")
            self._in_chunk = int(size[1], 16)
            self._in_trailers = not self._in_chunk
        elif not line:
            self.is_complete = True
        elif _FIELD.fullmatch(line) is None:
            raise BadRequest("a trailer field of the request is malformed")

    @staticmethod
    def _too_much(text: str) -> BadRequest:
        return BadRequest(text, 400, RequestLimit.FRAMING_BYTES)


Body = LengthBody | ChunkedBody


def body_of(head: RequestHead, max_framing_bytes: int) -> Body:
    """Return the decoder of the request's body."""
    return ChunkedBody(max_framing_bytes) if head.framing == "chunked" else LengthBody(head.content_length)
