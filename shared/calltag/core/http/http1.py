"""HTTP/1.1 on a connection: requests one at a time, each served by the direct handler or by the ASGI application.

Pipelined requests wait unparsed. Sources: RFC 9112, RFC 9110.
"""

from typing import TYPE_CHECKING, Final

import structlog
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from calltag.core.http.asgi_websocket import AsgiWebSocket
from calltag.core.http.direct import DirectRequest, DirectWebSocket
from calltag.core.http.exchange import AsgiExchange, Exchange
from calltag.core.http.request_parser import BadRequest, HeadParser, RequestHead, RequestLimit
from calltag.core.http.responses import Refusal
from calltag.core.http.scope import client_of
from calltag.core.http.websocket import NOT_OPENED, SWITCHING_PROTOCOLS, quiet

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection
    from calltag.core.http.direct import RequestHandler, SocketHandler

log = structlog.get_logger()
_REQUESTS_A_TURN: Final = 16
"""Maximum number of requests of one connection in one iteration of the event loop."""
_KEPT_HEAD_BYTES: Final = 2_048
_OVERLOADED: Final = Refusal(
    503, "the server holds as many unserved bytes as it may; try again in a moment", retry_after_s=1
)


class Http1:
    """Parses the requests of a connection and starts their exchanges (implements ConnectionProtocol)."""

    __slots__ = ("_connection", "_exchange", "_is_idle", "_last_head", "_parser")

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._parser: HeadParser | None = None
        self._exchange: Exchange | None = None
        self._is_idle = False
        """The last request is answered, and no byte of the next one was received."""
        self._last_head: RequestHead | None = None
        """Head of the last request that was served directly: the next head is usually identical."""

    def parse(self) -> bool:
        """Parse the body of the request in flight, or the heads of the next ones."""
        try:
            for _ in range(_REQUESTS_A_TURN):
                if self._exchange is None:
                    head = self._next_head()
                    if head is None:
                        return False
                    if head.is_websocket:
                        return self._upgrade(head)
                    is_interrupted = self._begin(head)
                else:
                    is_interrupted = self._exchange.take_body()
                if self._exchange is not None or not self._connection.is_writable:
                    return is_interrupted
        except BadRequest as error:
            self._connection.server.refused(error.limit)
            self._refuse(Refusal(error.status, str(error)))
            return False
        return True

    def _next_head(self) -> RequestHead | None:
        connection, last = self._connection, self._last_head
        data, start = connection.data, connection.at
        if last is not None and self._parser is None and data.startswith(last.raw, start):
            connection.parsed(start + len(last.raw))
            self._is_idle = False
            return last
        head = None
        if data:
            head = self._parse_head(data, start)
            if head is None and self._is_idle:
                connection.expect(connection.server.limits.head_deadline_s)
            self._is_idle = False
        if head is None and connection.at_end_of_input:
            connection.close()
        return head

    def _parse_head(self, data: bytes, start: int) -> RequestHead | None:
        parser = self._parser
        if parser is None:
            limits = self._connection.server.limits
            parser = self._parser = HeadParser(limits.max_head_bytes, limits.max_headers)
        end = parser.feed(data, start)
        self._connection.parsed(end)
        head = parser.head
        if head is not None:
            self._parser = None
            login = self._connection.server.proxy_login
            if login is not None:
                head.identify(login.user_of(head.headers, self._connection.peer[0]))
            # A part of a head may be the beginning of another one.
            if parser.size == end - start <= _KEPT_HEAD_BYTES:
                head.raw = data[start:end]
        return head

    def _upgrade(self, head: RequestHead) -> bool:
        self._connection.relax()
        return upgrade(self._connection, head)

    def _begin(self, head: RequestHead) -> bool:
        connection = self._connection
        connection.relax()
        server = connection.server
        direct = server.direct
        if direct is not None and self._is_accepted(direct, head):
            if head.raw:
                self._last_head = head
            request = DirectRequest(self, connection, head)
            self._exchange = request
            return request.start(direct)
        exchange = AsgiExchange(self, connection, head)
        self._exchange = exchange
        return exchange.start(server.app)

    @staticmethod
    def _is_accepted(direct: "RequestHandler", head: RequestHead) -> bool:
        try:
            return direct.accepts(head)
        except Exception:
            log.exception("request_check_failed")
            return False

    def _refuse(self, refusal: Refusal) -> None:
        if self._exchange is not None:
            self._exchange.cut_off(refusal)
        else:
            self._connection.write(refusal.encoded())
            self._connection.close(linger=True)

    def finished(self, exchange: Exchange) -> None:
        """Continue with the next request after a response, or close."""
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
            connection.expect(connection.server.limits.keep_alive_s)
            if not connection.in_turn:
                connection.note_held()
                if connection.unparsed or connection.at_end_of_input:
                    connection.work_soon()

    def expire(self) -> None:
        """Handle the deadline of a head, of a body, or of the keep-alive."""
        if self._exchange is not None:
            self._connection.server.refused(RequestLimit.BODY_DEADLINE)
            self._exchange.expire()
            return
        if not self._is_idle:
            self._connection.server.refused(RequestLimit.HEAD_DEADLINE)
        self._connection.close_idle()

    def end_of_input(self) -> bool:
        """Keep the connection for a response in flight: a half-closed client may still read (RFC 9112, 9.6)."""
        if self._exchange is not None:
            self._exchange.end_of_input()
            return True
        return bool(self._connection.unparsed)

    def lost(self) -> None:
        """Notify the exchange, and free the parser."""
        exchange, self._exchange = self._exchange, None
        if self._parser is not None:
            self._parser.close()
            self._parser = None
        if exchange is not None:
            exchange.disconnect()

    @property
    def held_bytes(self) -> int:
        """Bytes of a request that wait to be served."""
        if self._exchange is not None:
            return self._exchange.held_bytes
        return 0 if self._parser is None else self._parser.size

    def turn_away(self) -> None:
        """End with HTTP 503: the server holds too many bytes."""
        self._refuse(_OVERLOADED)

    def shut_down(self) -> None:
        """Close after the request in flight."""
        if self._exchange is None:
            self._connection.close()
        else:
            self._exchange.close_after()

    def writable(self) -> None:
        """Do nothing: the connection itself continues parsing."""

    def give_up(self) -> None:
        """Answer the request in flight in place of its handler."""
        if self._exchange is not None:
            self._exchange.give_up()


