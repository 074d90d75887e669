"""Opening handshake of a WebSocket (RFC 6455, section 4), and the choice of its handler."""

from typing import TYPE_CHECKING

import structlog
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from calltag.core.http.asgi_websocket import AsgiWebSocket
from calltag.core.http.direct_websocket import DirectWebSocket
from calltag.core.http.refusals import Refusal
from calltag.core.http.request_parser import RequestHead, RequestLimit
from calltag.core.http.scope import client_of
from calltag.core.http.websocket import NOT_OPENED, SWITCHING_PROTOCOLS, quiet

if TYPE_CHECKING:
    from calltag.core.http.connection import Connection
    from calltag.core.http.direct import SocketHandler

log = structlog.get_logger()


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
        return _refuse(connection, _refusal_of(handshake, response))
    fields = [(name.encode(), value.encode()) for name, value in response.headers.raw_items()]
    handler = _direct_handler(connection, head)
    if isinstance(handler, Refusal):
        return _refuse(connection, handler)
    if handler is not None:
        direct = DirectWebSocket(connection, protocol)
        connection.protocol = direct
        return direct.open(handler, fields)
    socket = AsgiWebSocket(connection, protocol, fields)
    connection.protocol = socket
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


def _refuse(connection: "Connection", refusal: Refusal) -> bool:
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
