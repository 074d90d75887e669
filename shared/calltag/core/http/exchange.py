"""One request and its response, by either kind of handler: flow control of the body, and keep-alive."""

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import structlog
from starlette.types import ASGIApp, Message

from calltag.core.http.request_parser import LengthBody, RequestHead, body_of
from calltag.core.http.responses import WITHOUT_BODY, Fields, Refusal, date_line, response_lines
from calltag.core.http.scope import scope_of

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection
    from calltag.core.http.http1 import Http1

_UNREAD_BODY_BYTES: Final = 65_536
"""Maximum bytes of an unread body that are dropped to keep the connection alive."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
FAILED: Final = Refusal(500, "the request was not answered because of an internal error")
CUT_OFF: Final = Refusal(
    503, "this server stopped before the request was answered; whether it took effect is not known", retry_after_s=1
)
log = structlog.get_logger()
_BODY_BYTES: Final = 65_536
"""Buffered bytes of a body at which reading pauses."""
_WRITE_BYTES: Final = 65_536
"""Bytes of a response that are written between two waits for the write buffer."""


class IncomingBody:
    """A body that is being received: the bytes that wait to be served, and the decoder of the rest."""

    __slots__ = ("decoder", "dropped", "expects_continue", "received")

    def __init__(self, head: RequestHead, max_framing_bytes: int) -> None:
        self.decoder = body_of(head, max_framing_bytes)
        self.received = bytearray()
        self.dropped = 0
        self.expects_continue = head.expects_continue

    def drop_received(self) -> None:
        """Drop the received bytes of a body that is not read."""
        self.dropped += len(self.received)
        self.received.clear()


class Exchange(ABC):
    """Base of exchanges; `_incoming` is None if the whole request was received."""

    __slots__ = ("_connection", "_http", "_incoming", "_is_complete", "head", "keeps_alive")

    def __init__(self, http: "Http1", connection: "Connection", head: RequestHead) -> None:
        self._http = http
        self._connection = connection
        self.head = head
        self._incoming: IncomingBody | None = None
        self._is_complete = False
        """The whole response is written."""
        self.keeps_alive = head.keep_alive
        """The connection stays open after the response."""

    def close_after(self) -> None:
        """Close the connection after the response."""
        self.keeps_alive = False

    # Hooks of the handlers

    @abstractmethod
    def _room(self, incoming: IncomingBody) -> int:
        """Return the number of bytes of the body that fit into the buffer."""

    @abstractmethod
    def _body_came(self, incoming: IncomingBody) -> None:
        """React to received bytes of the body."""

    @abstractmethod
    def _half_closed(self) -> None:
        """React to a client that has closed its sending side after the whole request, and can still read."""

    @abstractmethod
    def _cut_short(self) -> None:
        """React to the end of the input within the body."""

    @abstractmethod
    def _abandoned(self) -> None:
        """React to a response by the server itself."""

    @abstractmethod
    def disconnect(self) -> None:
        """React to the loss of the connection."""

    @abstractmethod
    def give_up(self) -> None:
        """React to the end of the server's drain timeout."""

    def expire(self) -> None:
        """React to a body that missed its deadline."""
        self._connection.close()

    # The request

    @property
    def is_body_complete(self) -> bool:
        """Return whether the whole request was received."""
        return self._incoming is None or self._incoming.decoder.is_complete

    @property
    def held_bytes(self) -> int:
        """Bytes of the body that wait to be served."""
        return 0 if self._incoming is None else len(self._incoming.received)

    def take_body(self) -> bool:
        """Consume the body's bytes of the connection; implements `parse`."""
        connection, incoming, is_unread = self._connection, self._incoming, self._is_complete
        if incoming is None:
            return False
        if is_unread:
            incoming.drop_received()
        decoder = incoming.decoder
        room = _UNREAD_BODY_BYTES if is_unread else self._room(incoming)
        if decoder.is_complete or room <= 0:
            return False
        before = connection.unparsed
        if before:
            connection.parsed(decoder.feed(connection.data, connection.at, room, incoming.received))
            if not is_unread:
                self._body_came(incoming)
        if is_unread:
            self._drop(incoming)
        elif not self._is_complete and connection.at_end_of_input and not self.is_body_complete:
            self._end_input(before)
        return decoder.is_interrupted

    def _end_input(self, before: int) -> None:
        """Handle the end of the input within the body, once only an incomplete framing line is unparsed."""
        if self._connection.unparsed in {0, before}:
            self._cut_short()

    def _drop(self, incoming: IncomingBody) -> None:
        incoming.drop_received()
        if incoming.decoder.is_complete:
            self._http.finished(self)
        elif incoming.dropped > _UNREAD_BODY_BYTES:
            self._connection.close(linger=True)

    def end_of_input(self) -> None:
        """Handle the end of the input, after the received bytes are parsed."""
        if self.is_body_complete:
            self._half_closed()
        elif self._connection.unparsed:
            self._connection.work_soon()
        else:
            self._cut_short()

    # The response

    def cut_off(self, refusal: Refusal) -> None:
        """End the exchange with the refusal, unless another response has begun."""
        if self._is_complete:
            self._connection.close(linger=True)
        else:
            self._answer_instead(refusal)
            self._abandoned()

    def _answer_instead(self, refusal: Refusal) -> None:
        """Send the refusal in place of a response that was not completed, and close."""
        if self._is_complete or self._connection.is_closing:
            return
        self._is_complete = True
        self._connection.write(refusal.encoded(has_body=self.head.method != "HEAD"))
        self._connection.close(linger=True)

    def _end_of_head(self) -> bytes:
        """Decide on keep-alive; return the Connection field, if needed, and the empty line."""
        self.keeps_alive = self.keeps_alive and self._stays_in_step() and not self._connection.server.is_stopping
        if not self.keeps_alive:
            return b"connection: close\r\n\r\n"
        return b"connection: keep-alive\r\n\r\n" if self.head.version == "1.0" else b"\r\n"

    def _stays_in_step(self) -> bool:
        """Return whether the start of the next request can be found, even if the body of this one is unread."""
        incoming = self._incoming
        if incoming is None or incoming.decoder.is_complete:
            return True
        # A client that waits for 100 (Continue) may send the body nevertheless (RFC 9110, 10.1.1).
        decoder = incoming.decoder
        is_long = isinstance(decoder, LengthBody) and decoder.remaining > _UNREAD_BODY_BYTES
        return not incoming.expects_continue and not is_long


if TYPE_CHECKING:
    from calltag.core.http.connection import Connection
    from calltag.core.http.http1 import Http1


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
