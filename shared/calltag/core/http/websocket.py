"""WebSocket on a connection (RFC 6455): frames by websockets' sans-I/O protocol, messages for an ASGI application."""

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Mapping
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import ref

import structlog
from starlette.types import ASGIApp, Message, Scope
from websockets.datastructures import Headers
from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from calltag.core.http.refusals import Refusal, head_of
from calltag.core.http.request_parser import Limit, RequestHead
from calltag.core.http.scope import scope_of

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection

log = structlog.get_logger()
_SLICE_BYTES: Final = 1_024
_FRAMES_A_TURN: Final = 200
"""Frames of one connection after which the others have their turn."""
_QUEUED_MESSAGES: Final = 16
_QUEUED_BYTES: Final = 65_536
"""Messages that wait for the application, by number and bytes, before the client is read no further."""
_MESSAGES_A_TURN: Final = 16
_BURST_S: Final = 10
_REASON_BYTES: Final = 123
_SWITCHING_PROTOCOLS: Final = 101
_CLOSED: Final = "the WebSocket is closed"
_FORBIDDEN: Final = "the WebSocket is not accepted"
_NOT_OPENED: Final = Refusal(500, "the WebSocket was not opened because of an internal error")
_STOPPING: Final = Refusal(503, "this server stops", retry_after_s=1)
_OVERLOADED: Final = "the server holds as many unserved bytes as it may; try again later"
_CONTROL: Final = frozenset({Opcode.PING, Opcode.PONG})
_quiet = logging.getLogger("calltag.websockets")
_quiet.setLevel(logging.CRITICAL)


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


def upgrade(connection: "Connection", head: RequestHead, app: ASGIApp) -> bool:
    """Make the connection a WebSocket if its handshake is valid; returns as `parse` does."""
    handshake = Request(head.path.decode("ascii"), Headers(_text(head)))
    protocol = ServerProtocol(
        extensions=connection.server.websocket_extensions,
        max_size=connection.server.max_message_bytes,
        state=OPEN,
        logger=_quiet,
    )
    response = protocol.accept(handshake)
    if response.status_code != _SWITCHING_PROTOCOLS:
        connection.server.refused(Limit.MALFORMED)
        connection.write(_refusal_of(handshake, response).encoded())
        connection.close(linger=True)
        return False
    socket = WebSocket(connection, protocol, response)
    connection.protocol = socket
    socket.start(app, head)
    return False


def _text(head: RequestHead) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]


def _refusal_of(handshake: Request, response: Response) -> Refusal:
    versions = handshake.headers.get_all("Sec-WebSocket-Version")
    if versions != ["13"]:
        return Refusal(426, "the only version of WebSocket that is served here is 13")
    return Refusal(400, f"the WebSocket handshake is not valid: {bytes(response.body or b'').decode().strip()}")


class _State(Enum):
    OPENING = auto()
    """The application has not accepted it yet."""
    DECLINING = auto()
    """The application sends a response of its own instead."""
    OPEN = auto()
    CLOSING = auto()
    """A close frame was sent."""


