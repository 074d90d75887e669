"""WebSocket served by a task of the ASGI application (ASGI WebSocket 2.3)."""

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import ref

import structlog
from starlette.types import ASGIApp, Message, Scope
from websockets.frames import CloseCode
from websockets.server import ServerProtocol

from calltag.core.http.request_parser import RequestHead
from calltag.core.http.responses import Fields, Refusal, head_of
from calltag.core.http.scope import scope_of
from calltag.core.http.websocket import (
    FRAME_WRITER,
    MESSAGES_A_TURN,
    NOT_OPENED,
    QUEUED_BYTES,
    QUEUED_MESSAGES,
    SWITCHING_PROTOCOLS,
    WebSocket,
    WebSocketState,
)

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection

log = structlog.get_logger()
_CLOSED: Final = "the WebSocket is closed"
_FORBIDDEN: Final = "the WebSocket is not accepted"
_STOPPING: Final = Refusal(503, "this server stops", retry_after_s=1)


class AsgiWebSocket(WebSocket):
    """Queues messages for a task; `_receive` and `_send` are those of ASGI."""

    __slots__ = (
        "__weakref__",
        "_handshake",
        "_is_disconnected",
        "_queue",
        "_queued_bytes",
        "_served",
        "_task",
        "_waiter",
    )

    def __init__(self, connection: "Connection", protocol: ServerProtocol, handshake: Fields) -> None:
        super().__init__(connection, protocol, WebSocketState.OPENING)
        self._handshake = [*handshake]
        """Header fields of the handshake response."""
        self._queue: deque[tuple[Message, int]] = deque([({"type": "websocket.connect"}, 0)])
        """Messages for the application, with their sizes in bytes."""
        self._queued_bytes = 0
        self._served = 0
        """Number of messages that the application received without waiting."""
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
            # Sending to a disconnected client raises in the application.
            if not self._is_disconnected:
                log.exception("websocket_failed")
            self._end(CloseCode.INTERNAL_ERROR, NOT_OPENED)
        else:
            self._end(CloseCode.NORMAL_CLOSURE, NOT_OPENED)

    def _end(self, code: CloseCode, refusal: Refusal) -> None:
        if self._connection.is_closing:
            return
        if self._state is WebSocketState.OPENING:
            self._refuse(refusal.encoded())
        elif self._state is WebSocketState.DECLINING:
            self._refuse(b"")
        elif self._state is WebSocketState.OPEN:
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
        """Parse frames once the application has accepted."""
        return self._state not in {WebSocketState.OPENING, WebSocketState.DECLINING} and super().parse()

    def _has_room(self) -> bool:
        return len(self._queue) < QUEUED_MESSAGES and self._queued_bytes < QUEUED_BYTES

    @property
    def _has_queued(self) -> bool:
        return bool(self._queue)

    def _deliver(self, data: bytes, text: str | None) -> None:
        event: Message = {"type": "websocket.receive"}
        event["bytes" if text is None else "text"] = data if text is None else text
        self._queue.append((event, len(data)))
        self._queued_bytes += len(data)
        self._wake()

    def _disconnect(self) -> None:
        self._is_disconnected = True
        self._wake()

    def _stopped(self) -> None:
        self._disconnect()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def shut_down(self) -> None:
        """Close with code 1012; before the handshake, cancel the application."""
        super().shut_down()
        if self._state in {WebSocketState.OPENING, WebSocketState.DECLINING} and self._task is not None:
            self._task.cancel()

    def writable(self) -> None:
        """Do nothing: the task waits for the write buffer itself."""

    def give_up(self) -> None:
        """Do nothing: the server cancels its tasks."""

    @property
    def held_bytes(self) -> int:
        """Bytes of messages queued for the application."""
        return self._queued_bytes

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
        if self._served >= MESSAGES_A_TURN:
            self._served = 0
            await asyncio.sleep(0)
        return message

    async def _send(self, message: Message) -> None:
        if self._state in {WebSocketState.OPENING, WebSocketState.DECLINING}:
            self._open(message)
            return
        if self._state is WebSocketState.CLOSING or self._connection.is_closing:
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
            case "websocket.accept" if self._state is WebSocketState.OPENING:
                self._accept(message)
            case "websocket.close" if self._state is WebSocketState.OPENING:
                self._refuse(Refusal(403, message.get("reason") or _FORBIDDEN).encoded())
            case "websocket.http.response.start" if self._state is WebSocketState.OPENING:
                self._state = WebSocketState.DECLINING
                fields = [*message.get("headers", ()), (b"connection", b"close")]
                self._connection.write(head_of(message["status"], fields))
            case "websocket.http.response.body" if self._state is WebSocketState.DECLINING:
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
        connection.write(head_of(SWITCHING_PROTOCOLS, [*fields, *message.get("headers", ())]))
        self._state = WebSocketState.OPEN
        connection.expect(connection.server.limits.ping_interval_s)
        if connection.unparsed:
            connection.work_soon()

    def _refuse(self, answer: bytes) -> None:
        self._connection.write(answer)
        self._disconnect()
        self._connection.close(linger=True)


def _write_frame(socket: "ref[AsgiWebSocket]", frame: bytes, *, one_of_many: bool = False) -> bool:
    """Implements FrameWriter by a weak reference: a cycle would wait for the garbage collector."""
    found = socket()
    return found is not None and found.write_frame(frame, one_of_many=one_of_many)
