"""Serving without ASGI: what answers requests and WebSockets within the callbacks of the parser.

There is no task, coroutine or future for them, so that thousands of requests a second are cheap, and thousands that
wait for their answers are small. All that a handler does not take is left to the ASGI application.
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
    """Serves the requests that it accepts. An exception that it raises is logged, and answered with HTTP 500."""

    @property
    def max_body_bytes(self) -> int:
        """Size of a body, beyond which `refuse_size` is called instead of `handle`."""
        ...

    def accepts(self, head: RequestHead) -> bool:
        """Whether it serves the request; called for each request, so it has to be quick."""
        ...

    def handle(self, request: DirectRequest) -> None:
        """Serve a request that has come whole: respond now, or later."""
        ...

    def refuse_size(self, request: DirectRequest) -> None:
        """Respond, before returning, to a request with a body that is too large, of which there is nothing in it."""
        ...

    def refuse_late(self, request: DirectRequest) -> None:
        """Respond, before returning, to a request with a body that did not come in time; its connection ends."""
        ...

    def open_socket(self, head: RequestHead, client: tuple[str, int], scheme: str) -> "SocketHandler | Refusal | None":
        """Return who serves a WebSocket, or the answer that refuses it; None leaves it to the ASGI application.

        Address and scheme (`http` or `https`) of the client are as a trusted proxy tells them.
        """
        ...


class SocketHandler(Protocol):
    """Serves one WebSocket. An exception that it raises is logged, and closes the WebSocket with code 1011."""

    def handshake_fields(self) -> Fields:
        """Fields for the response to the handshake."""
        ...

    def opened(self, socket: DirectWebSocket) -> None:
        """Messages may be sent from now on."""
        ...

    def message(self, data: bytes) -> bool:
        """Serve a whole message. False: no further one is given before `socket.ready()`, and the client is only read
        until some wait."""
        ...

    def writable(self) -> None:
        """The client has read enough after `socket.is_writable` was False."""
        ...

    def closed(self, is_clean: bool) -> None:
        """The end, once, behind all messages. `is_clean`: the client's close frame came. As the answer to one of the
        server, it says that the client has read all that was sent."""
        ...
