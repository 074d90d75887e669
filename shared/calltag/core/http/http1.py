"""HTTP/1.1 on a connection: requests one at a time, each in a task of the ASGI application.

While a request is served, what follows it waits unparsed. Sources: RFC 9112, RFC 9110, ASGI HTTP 2.3.
"""

import asyncio
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import structlog
from starlette.types import ASGIApp, Message

from calltag.core.http.refusals import Refusal, head_of
from calltag.core.http.request_parser import BadRequest, HeadParser, LengthBody, Limit, RequestHead, body_of
from calltag.core.http.scope import scope_of
from calltag.core.http.websocket import upgrade

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection

log = structlog.get_logger()
_BODY_BYTES: Final = 65_536
"""Bytes of a body that wait for the application before the client is read no further."""
_UNREAD_BODY_BYTES: Final = 65_536
"""Bytes of a body that nobody read which are dropped so that the connection can go on."""
_WRITE_BYTES: Final = 65_536
"""Bytes of a response that are written before the client has to read on."""
_WITHOUT_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CUT_OFF: Final = Refusal(
    503, "this server stops before the request was answered; whether it took effect is not known", retry_after_s=1
)
_OVERLOADED: Final = Refusal(
    503, "the server holds as many unserved bytes as it may; try again in a moment", retry_after_s=1
)
_FAILED: Final = Refusal(500, "the request was not answered because of an internal error")


class Http1:
    """Finds the requests of a connection and starts their exchanges (implements ConnectionProtocol)."""

    __slots__ = ("_connection", "_exchange", "_is_idle", "_parser")

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._parser: HeadParser | None = None
        self._exchange: Exchange | None = None
        self._is_idle = False
        """Whether the last request is answered and nothing of the next one has come."""

    def parse(self) -> bool:
        """Go on with the body of the request that is served, or with the head of the next one."""
        try:
            if self._exchange is not None:
                return self._exchange.take_body()
            head = self._next_head()
            return head is not None and self._begin(head)
        except BadRequest as error:
            self._connection.server.refused(error.limit)
            self._refuse(Refusal(error.status, str(error)))
            return False

    def _next_head(self) -> RequestHead | None:
        connection, limits = self._connection, self._connection.server.limits
        head = None
        if connection.unparsed:
            if self._parser is None:
                self._parser = HeadParser(limits.max_head_bytes, limits.max_headers)
            connection.parsed(self._parser.feed(connection.data, connection.at))
            head = self._parser.head
            if head is None and self._is_idle:
                connection.expect(limits.head_deadline_s)
            self._is_idle = False
        if head is None and connection.at_end_of_input:
            connection.close()
        return head

    def _begin(self, head: RequestHead) -> bool:
        self._parser = None
        connection = self._connection
        connection.relax()
        app = connection.server.app
        if head.is_websocket:
            return upgrade(connection, head, app)
        self._exchange = Exchange(self, connection, head)
        self._exchange.start(app)
        return self._exchange.take_body()

    def _refuse(self, refusal: Refusal) -> None:
        if self._exchange is not None:
            self._exchange.cut_off(refusal)
        else:
            self._connection.write(refusal.encoded())
            self._connection.close(linger=True)

    def finished(self, exchange: "Exchange") -> None:
        """The response is written: go on with the next request, if the connection can."""
        connection = self._connection
        if connection.is_closing:
            return
        if not exchange.keeps_alive:
            connection.close(linger=not exchange.is_body_complete or bool(connection.unparsed))
        elif not exchange.is_body_complete:
            connection.expect(connection.server.body_deadline_s)
            connection.work_soon()
        else:
            self._exchange = None
            self._is_idle = True
            connection.note_held()
            connection.expect(connection.server.limits.keep_alive_s)
            if connection.unparsed or connection.at_end_of_input:
                connection.work_soon()

    def expire(self) -> None:
        """A head or the rest of a body did not come in time, or nothing more was asked for."""
        if self._exchange is not None:
            self._connection.server.refused(Limit.BODY_DEADLINE)
        elif not self._is_idle:
            self._connection.server.refused(Limit.HEAD_DEADLINE)
        self._connection.close()

    def end_of_input(self) -> bool:
        """A client that has closed its sending side may still read (RFC 9112, 9.6)."""
        if self._exchange is not None:
            self._exchange.end_of_input()
            return True
        return bool(self._connection.unparsed)

    def lost(self) -> None:
        """Let the application notice."""
        exchange, self._exchange = self._exchange, None
        if self._parser is not None:
            self._parser.close()
            self._parser = None
        if exchange is not None:
            exchange.disconnect()

    @property
    def held_bytes(self) -> int:
        """Bytes that were received and wait to be served."""
        if self._exchange is not None:
            return self._exchange.held_bytes
        return 0 if self._parser is None else self._parser.size

    def turn_away(self) -> None:
        """End because the server holds too much."""
        self._refuse(_OVERLOADED)

    def shut_down(self) -> None:
        """Answer the request that is served, as the last one of the connection."""
        if self._exchange is None:
            self._connection.close()
        else:
            self._exchange.keeps_alive = False