def upgrade(connection: "Connection", head: RequestHead) -> bool:
    """Upgrade the connection to WebSocket if the handshake is valid; returns as `parse` does."""
    server = connection.server
    handshake = Request(head.path.decode("ascii"), Headers(_text(head)))
    protocol = ServerProtocol(
        extensions=server.websocket_extensions, max_size=server.max_message_bytes, state=OPEN, logger=quiet
    )
    response = protocol.accept(handshake)
    if response.status_code != SWITCHING_PROTOCOLS:
        server.refused(RequestLimit.MALFORMED)
        return _refuse_upgrade(connection, _refusal_of(handshake, response))
    fields = [(name.encode(), value.encode()) for name, value in response.headers.raw_items()]
    handler = _direct_handler(connection, head)
    if isinstance(handler, Refusal):
        return _refuse_upgrade(connection, handler)
    if handler is not None:
        direct = DirectWebSocket(connection, protocol)
        connection.switch_to(direct)
        return direct.open(handler, fields)
    socket = AsgiWebSocket(connection, protocol, fields)
    connection.switch_to(socket)
    socket.start(server.app, head)
    return False


def _direct_handler(connection: "Connection", head: RequestHead) -> "SocketHandler | Refusal | None":
    direct = connection.server.direct
    if direct is None:
        return None
    try:
        return direct.open_socket(head, *client_of(head, connection))
    except Exception:
        log.exception("websocket_failed")
        return NOT_OPENED


def _refuse_upgrade(connection: "Connection", refusal: Refusal) -> bool:
    connection.write(refusal.encoded())
    connection.close(linger=True)
    return False


def _text(head: RequestHead) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]


def _refusal_of(handshake: Request, response: Response) -> Refusal:
    versions = handshake.headers.get_all("Sec-WebSocket-Version")
    if versions != ["13"]:
        return Refusal(426, "the only version of WebSocket that is served here is 13")
    return Refusal(400, f"the WebSocket handshake is not valid: {bytes(response.body or b'').decode().strip()}")
