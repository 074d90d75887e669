"""Serving without ASGI: handlers of requests and WebSockets in the callbacks of the parser.

They need no task, coroutine or future: thousands of requests a second are cheap, and thousands of suspended ones are
small. The ASGI application serves all that a handler does not accept."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from websockets.frames import CloseCode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from calltag.core.http.exchange import CONTINUE, CUT_OFF, FAILED, Exchange, IncomingBody
from calltag.core.http.request_parser import RequestHead
from calltag.core.http.responses import WITHOUT_BODY, Fields, Refusal, date_line, head_of, response_lines
from calltag.core.http.scope import client_of
from calltag.core.http.websocket import (
    MESSAGES_A_TURN,
    NOT_OPENED,
    QUEUED_BYTES,
    QUEUED_MESSAGES,
    SWITCHING_PROTOCOLS,
    WebSocket,
    WebSocketState,
    text_frame,
)

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection

__all__ = [
    "DirectRequest",
    "DirectWebSocket",
    "Fields",
    "Refusal",
    "RequestHandler",
    "RequestHead",
    "SocketHandler",
    "response_lines",
]
log = structlog.get_logger()
_FROM_THE_SERVER: Final = frozenset({b"content-length", b"transfer-encoding", b"date"})
_INCOMPLETE: Final = Refusal(400, "the body of the request is incomplete")


class RequestHandler(Protocol):
    """Serves the requests that it accepts. Its exceptions are logged, and answered with HTTP 500."""

    @property
    def max_body_bytes(self) -> int:
        """Maximum size of a body; beyond it `refuse_size` is called instead of `handle`."""
        ...

    def accepts(self, head: RequestHead) -> bool:
        """Return whether it serves the request; called for each request, so it has to be fast."""
        ...

    def handle(self, request: "DirectRequest") -> None:
        """Respond to a request with a complete body, now or later."""
        ...

    def refuse_size(self, request: "DirectRequest") -> None:
        """Respond, before returning, to a request whose body is too large; its `body` is empty."""
        ...

    def refuse_late(self, request: "DirectRequest") -> None:
        """Respond, before returning, to a request whose body missed its deadline; its connection is closed."""
        ...

    def open_socket(self, head: RequestHead, client: tuple[str, int], scheme: str) -> "SocketHandler | Refusal | None":
        """Return the handler of a WebSocket, or a refusal; None leaves it to the ASGI application.

        Address and scheme (`http` or `https`) of the client are those that a trusted proxy forwards.
        """
        ...


class SocketHandler(Protocol):
    """Serves one WebSocket. Its exceptions are logged, and close the WebSocket with code 1011."""

    def handshake_fields(self) -> Fields:
        """Return header fields to add to the handshake response."""
        ...

    def opened(self, socket: "DirectWebSocket") -> None:
        """Take the open WebSocket, which may send from now on."""
        ...

    def message(self, data: bytes) -> bool:
        """Serve a whole message. Return False to suspend delivery until `socket.ready()`; a bounded queue fills
        meanwhile."""
        ...

    def writable(self) -> None:
        """Continue sending after `socket.is_writable` was False: the write buffer has drained."""
        ...

    def closed(self, is_clean: bool) -> None:
        """Handle the end, once, after all messages. `is_clean`: the client sent a close frame. In reply to one of the
        server, it proves that the client has read all that was sent."""
        ...


class DirectRequest(Exchange):
    """A request with one response, now or later; until then it is suspended, and the next one waits unparsed."""

    __slots__ = ("_handler", "body", "on_gone")

    body: bytes
    """The complete body. A handler that suspends the request may drop it."""
    on_gone: Callable[[bool], None] | None
    """Called at most once, and not after the response. True: the client has disconnected, or the server itself has
    responded. False: the client is half-closed, and may still read (RFC 9112, 9.6)."""

    def notify_gone(self, on_gone: Callable[[bool], None]) -> None:
        """Suspend the request: call `on_gone` when its client goes before the response."""
        self.on_gone = on_gone

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


class DirectWebSocket(WebSocket):
    """Passes each message to its handler at once, or queues it until the handler is ready."""

    __slots__ = ("_handler", "_in_call", "_is_busy", "_is_ended", "_left_of_turn", "_queue", "_queued_bytes")

    def __init__(self, connection: "Connection", protocol: ServerProtocol) -> None:
        super().__init__(connection, protocol, WebSocketState.OPEN)
        self._handler: SocketHandler | None = None
        """None before `opened` and after `closed`."""
        self._in_call = False
        """A call of `handler.message` is in progress."""
        self._is_busy = False
        self._is_ended = False
        self._left_of_turn = MESSAGES_A_TURN
        self._queue: deque[bytes] | None = None
        """Messages that wait for the handler; None if there are none, to save memory of idle connections."""
        self._queued_bytes = 0

    def open(self, handler: "SocketHandler", fields: Fields) -> bool:
        """Answer the handshake and notify the handler; returns as `parse` does."""
        connection = self._connection
        try:
            connection.write(head_of(SWITCHING_PROTOCOLS, [*fields, *handler.handshake_fields()]))
        except Exception:
            log.exception("websocket_failed")
            connection.write(NOT_OPENED.encoded())
            connection.close(linger=True)
            return False
        self._handler = handler
        connection.expect(connection.server.limits.ping_interval_s)
        try:
            handler.opened(self)
        except Exception:
            log.exception("websocket_failed")
            self.close(CloseCode.INTERNAL_ERROR)
        return connection.unparsed > 0

    # For the handler

    @property
    def connection_id(self) -> int:
        """Number of the connection, unique in this process."""
        return self._connection.id

    @property
    def is_open(self) -> bool:
        """Return whether neither side has begun to close it."""
        return self._state is WebSocketState.OPEN and not self._connection.is_closing

    @property
    def is_writable(self) -> bool:
        """Return whether it is open, and its write buffer has room."""
        return self.is_open and self._connection.is_writable

    def send_text(self, payload: bytes) -> bool:
        """Send a message, or buffer it while the client does not read; return False if the WebSocket is not open."""
        if not self.is_open:
            return False
        if not self._protocol.extensions:
            self._connection.write(text_frame(payload))
        elif self._protocol.state is OPEN:
            self._protocol.send_text(payload)
            self._react()
        else:
            # The client's close frame was in the same packet as the message that this answers.
            return False
        return True

    def send_frame(self, frame: bytes, *, one_of_many: bool = False) -> bool:
        """Implements FrameWriter."""
        return self.write_frame(frame, one_of_many=one_of_many)

    def ready(self) -> None:
        """Resume delivery, after `message` has returned False, in the next iteration of the loop."""
        self._is_busy = False
        if self._is_ended:
            self._connection.loop.call_soon(self._end)
        else:
            self._connection.work_soon()

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame; `closed` is called after the client's reply or its deadline."""
        if self.is_open:
            self._close(code, reason)

    # From the client

    def parse(self) -> bool:
        """Pass queued and new messages to the handler, up to the limit of an iteration."""
        self._left_of_turn = MESSAGES_A_TURN
        self._hand_on()
        is_interrupted = super().parse()
        return not self._is_busy and (is_interrupted or self._queue is not None)

    def _has_room(self) -> bool:
        return self._queue is None or (len(self._queue) < QUEUED_MESSAGES and self._queued_bytes < QUEUED_BYTES)

    @property
    def _has_queued(self) -> bool:
        return self._queue is not None

    def _deliver(self, data: bytes, text: str | None) -> None:  # noqa: ARG002 - the interface's
        if not self._is_busy and self._left_of_turn and self._queue is None:
            self._hand(data)
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(data)
        self._queued_bytes += len(data)

    def _hand_on(self) -> None:
        while self._queue is not None and self._left_of_turn and not self._is_busy:
            data = self._queue.popleft()
            self._queued_bytes -= len(data)
            if not self._queue:
                self._queue = None
            self._hand(data)

    def _hand(self, data: bytes) -> None:
        handler = self._handler
        if handler is None:
            return
        self._left_of_turn -= 1
        # Before the call, because the handler may call `ready` within it.
        self._is_busy = self._in_call = True
        try:
            if handler.message(data):
                self._is_busy = False
        except Exception:
            log.exception("websocket_failed")
            self._is_busy = False
            self.close(CloseCode.INTERNAL_ERROR)
        self._in_call = False

    @property
    def held_bytes(self) -> int:
        """Bytes of messages queued for the handler."""
        return self._queued_bytes

    # The end

    def _disconnect(self) -> None:
        self._is_ended = True
        self._end()

    def _stopped(self) -> None:
        """Do nothing: `closed` follows after the client's reply."""

    def _end(self) -> None:
        """Notify the handler of the end, after all messages."""
        if self._in_call:
            return
        self._left_of_turn = len(self._queue or ())
        self._hand_on()
        handler = self._handler
        if handler is None or self._queue is not None:
            return
        self._handler = None
        try:
            handler.closed(self._protocol.close_rcvd is not None)
        except Exception:
            log.exception("websocket_failed")

    def writable(self) -> None:
        """Notify the handler that the write buffer has drained."""
        handler = self._handler
        if handler is not None and self.is_open:
            try:
                handler.writable()
            except Exception:
                log.exception("websocket_failed")
                self.close(CloseCode.INTERNAL_ERROR)