class WebSocket:
    """Implements ConnectionProtocol; `receive` and `send` are those of ASGI."""

    __slots__ = (
        "__weakref__",
        "_connection",
        "_control_at",
        "_control_left",
        "_handshake",
        "_is_binary",
        "_is_disconnected",
        "_is_pinged",
        "_message",
        "_message_frames",
        "_protocol",
        "_queue",
        "_queued_bytes",
        "_served",
        "_silent",
        "_state",
        "_task",
        "_waiter",
    )

    def __init__(self, connection: "Connection", protocol: ServerProtocol, response: Response) -> None:
        self._connection = connection
        self._protocol = protocol
        self._handshake = [(name.encode(), value.encode()) for name, value in response.headers.raw_items()]
        """Fields of the response to the handshake."""
        self._state = _State.OPENING
        self._message: list[bytes] = []
        self._message_frames = 0
        self._is_binary = False
        self._queue: deque[tuple[Message, int]] = deque([({"type": "websocket.connect"}, 0)])
        """Messages for the application, with their sizes in bytes."""
        self._queued_bytes = 0
        self._served = 0
        """Messages that the application got without waiting."""
        self._control_left = float(_BURST_S * connection.server.limits.max_control_frames_per_s)
        self._control_at = connection.loop.time()
        self._silent = True
        self._is_pinged = False
        self._is_disconnected = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, app: ASGIApp, head: RequestHead) -> None:
        """Run the application in a task."""
        self._task = self._connection.server.start_task(self._run(app, self._scope(head)))

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            self._end(CloseCode.SERVICE_RESTART, _STOPPING)
        except Exception:
            # To a client that has disconnected, an application cannot send.
            if not self._is_disconnected:
                log.exception("websocket_failed")
            self._end(CloseCode.INTERNAL_ERROR, _NOT_OPENED)
        else:
            self._end(CloseCode.NORMAL_CLOSURE, _NOT_OPENED)

    def _end(self, code: CloseCode, refusal: Refusal) -> None:
        if self._connection.is_closing:
            return
        if self._state is _State.OPENING:
            self._refuse(refusal.encoded())
        elif self._state is _State.DECLINING:
            self._refuse(b"")
        elif self._state is _State.OPEN:
            self._close(code, "")

    def _scope(self, head: RequestHead) -> Scope:
        scope = scope_of("websocket", head, self._connection)
        del scope["method"]
        scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
        offered = b",".join(value for name, value in head.headers if name == b"sec-websocket-protocol").decode(
            "latin-1"
        )
        scope["subprotocols"] = [name.strip() for name in offered.split(",") if name.strip()]
        scope["state"] = {FRAME_WRITER: partial(_write_frame, ref(self))}
        scope["extensions"] = {"websocket.http.response": {}}
        return scope

    # From the client

    def parse(self) -> bool:
        """Take frames, as many as one turn allows, while the application and the client keep pace."""
        connection, frames = self._connection, 0
        if self._state in {_State.OPENING, _State.DECLINING}:
            return False
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
        return (
            self._connection.is_writable
            and not self._connection.is_closing
            and len(self._queue) < _QUEUED_MESSAGES
            and self._queued_bytes < _QUEUED_BYTES
        )

    def _take(self, frame: Frame) -> None:
        if self._state is _State.CLOSING or frame.opcode is Opcode.CLOSE:
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
            self._fail(CloseCode.POLICY_VIOLATION, text, Limit.FRAMES_PER_MESSAGE)

    def _complete(self) -> None:
        data = b"".join(self._message)
        self._message = []
        self._message_frames = 0
        try:
            event: Message = {"type": "websocket.receive"}
            event["bytes" if self._is_binary else "text"] = data if self._is_binary else data.decode()
        except UnicodeDecodeError:
            # RFC 6455, 8.1.
            self._fail(CloseCode.INVALID_DATA, "the text is not UTF-8", Limit.MALFORMED)
            return
        self._queue.append((event, len(data)))
        self._queued_bytes += len(data)
        self._wake()

    def _count_control_frame(self) -> None:
        rate = self._connection.server.limits.max_control_frames_per_s
        now = self._connection.loop.time()
        self._control_left = min(_BURST_S * rate, self._control_left + (now - self._control_at) * rate) - 1
        self._control_at = now
        if self._control_left < 0:
            text = f"{rate} control frames a second are taken (CALLTAG_HTTP__MAX_CONTROL_FRAMES_PER_S)"
            self._fail(CloseCode.POLICY_VIOLATION, text, Limit.CONTROL_FRAMES)

    def _react(self) -> None:
        """Send what the protocol has to say, and follow it where it ends the connection."""
        if self._state is _State.OPEN and self._protocol.state is not OPEN:
            self._state = _State.CLOSING
            error = self._protocol.parser_exc
            if error is not None:
                is_size = isinstance(error, PayloadTooBig)
                self._connection.server.refused(Limit.MESSAGE_BYTES if is_size else Limit.MALFORMED)
            self._disconnect()
        for data in self._protocol.data_to_send():
            if data:
                self._connection.write(data)
            else:
                self._connection.close(linger=True)

    def _fail(self, code: CloseCode, reason: str, limit: Limit) -> None:
        self._connection.server.refused(limit)
        self._protocol.fail(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))
        self._state = _State.CLOSING
        self._disconnect()
        self._react()

    def _disconnect(self) -> None:
        self._is_disconnected = True
        self._message = []
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Events of the connection

    def expire(self) -> None:
        """Ask a silent client for a sign of life, or give up waiting for one."""
        limits = self._connection.server.limits
        if self._state is not _State.OPEN:
            self._connection.close()
        elif not self._silent or self._is_read_late():
            self._silent, self._is_pinged = True, False
            self._connection.expect(limits.ping_interval_s)
        elif self._is_pinged:
            self._fail(CloseCode.INTERNAL_ERROR, "no pong came in time", Limit.PONG_DEADLINE)
        else:
            self._is_pinged = True
            self._protocol.send_ping(b"")
            self._react()
            self._connection.expect(limits.pong_deadline_s)

    def _is_read_late(self) -> bool:
        """Whether a pong may have come that is not parsed yet, as the application is slow."""
        return bool(self._queue) or not self._connection.is_reading or self._connection.unparsed > 0

    def end_of_input(self) -> bool:
        """A WebSocket ends with either of its directions, once all that came is parsed."""
        if self._state is _State.OPEN and self._connection.unparsed:
            self._connection.work_soon()
            return True
        self._end_input()
        return False

    def _end_input(self) -> None:
        self._protocol.receive_eof()
        self._state = _State.CLOSING
        self._disconnect()
        self._connection.close()

    def lost(self) -> None:
        """Let the application notice."""
        self._disconnect()
        # A generator that holds the protocol that holds it.
        self._protocol.parser.close()

    def shut_down(self) -> None:
        """Ask the client to come back."""
        if self._state is _State.OPEN:
            self._close(CloseCode.SERVICE_RESTART, "")
            self._disconnect()
        elif self._state in {_State.OPENING, _State.DECLINING} and self._task is not None:
            self._task.cancel()

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for the application."""
        return self._queued_bytes

    def turn_away(self) -> None:
        """End because the server holds too much."""
        if self._state is _State.OPEN:
            self._close(CloseCode.TRY_AGAIN_LATER, _OVERLOADED)
            self._disconnect()

    # From the application

    async def _receive(self) -> Message:
        while not self._queue:
            if self._is_disconnected:
                received = self._protocol.close_rcvd
                code = CloseCode.ABNORMAL_CLOSURE if received is None else received.code
                return {"type": "websocket.disconnect", "code": code, "reason": received.reason if received else ""}
            self._waiter = self._connection.loop.create_future()
            await self._waiter
            self._waiter = None
            self._served = 0
        message, size = self._queue.popleft()
        self._queued_bytes -= size
        self._served += 1
        if self._connection.unparsed:
            self._connection.work_soon()
        if self._served >= _MESSAGES_A_TURN:
            self._served = 0
            await asyncio.sleep(0)
        return message

    async def _send(self, message: Message) -> None:
        if self._state in {_State.OPENING, _State.DECLINING}:
            self._open(message)
            return
        if self._state is _State.CLOSING or self._connection.is_closing:
            raise OSError(_CLOSED)
        if message["type"] == "websocket.send":
            text = message.get("text")
            if text is not None:
                self._protocol.send_text(text.encode())
            else:
                self._protocol.send_binary(message["bytes"])
            self._react()
            if not self._connection.is_writable:
                await self._connection.writable()
        elif message["type"] == "websocket.close":
            self._close(message.get("code", CloseCode.NORMAL_CLOSURE), message.get("reason") or "")
        else:
            raise RuntimeError(f"{message['type']} is out of order")

    def _open(self, message: Message) -> None:
        if self._connection.is_closing:
            raise OSError(_CLOSED)
        match message["type"]:
            case "websocket.accept" if self._state is _State.OPENING:
                self._accept(message)
            case "websocket.close" if self._state is _State.OPENING:
                self._refuse(Refusal(403, message.get("reason") or _FORBIDDEN).encoded())
            case "websocket.http.response.start" if self._state is _State.OPENING:
                self._state = _State.DECLINING
                fields = [*message.get("headers", ()), (b"connection", b"close")]
                self._connection.write(head_of(message["status"], fields))
            case "websocket.http.response.body" if self._state is _State.DECLINING:
                self._connection.write(message.get("body", b""))
                if not message.get("more_body", False):
                    self._refuse(b"")
            case kind:
                raise RuntimeError(f"{kind} is out of order")

    def _accept(self, message: Message) -> None:
        fields, self._handshake = self._handshake, []
        if message.get("subprotocol"):
            fields.append((b"sec-websocket-protocol", message["subprotocol"].encode()))
        connection = self._connection
        connection.write(head_of(_SWITCHING_PROTOCOLS, [*fields, *message.get("headers", ())]))
        self._state = _State.OPEN
        connection.expect(connection.server.limits.ping_interval_s)
        if connection.unparsed:
            connection.work_soon()

    def _refuse(self, answer: bytes) -> None:
        self._connection.write(answer)
        self._disconnect()
        self._connection.close(linger=True)

    def _close(self, code: int, reason: str) -> None:
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))
        self._state = _State.CLOSING
        self._react()
        self._connection.expect(self._connection.server.limits.close_deadline_s)

    def write_frame(self, frame: bytes, *, one_of_many: bool) -> bool:
        """Implements FrameWriter; frames that are compressed are made by the protocol."""
        connection = self._connection
        if (
            self._state is not _State.OPEN
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


def _write_frame(socket: "ref[WebSocket]", frame: bytes, *, one_of_many: bool = False) -> bool:
    """A writer that does not keep its connection alive: a cycle would wait for the garbage collector."""
    found = socket()
    return found is not None and found.write_frame(frame, one_of_many=one_of_many)
