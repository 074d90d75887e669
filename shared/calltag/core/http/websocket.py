"""WebSocket on a connection (RFC 6455): the sans-I/O protocol of `websockets`, with limits and backpressure."""

import logging
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Protocol

from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from calltag.core.http.request_parser import RequestLimit
from calltag.core.http.responses import Refusal

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection

_SLICE_BYTES: Final = 1_024
_FRAMES_A_TURN: Final = 200
"""Maximum number of frames of one connection in one iteration of the event loop."""
MESSAGES_A_TURN: Final = 16
"""Maximum number of messages of one connection in one iteration of the event loop."""
QUEUED_MESSAGES: Final = 16
QUEUED_BYTES: Final = 65_536
"""Queued messages, by number and bytes, at which reading pauses."""
SWITCHING_PROTOCOLS: Final = 101
_BURST_S: Final = 10
_REASON_BYTES: Final = 123
_OVERLOADED: Final = "the server holds as many unserved bytes as it may; try again later"
_CONTROL: Final = frozenset({Opcode.PING, Opcode.PONG})
NOT_OPENED: Final = Refusal(500, "the WebSocket was not opened because of an internal error")
quiet: Final = logging.getLogger("calltag.websockets")
quiet.setLevel(logging.CRITICAL)
FRAME_WRITER: Final = "calltag.frame_writer"
"""Key of the connection's FrameWriter in the `state` of its ASGI scope."""
_FINAL_TEXT: Final = 0x81


class FrameWriter(Protocol):
    """Writes a whole frame to a connection at once; returns False, with nothing written, if that is impossible now.

    `one_of_many`: this is the connection's only write in a fan-out to several connections, so it is not corked.
    """

    def __call__(self, frame: bytes, *, one_of_many: bool = False) -> bool: ...


_SHORT, _MEDIUM = 126, 1 << 16
_TWO_BYTES, _EIGHT_BYTES = 126, 127


def text_frame(text: bytes) -> bytes:
    """Return an unmasked, uncompressed frame with a whole text message (RFC 6455, 5.2)."""
    size = len(text)
    if size < _SHORT:
        return struct.pack("!BB", _FINAL_TEXT, size) + text
    if size < _MEDIUM:
        return struct.pack("!BBH", _FINAL_TEXT, _TWO_BYTES, size) + text
    return struct.pack("!BBQ", _FINAL_TEXT, _EIGHT_BYTES, size) + text


def frame_writer_of(scope: Mapping[str, Any]) -> FrameWriter | None:
    """Return the FrameWriter in an ASGI scope, if there is one."""
    writer: FrameWriter | None = scope.get("state", {}).get(FRAME_WRITER)
    return writer


class WebSocketState(Enum):
    OPENING = auto()
    """The application has not accepted the WebSocket."""
    DECLINING = auto()
    """The application sends an HTTP response instead."""
    OPEN = auto()
    CLOSING = auto()
    """A close frame was sent."""