class Exchange:
    """A request and its response."""

    __slots__ = (
        "_body",
        "_connection",
        "_declared",
        "_dropped",
        "_expects_continue",
        "_fields",
        "_head",
        "_http",
        "_is_chunked",
        "_is_complete",
        "_is_delivered",
        "_is_disconnected",
        "_is_started",
        "_received",
        "_status",
        "_task",
        "_waiter",
        "keeps_alive",
    )

    def __init__(self, http: Http1, connection: "Connection", head: RequestHead) -> None:
        self._http = http
        self._connection = connection
        self._head = head
        self._body = body_of(head, connection.server.limits.max_framing_bytes)
        self._received = bytearray()
        self._dropped = 0
        self._expects_continue = head.expects_continue
        self._is_delivered = False
        """Whether the application has the end of the body."""
        self._is_disconnected = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._status = 0
        self._fields: Iterable[tuple[bytes, bytes]] = ()
        self._is_started = False
        """Whether the head of the response is written."""
        self._is_complete = False
        self._is_chunked = False
        self._declared: int | None = None
        """Bytes of the response's body that its Content-Length still promises."""
        self.keeps_alive = head.keep_alive

    @property
    def is_body_complete(self) -> bool:
        """Whether the whole request has come."""
        return self._body.is_complete

    def start(self, app: ASGIApp) -> None:
        """Run the application in a task."""
        self._task = self._connection.server.start_task(self._run(app))

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(scope_of("http", self._head, self._connection), self._receive, self._send)
        except asyncio.CancelledError:
            self._answer_instead(_CUT_OFF)
        except Exception:
            log.exception("request_failed")
            self._answer_instead(_FAILED)
        else:
            self._answer_instead(_FAILED)

    def _answer_instead(self, refusal: Refusal) -> None:
        """Make up for a response that the application did not complete."""
        if self._is_complete or self._connection.is_closing:
            return
        self._is_complete = True
        if not self._is_started:
            self._connection.write(refusal.encoded(has_body=self._head.method != "HEAD"))
        self._connection.close(linger=not self._is_started)

    def cut_off(self, refusal: Refusal) -> None:
        """End the exchange with the refusal, if no other response has begun."""
        if self._is_complete:
            self._connection.close(linger=True)
        else:
            self._answer_instead(refusal)
            if self._task is not None:
                self._task.cancel()

    # The request

    def take_body(self) -> bool:
        """Move the body's bytes from the connection to the application; implements `parse`."""
        connection = self._connection
        if self._is_complete:
            self._drop_received()
        room = _BODY_BYTES - len(self._received)
        if self._body.is_complete or room <= 0:
            return False
        before = connection.unparsed
        if before:
            connection.parsed(self._body.feed(connection.data, connection.at, room, self._received))
            self._wake()
        if self._is_complete:
            self._drop()
        elif connection.at_end_of_input and not self.is_body_complete and connection.unparsed in {0, before}:
            self.disconnect()
        return self._body.is_interrupted

    def _drop_received(self) -> None:
        """The response is complete: nobody reads the rest of the request."""
        self._dropped += len(self._received)
        self._received.clear()

    def _drop(self) -> None:
        self._drop_received()
        if self._body.is_complete:
            self._http.finished(self)
        elif self._dropped > _UNREAD_BODY_BYTES:
            self._connection.close(linger=True)

    @property
    def held_bytes(self) -> int:
        """Bytes of the body that wait for the application."""
        return len(self._received)

    def end_of_input(self) -> None:
        """The client sends no more; what has come is still parsed."""
        if self._body.is_complete or not self._connection.unparsed:
            self.disconnect()
        else:
            self._connection.work_soon()

    def disconnect(self) -> None:
        """Let the application know that nothing more comes."""
        self._is_disconnected = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _receive(self) -> Message:
        while not self._is_complete:
            if self._received or (self._body.is_complete and not self._is_delivered):
                return self._take_received()
            if self._is_disconnected or (self._connection.at_end_of_input and self._body.is_complete):
                break
            if self._expects_continue and not self._is_started:
                self._expects_continue = False
                self._connection.write(_CONTINUE)
            self._waiter = self._connection.loop.create_future()
            await self._waiter
            self._waiter = None
        return {"type": "http.disconnect"}

    def _take_received(self) -> Message:
        data, self._received = bytes(self._received), bytearray()
        self._expects_continue = False
        self._is_delivered = self._body.is_complete
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
        if self._head.method == "HEAD" or self._status in _WITHOUT_BODY:
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
        if self._declared is None and self._status not in _WITHOUT_BODY:
            if not has_more:
                self._declared = len(body)
                fields.append((b"content-length", b"%d" % len(body)))
            elif self._head.version == "1.1":
                self._is_chunked = True
                fields.append((b"transfer-encoding", b"chunked"))
            else:
                self.keeps_alive = False
        if not has_date:
            fields.append((b"date", _date(int(time.time()))))
        self.keeps_alive = self.keeps_alive and self._stays_in_step() and not self._connection.server.is_stopping
        if not self.keeps_alive:
            fields.append((b"connection", b"close"))
        elif self._head.version == "1.0":
            fields.append((b"connection", b"keep-alive"))
        return head_of(self._status, fields)

    def _stays_in_step(self) -> bool:
        """Whether the next request can be found, though the body of this one may not have been read."""
        body = self._body
        if body.is_complete:
            return True
        # A client that waits for 100 (Continue) may send the body all the same, or not (RFC 9110, 10.1.1).
        is_long = isinstance(body, LengthBody) and body.remaining > _UNREAD_BODY_BYTES
        return not self._expects_continue and not is_long


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
