"""Exchange served by a `RequestHandler`, in the callbacks of the parser."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from calltag.core.http.exchange import CONTINUE, CUT_OFF, FAILED, Exchange, IncomingBody
from calltag.core.http.refusals import Refusal
from calltag.core.http.response_head import WITHOUT_BODY, Fields, date_line, response_lines
from calltag.core.http.scope import client_of

if TYPE_CHECKING:
    from calltag.core.http.direct import RequestHandler

log = structlog.get_logger()
_FROM_THE_SERVER: Final = frozenset({b"content-length", b"transfer-encoding", b"date"})
_INCOMPLETE: Final = Refusal(400, "the body of the request is incomplete")


class DirectRequest(Exchange):
    """A request with one response, now or later; until then it is suspended, and the next one waits unparsed."""

    __slots__ = ("_handler", "body", "on_gone")

    body: bytes
    """The complete body. A handler that suspends the request may drop it."""
    on_gone: Callable[[bool], None] | None
    """Called at most once, and not after the response. True: the client has disconnected, or the server itself has
    responded. False: the client is half-closed, and may still read (RFC 9112, 9.6)."""

    def start(self, handler: "RequestHandler") -> bool:
        """Call the handler once the body is complete; returns as `parse` does."""
        self._handler = handler
        self.body = b""
        self.on_gone = None
        head, connection = self.head, self._connection
        if head.framing == "none":
            self._handle()
            return False
        size = head.content_length
        end = connection.at + size
        if head.framing == "length" and size <= handler.max_body_bytes and end <= len(connection.data):
            self.body = connection.data[connection.at : end]
            connection.parsed(end)
            self._handle()
            return False
        incoming = self._incoming = IncomingBody(head, connection.server.limits.max_framing_bytes)
        if size > handler.max_body_bytes:
            self._refuse(handler.refuse_size)
        else:
            connection.expect(connection.server.body_deadline_s)
        is_interrupted = self.take_body()
        if not self._is_complete and incoming.expects_continue and not incoming.received:
            connection.write(CONTINUE)
        incoming.expects_continue = False
        return is_interrupted

    def _handle(self) -> None:
        try:
            self._handler.handle(self)
        except Exception:
            log.exception("request_failed")
            if not self._is_complete:
                self.cut_off(FAILED)
        if not self._is_complete:
            self.head.compact()
            if self._connection.at_end_of_input:
                self._gone(is_lost=False)

    def _refuse(self, refuse: Callable[["DirectRequest"], None]) -> None:
        try:
            refuse(self)
        except Exception:
            log.exception("request_failed")
        if not self._is_complete:
            self.cut_off(FAILED)

    # For the handler

    @property
    def client(self) -> tuple[str, int]:
        """Address and port of the client; an address that a trusted proxy forwards has port 0."""
        return client_of(self.head, self._connection)[0]

    @property
    def scheme(self) -> str:
        """`http` or `https`, as a trusted proxy forwards it."""
        return client_of(self.head, self._connection)[1]

    @property
    def connection_id(self) -> int:
        """Number of the connection, unique in this process."""
        return self._connection.id

    @property
    def is_open(self) -> bool:
        """Return whether a response is due and can be sent."""
        return not self._is_complete and not self._connection.is_closing

    @property
    def is_half_closed(self) -> bool:
        """Return whether the client has closed its sending side."""
        return self._connection.at_end_of_input

    def respond(self, status: int, fields: Fields, body: bytes) -> bool:
        """Write the response; return False, with nothing written, after a response or the end of the connection.

        The server adds Content-Length, Date and Connection, and obeys `Connection: close`. Raises ValueError.
        """
        kept = []
        for name, value in fields:
            lower = name.lower()
            if lower == b"connection":
                self.keeps_alive = self.keeps_alive and b"close" not in value.lower()
            elif lower not in _FROM_THE_SERVER:
                kept.append((lower, value))
        lines = response_lines(status, kept)
        if status in WITHOUT_BODY:
            return self._write(lines, b"")
        return self.respond_prepared(lines, body)

    def respond_prepared(self, lines: bytes, body: bytes) -> bool:
        """Write a response with a body; `lines` is the result of `response_lines`. See `respond`."""
        size = len(body)
        return self._write(b"%bcontent-length: %d\r\n" % (lines, size), b"" if self.head.method == "HEAD" else body)

    def _write(self, lines: bytes, body: bytes) -> bool:
        connection = self._connection
        if self._is_complete or connection.is_closing:
            return False
        self._is_complete = True
        self.on_gone = None
        data = b"%b%b%b%b" % (lines, date_line(), self._end_of_head(), body)
        if connection.in_turn:
            connection.write(data)
        else:
            connection.write_now(data)
        self._http.finished(self)
        return True

    # Events of the connection

    def _room(self, incoming: IncomingBody) -> int:
        return self._handler.max_body_bytes + 1 - len(incoming.received)

    def _body_came(self, incoming: IncomingBody) -> None:
        if len(incoming.received) > self._handler.max_body_bytes:
            self._refuse(self._handler.refuse_size)
        elif incoming.decoder.is_complete:
            self._connection.relax()
            self.body, self._incoming = bytes(incoming.received), None
            self._handle()

    def expire(self) -> None:
        """Refuse a body that missed its deadline; close if there was a response already."""
        if self._is_complete:
            super().expire()
        else:
            self.keeps_alive = False
            self._refuse(self._handler.refuse_late)

    def _half_closed(self) -> None:
        # TLS connections cannot be half-closed here: this one is lost next.
        if not self._connection.is_tls:
            self._gone(is_lost=False)

    def _cut_short(self) -> None:
        self.cut_off(_INCOMPLETE)

    def _abandoned(self) -> None:
        self._gone(is_lost=True)

    def disconnect(self) -> None:
        """Notify the handler by `on_gone`."""
        self._gone(is_lost=True)

    def give_up(self) -> None:
        """Respond in place of the handler, after the drain timeout."""
        self.cut_off(CUT_OFF)

    def _gone(self, *, is_lost: bool) -> None:
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            try:
                on_gone(is_lost)
            except Exception:
                log.exception("request_failed")