class WebSocket(ABC):
    """Base of WebSockets: frames, limits, keep-alive pings and close (implements ConnectionProtocol)."""

    __slots__ = (
        "_connection",
        "_control_at",
        "_control_left",
        "_is_binary",
        "_is_pinged",
        "_message",
        "_message_frames",
        "_protocol",
        "_silent",
        "_state",
    )

    def __init__(self, connection: "Connection", protocol: ServerProtocol, state: WebSocketState) -> None:
        self._connection = connection
        self._protocol = protocol
        self._state = state
        self._message: list[bytes] = []
        self._message_frames = 0
        self._is_binary = False
        self._control_left = float(_BURST_S * connection.server.limits.max_control_frames_per_s)
        self._control_at = connection.loop.time()
        self._silent = True
        self._is_pinged = False

    # Hooks of the handlers

    @abstractmethod
    def _deliver(self, data: bytes, text: str | None) -> None:
        """Serve or queue a whole message; `text` is None if it is binary."""

    @abstractmethod
    def _has_room(self) -> bool:
        """Return whether the queue accepts further messages."""

    @property
    @abstractmethod
    def _has_queued(self) -> bool:
        """Return whether messages wait to be served."""

    @abstractmethod
    def _disconnect(self) -> None:
        """React to the end of the input, by the client or by an error; may be called more than once."""

    @abstractmethod
    def _stopped(self) -> None:
        """React to a close that the server has begun."""

    # From the client

    def parse(self) -> bool:
        """Parse frames up to the limit of an iteration, while neither the queue nor the write buffer is full."""
        connection, frames = self._connection, 0
        data, position = connection.data, connection.at
        while position < len(data) and frames < _FRAMES_A_TURN and self._may_read():
            part = data[position : position + _SLICE_BYTES]
            position += len(part)
            self._silent = False
            self._protocol.receive_data(part)
            for frame in self._protocol.events_received():
                frames += 1
                if isinstance(frame, Frame):
                    self._take(frame)
            self._react()
        if not connection.is_closing:
            connection.parsed(position)
            if connection.at_end_of_input and not connection.unparsed:
                self._end_input()
        return frames >= _FRAMES_A_TURN and bool(connection.unparsed)

    def _may_read(self) -> bool:
        return self._connection.is_writable and not self._connection.is_closing and self._has_room()

    def _take(self, frame: Frame) -> None:
        if self._state is WebSocketState.CLOSING or frame.opcode is Opcode.CLOSE:
            return
        if frame.opcode in _CONTROL:
            self._count_control_frame()
            return
        if frame.opcode is not Opcode.CONT:
            self._is_binary = frame.opcode is Opcode.BINARY
        if frame.data:
            self._message.append(bytes(frame.data))
        self._message_frames += 1
        most = self._connection.server.limits.max_frames_per_message
        if frame.fin:
            self._complete()
        elif self._message_frames >= most:
            text = f"a message may consist of {most} frames (CALLTAG_HTTP__MAX_FRAMES_PER_MESSAGE)"
            self._fail(CloseCode.POLICY_VIOLATION, text, RequestLimit.FRAMES_PER_MESSAGE)

    def _complete(self) -> None:
        data = b"".join(self._message)
        self._message.clear()
        self._message_frames = 0
        try:
            text = None if self._is_binary else data.decode()
        except UnicodeDecodeError:
            # RFC 6455, 8.1, demands it.
            self._fail(CloseCode.INVALID_DATA, "the text is not UTF-8", RequestLimit.MALFORMED)
            return
        self._deliver(data, text)

    def _count_control_frame(self) -> None:
        rate = self._connection.server.limits.max_control_frames_per_s
        now = self._connection.loop.time()
        self._control_left = min(_BURST_S * rate, self._control_left + (now - self._control_at) * rate) - 1
        self._control_at = now
        if self._control_left < 0:
            text = f"{rate} control frames a second are accepted (CALLTAG_HTTP__MAX_CONTROL_FRAMES_PER_S)"
            self._fail(CloseCode.POLICY_VIOLATION, text, RequestLimit.CONTROL_FRAMES)

    def _react(self) -> None:
        """Write the output of the protocol, and close the connection where the protocol has ended it."""
        if self._state is WebSocketState.OPEN and self._protocol.state is not OPEN:
            self._state = WebSocketState.CLOSING
            error = self._protocol.parser_exc
            if error is not None:
                is_size = isinstance(error, PayloadTooBig)
                self._connection.server.refused(RequestLimit.MESSAGE_BYTES if is_size else RequestLimit.MALFORMED)
            self._end_messages()
        for data in self._protocol.data_to_send():
            if data:
                self._connection.write(data)
            else:
                self._connection.close(linger=True)
                self._end_messages()

    def _fail(self, code: CloseCode, reason: str, limit: RequestLimit) -> None:
        self._connection.server.refused(limit)
        self._protocol.fail(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))
        self._state = WebSocketState.CLOSING
        self._end_messages()
        self._react()

    def _end_messages(self) -> None:
        self._message.clear()
        self._disconnect()

    # Events of the connection

    def expire(self) -> None:
        """Ping a silent client, or close if its pong missed the deadline."""
        limits = self._connection.server.limits
        if self._state is not WebSocketState.OPEN:
            self._connection.close()
        elif not self._silent or self._is_read_late():
            self._silent, self._is_pinged = True, False
            self._connection.expect(limits.ping_interval_s)
        elif self._is_pinged:
            self._fail(CloseCode.INTERNAL_ERROR, "no pong arrived in time", RequestLimit.PONG_DEADLINE)
        else:
            self._is_pinged = True
            self._protocol.send_ping(b"")
            self._react()
            self._connection.expect(limits.pong_deadline_s)

    def _is_read_late(self) -> bool:
        """Return whether a pong may wait unparsed, behind messages that are served slowly."""
        return self._has_queued or not self._connection.is_reading or self._connection.unparsed > 0

    def end_of_input(self) -> bool:
        """Close when all received bytes are parsed: a WebSocket cannot be half-closed."""
        if self._state is WebSocketState.OPEN and self._connection.unparsed:
            self._connection.work_soon()
            return True
        self._end_input()
        return False

    def _end_input(self) -> None:
        self._protocol.receive_eof()
        self._state = WebSocketState.CLOSING
        self._end_messages()
        self._connection.close()

    def lost(self) -> None:
        """End the messages, and break reference cycles."""
        self._state = WebSocketState.CLOSING
        self._end_messages()
        # The protocol's generator, and the traceback of its error, refer to the protocol.
        self._protocol.parser.close()
        self._protocol.parser_exc = None

    def shut_down(self) -> None:
        """Close with code 1012, so that the client reconnects."""
        if self._state is WebSocketState.OPEN:
            self._close(CloseCode.SERVICE_RESTART, "")
            self._stopped()

    @abstractmethod
    def writable(self) -> None:
        """Continue writing: the write buffer has drained."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """Bytes of queued messages."""

    def give_up(self) -> None:
        """Close without waiting for the client's close frame."""
        self._connection.close()

    def turn_away(self) -> None:
        """Close with code 1013: the server holds too many bytes."""
        if self._state is WebSocketState.OPEN:
            self._close(CloseCode.TRY_AGAIN_LATER, _OVERLOADED)
            self._stopped()

    # To the client

    def _close(self, code: int, reason: str) -> None:
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))
        self._state = WebSocketState.CLOSING
        self._react()
        self._connection.expect(self._connection.server.limits.close_deadline_s)

    def write_frame(self, frame: bytes, *, one_of_many: bool) -> bool:
        """Implements FrameWriter; with an extension (compression) only the protocol can make frames."""
        connection = self._connection
        if (
            self._state is not WebSocketState.OPEN
            or self._protocol.extensions
            or not connection.is_writable
            or connection.is_closing
        ):
            return False
        if one_of_many:
            connection.write_now(frame)
        else:
            connection.write(frame)
        return True
