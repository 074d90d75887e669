"""Exchange served by a task of the ASGI application (ASGI HTTP 2.3)."""

import asyncio
from typing import TYPE_CHECKING, Final

import structlog
from starlette.types import ASGIApp, Message

from calltag.core.http.exchange import CONTINUE, CUT_OFF, FAILED, Exchange, IncomingBody
from calltag.core.http.refusals import Refusal
from calltag.core.http.request_parser import RequestHead
from calltag.core.http.response_head import WITHOUT_BODY, Fields, date_line, response_lines
from calltag.core.http.scope import scope_of

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection
    from calltag.core.http.http1 import Http1

log = structlog.get_logger()
_BODY_BYTES: Final = 65_536
"""Buffered bytes of a body at which reading pauses."""
_WRITE_BYTES: Final = 65_536
"""Bytes of a response that are written between two waits for the write buffer."""


class AsgiExchange(Exchange):
    """A request and its response; `_receive` and `_send` are those of ASGI."""

    __slots__ = (
        "_body",
        "_declared",
        "_fields",
        "_is_chunked",
        "_is_delivered",
        "_is_disconnected",
        "_is_started",
        "_status",
        "_task",
        "_waiter",
    )

    def __init__(self, http: "Http1", connection: "Connection", head: RequestHead) -> None:
        super().__init__(http, connection, head)
        self._incoming = self._body = IncomingBody(head, connection.server.limits.max_framing_bytes)
        self._is_delivered = False
        """The application has received the end of the body."""
        self._is_disconnected = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._status = 0
        self._fields: Fields = ()
        self._is_started = False
        """The head of the response is written."""
        self._is_chunked = False
        self._declared: int | None = None
        """Bytes left of the declared Content-Length of the response."""

    def start(self, app: ASGIApp) -> bool:
        """Run the application in a task; returns as `parse` does."""
        self._task = self._connection.server.start_task(self._run(app))
        return self.take_body()

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(scope_of("http", self.head, self._connection), self._receive, self._send)
        except asyncio.CancelledError:
            self._answer_instead(CUT_OFF)
        except Exception:
            log.exception("request_failed")
            self._answer_instead(FAILED)
        else:
            self._answer_instead(FAILED)

    def _answer_instead(self, refusal: Refusal) -> None:
        if not self._is_started:
            super()._answer_instead(refusal)
        elif not self._is_complete:
            self._is_complete = True
            self._connection.close()

    def _abandoned(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def give_up(self) -> None:
        """Do nothing: the server cancels its tasks."""

    # The request

    def _room(self, incoming: IncomingBody) -> int:
        return _BODY_BYTES - len(incoming.received)

    def _body_came(self, incoming: IncomingBody) -> None:  # noqa: ARG002 - the interface's
        self._wake()

    def _half_closed(self) -> None:
        self.disconnect()

    def _cut_short(self) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Send `http.disconnect` to the application."""
        self._is_disconnected = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _receive(self) -> Message:
        body, connection = self._body, self._connection
        while not self._is_complete:
            if body.received or (body.decoder.is_complete and not self._is_delivered):
                return self._take_received()
            if self._is_disconnected or (connection.at_end_of_input and body.decoder.is_complete):
                break
            if body.expects_continue and not self._is_started:
                body.expects_continue = False
                connection.write(CONTINUE)
            self._waiter = connection.loop.create_future()
            await self._waiter
            self._waiter = None
        return {"type": "http.disconnect"}

    def _take_received(self) -> Message:
        body = self._body
        data, body.received = bytes(body.received), bytearray()
        body.expects_continue = False
        self._is_delivered = body.decoder.is_complete
        if not self._is_delivered:
            self._connection.work_soon()
        return {"type": "http.request", "body": data, "more_body": not self._is_delivered}

    # The response

    async def _send(self, message: Message) -> None:
        if self._connection.is_closing:
            return
        if message["type"] == "http.response.start" and not self._status:
            self._status = message["status"]
            self._fields = message.get("headers", ())
        elif message["type"] == "http.response.body" and self._status and not self._is_complete:
            await self._respond(message.get("body", b""), has_more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} is out of order")

    async def _respond(self, body: bytes, *, has_more: bool) -> None:
        connection = self._connection
        head = b"" if self._is_started else self._head_of_response(body, has_more=has_more)
        self._is_started = True
        body = self._framed(body, has_more=has_more)
        if len(body) > _WRITE_BYTES:
            connection.write(head)
            for start in range(0, len(body), _WRITE_BYTES):
                await connection.writable()
                connection.write(body[start : start + _WRITE_BYTES])
        elif head or body:
            connection.write(head + body)
        if not has_more:
            self._is_complete = True
            self._wake()
            self._http.finished(self)
        if not connection.is_writable:
            await connection.writable()

    def _framed(self, body: bytes, *, has_more: bool) -> bytes:
        if self.head.method == "HEAD" or self._status in WITHOUT_BODY:
            return b""
        if self._is_chunked:
            return (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if has_more else b"0\r\n\r\n")
        if self._declared is not None:
            self._declared -= len(body)
            if self._declared < 0 or (self._declared and not has_more):
                self._connection.close()
                raise RuntimeError("the body of the response is not as long as its Content-Length says")
        return body

    def _head_of_response(self, body: bytes, *, has_more: bool) -> bytes:
        fields = []
        has_date = False
        for mixed, value in self._fields:
            name = mixed.lower()
            has_date = has_date or name == b"date"
            if name == b"connection":
                self.keeps_alive = self.keeps_alive and b"close" not in value.lower()
            elif name == b"content-length":
                self._declared = int(value)
                fields.append((name, value))
            elif name != b"transfer-encoding":
                fields.append((name, value))
        if self._declared is None and self._status not in WITHOUT_BODY:
            if not has_more:
                self._declared = len(body)
                fields.append((b"content-length", b"%d" % len(body)))
            elif self.head.version == "1.1":
                self._is_chunked = True
                fields.append((b"transfer-encoding", b"chunked"))
            else:
                self.keeps_alive = False
        date = b"" if has_date else date_line()
        return response_lines(self._status, fields) + date + self._end_of_head()
