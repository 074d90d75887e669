"""Serving without ASGI: handlers of requests and WebSockets in the callbacks of the parser.

They need no task, coroutine or future: thousands of requests a second are cheap, and thousands of suspended ones are
small. The ASGI application serves all that a handler does not accept.
"""

from typing import Protocol

from calltag.core.http.direct_request import DirectRequest
from calltag.core.http.direct_websocket import DirectWebSocket
from calltag.core.http.refusals import Refusal
from calltag.core.http.request_parser import RequestHead
from calltag.core.http.response_head import Fields, response_lines

__all__ = [
    "DirectRequest",
    "DirectWebSocket",
    "Fields",
    "Refusal",
    "RequestHandler",
    "RequestHead",
    "SocketHandler",
    "response_lines",
]


class RequestHandler(Protocol):
    """Serves the requests that it accepts. Its exceptions are logged, and answered with HTTP 500."""

    @property
    def max_body_bytes(self) -> int:
        """Maximum size of a body; beyond it `refuse_size` is called instead of `handle`."""
        ...

    def accepts(self, head: RequestHead) -> bool:
        """Return whether it serves the request; called for each request, so it has to be fast."""
        ...

    def handle(self, request: DirectRequest) -> None:
        """Respond to a request with a complete body, now or later."""
        ...

    def refuse_size(self, request: DirectRequest) -> None:
        """Respond, before returning, to a request whose body is too large; its `body` is empty."""
        ...

    def refuse_late(self, request: DirectRequest) -> None:
        """Respond, before returning, to a request whose body missed its deadline; its connection is closed."""
        ...

    def open_socket(self, head: RequestHead, client: tuple[str, int], scheme: str) -> "SocketHandler | Refusal | None":
        """Return the handler of a WebSocket, or a refusal; None leaves it to the ASGI application.

        Address and scheme (`http` or `https`) of the client are those that a trusted proxy forwards.
        """
        ...


class SocketHandler(Protocol):
    """Serves one WebSocket. Its exceptions are logged, and close the WebSocket with code 1011."""

    def handshake_fields(self) -> Fields:
        """Return header fields to add to the handshake response."""
        ...

    def opened(self, socket: DirectWebSocket) -> None:
        """Take the open WebSocket, which may send from now on."""
        ...

    def message(self, data: bytes) -> bool:
        """Serve a whole message. Return False to suspend delivery until `socket.ready()`; a bounded queue fills
        meanwhile."""
        ...

    def writable(self) -> None:
        """Continue sending after `socket.is_writable` was False: the write buffer has drained."""
        ...

    def closed(self, is_clean: bool) -> None:
        """Handle the end, once, after all messages. `is_clean`: the client sent a close frame. In reply to one of the
        server, it proves that the client has read all that was sent."""
        ...
