"""WebSocket served by a `SocketHandler`, in the callbacks of the parser."""

from collections import deque
from typing import TYPE_CHECKING

import structlog
from websockets.frames import CloseCode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from calltag.core.http.response_head import Fields, head_of
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
    from calltag.core.http.direct import SocketHandler

log = structlog.get_logger()


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
