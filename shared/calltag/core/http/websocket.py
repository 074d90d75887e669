"""WebSocket on a connection (RFC 6455): frames by websockets' sans-I/O protocol, under limits, for those who serve."""

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

from calltag.core.http.refusals import Refusal
from calltag.core.http.request_parser import RequestLimit

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection

_SLICE_BYTES: Final = 1_024
_FRAMES_A_TURN: Final = 200
"""Frames of one connection after which the others have their turn."""
MESSAGES_A_TURN: Final = 16
"""Messages of one connection after which the others have their turn."""
QUEUED_MESSAGES: Final = 16
QUEUED_BYTES: Final = 65_536
"""Messages that wait to be served, by number and bytes, before the client is read no further."""
SWITCHING_PROTOCOLS: Final = 101
_BURST_S: Final = 10
_REASON_BYTES: Final = 123
_OVERLOADED: Final = "the server holds as many unserved bytes as it may; try again later"
_CONTROL: Final = frozenset({Opcode.PING, Opcode.PONG})
NOT_OPENED: Final = Refusal(500, "the WebSocket was not opened because of an internal error")
quiet: Final = logging.getLogger("calltag.websockets")
quiet.setLevel(logging.CRITICAL)


class FrameWriter(Protocol):
    """Writes a whole frame to a connection at once; False, and nothing was written, if that is not possible now.

    `one_of_many` says that other connections are written to as well, and this one but once for now.
    """

    def __call__(self, frame: bytes, *, one_of_many: bool = False) -> bool: ...


FRAME_WRITER: Final = "calltag.frame_writer"
"""Key of a connection's FrameWriter in the `state` of its ASGI scope."""
_FINAL_TEXT: Final = 0x81
_SHORT, _MEDIUM = 126, 1 << 16
_TWO_BYTES, _EIGHT_BYTES = 126, 127


def text_frame(text: bytes) -> bytes:
    """Return a server's frame with a whole text message, uncompressed (RFC 6455, 5.2)."""
    size = len(text)
    if size < _SHORT:
        return struct.pack("!BB", _FINAL_TEXT, size) + text
    if size < _MEDIUM:
        return struct.pack("!BBH", _FINAL_TEXT, _TWO_BYTES, size) + text
    return struct.pack("!BBQ", _FINAL_TEXT, _EIGHT_BYTES, size) + text


def frame_writer_of(scope: Mapping[str, Any]) -> FrameWriter | None:
    """Return the writer of the connection with that ASGI scope, if there is one."""
    writer: FrameWriter | None = scope.get("state", {}).get(FRAME_WRITER)
    return writer


class WebSocketState(Enum):
    OPENING = auto()
    """The application has not accepted it yet."""
    DECLINING = auto()
    """The application sends a response of its own instead."""
    OPEN = auto()
    CLOSING = auto()
    """A close frame was sent."""


class WebSocket(ABC):
    """Common base of the WebSockets (implements ConnectionProtocol)."""

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

    # For those who serve

    @abstractmethod
    def _deliver(self, data: bytes, text: str | None) -> None:
        """A message is whole; `text` is None where it is binary."""

    @abstractmethod
    def _has_room(self) -> bool:
        """Whether further messages are taken."""

    @property
    @abstractmethod
    def _has_queued(self) -> bool:
        """Whether messages wait to be served."""

    @abstractmethod
    def _disconnect(self) -> None:
        """No further messages come, since the client or an error has ended it; may be called more than once."""

    @abstractmethod
    def _stopped(self) -> None:
        """The server has begun to close it."""

    # From the client

    def parse(self) -> bool:
        """Take frames, as many as one turn allows, while those who serve and the client keep pace."""
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
            # RFC 6455, 8.1.
            self._fail(CloseCode.INVALID_DATA, "the text is not UTF-8", RequestLimit.MALFORMED)
            return
        self._deliver(data, text)

    def _count_control_frame(self) -> None:
        rate = self._connection.server.limits.max_control_frames_per_s
        now = self._connection.loop.time()
        self._control_left = min(_BURST_S * rate, self._control_left + (now - self._control_at) * rate) - 1
        self._control_at = now
        if self._control_left < 0:
            text = f"{rate} control frames a second are taken (CALLTAG_HTTP__MAX_CONTROL_FRAMES_PER_S)"
            self._fail(CloseCode.POLICY_VIOLATION, text, RequestLimit.CONTROL_FRAMES)

    def _react(self) -> None:
        """Send what the protocol has to say, and follow it where it ends the connection."""
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
        """Ask a silent client for a sign of life, or give up waiting for one."""
        limits = self._connection.server.limits
        if self._state is not WebSocketState.OPEN:
            self._connection.close()
        elif not self._silent or self._is_read_late():
            self._silent, self._is_pinged = True, False
            self._connection.expect(limits.ping_interval_s)
        elif self._is_pinged:
            self._fail(CloseCode.INTERNAL_ERROR, "no pong came in time", RequestLimit.PONG_DEADLINE)
        else:
            self._is_pinged = True
            self._protocol.send_ping(b"")
            self._react()
            self._connection.expect(limits.pong_deadline_s)

    def _is_read_late(self) -> bool:
        """Whether a pong may have come that is not parsed yet, as those who serve are slow."""
        return self._has_queued or not self._connection.is_reading or self._connection.unparsed > 0

    def end_of_input(self) -> bool:
        """A WebSocket ends with either of its directions, once all that came is parsed."""
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
        """Let those who serve notice."""
        self._state = WebSocketState.CLOSING
        self._end_messages()
        # A generator that holds the protocol that holds it, and an error whose traceback does.
        self._protocol.parser.close()
        self._protocol.parser_exc = None

    def shut_down(self) -> None:
        """Ask the client to come back."""
        if self._state is WebSocketState.OPEN:
            self._close(CloseCode.SERVICE_RESTART, "")
            self._stopped()

    @abstractmethod
    def writable(self) -> None:
        """The client has read enough of what was written to it."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """Bytes that wait to be served."""

    def give_up(self) -> None:
        """Close without waiting for the client any longer."""
        self._connection.close()

    def turn_away(self) -> None:
        """End because the server holds too much."""
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
        """Implements FrameWriter; frames that are compressed are made by the protocol."""
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
