"""Small handlers for the direct path of the server, and the ASGI application behind them that answers the same."""

import asyncio
from collections import deque
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from calltag.core.http.direct import (
    DirectRequest,
    DirectWebSocket,
    Fields,
    Refusal,
    RequestHead,
    SocketHandler,
)
from parts.endpoints import BODY_BYTES
from parts.raw_http import REQUEST_ID

READ_PATH = "/read"
READ_BODY = b"a body that is read whole".ljust(BODY_BYTES)
NOT_WHOLE = 422


def _status(path: bytes, body: bytes) -> int:
    if path != READ_PATH.encode():
        return 404
    return 200 if body == READ_BODY else NOT_WHOLE


def _fields(headers: Fields) -> list[tuple[bytes, bytes]]:
    return [field for field in headers if field[0] == REQUEST_ID.encode()][:1]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers by the path and the body, with the id of the request."""
    body = await Request(scope, receive).body() if scope["raw_path"] == READ_PATH.encode() else b""
    status, fields = _status(scope["raw_path"], body), [*_fields(scope["headers"]), (b"content-length", b"4")]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": b"asgi"})


class Answering:
    """Implements RequestHandler: answers the same, at once or in the next turns of the loop.

    Each WebSocket is served by what `make` returns.
    """

    def __init__(
        self,
        accepts: Callable[[RequestHead], bool] = lambda _: True,
        make: Callable[[], SocketHandler | Refusal | None] = lambda: None,
        *,
        later: bool = False,
    ) -> None:
        self.max_body_bytes = 65_536
        self._accepts = accepts
        self._make = make
        self._later = later
        self.opened: list[SocketHandler] = []
        self.clients: list[tuple[tuple[str, int], str]] = []
        """Of whom each WebSocket was."""

    def accepts(self, head: RequestHead) -> bool:
        return self._accepts(head)

    def handle(self, request: DirectRequest) -> None:
        if self._later:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._answer, request)
        else:
            self._answer(request)

    def _answer(self, request: DirectRequest) -> None:
        request.respond(_status(request.head.path, request.body), _fields(request.head.headers), b"direct")

    def refuse_size(self, request: DirectRequest) -> None:
        request.respond(413, (), b"too large")

    def refuse_late(self, request: DirectRequest) -> None:
        request.respond(400, (), b"too late")

    def open_socket(
        self,
        head: RequestHead,  # noqa: ARG002 - the interface's
        client: tuple[str, int],
        scheme: str,
    ) -> SocketHandler | Refusal | None:
        self.clients.append((client, scheme))
        made = self._make()
        if made is not None and not isinstance(made, Refusal):
            self.opened.append(made)
        return made


class Suspending(Answering):
    """Suspends each request until the test answers it; keeps what the server tells of each."""

    def __init__(self) -> None:
        super().__init__()
        self.max_body_bytes = 1_000
        self.suspends = True
        self.suspended: deque[DirectRequest] = deque()
        self.bodies: list[bytes] = []
        self.gone: list[bool] = []

    def handle(self, request: DirectRequest) -> None:
        self.bodies.append(request.body)
        self.suspended.append(request)
        request.on_gone = self.gone.append
        if not self.suspends:
            self.answer()

    def answer(self, body: bytes = b"ok") -> bool:
        """Answer the request that waits longest."""
        return self.suspended.popleft().respond(200, [(b"x-a", b"b")], body)


class Echo:
    """Implements SocketHandler: sends each message back, and notes all; `busy_after` messages it takes no more."""

    def __init__(self, busy_after: int | None = None) -> None:
        self.socket: DirectWebSocket | None = None
        self.messages: list[bytes] = []
        self.sent: list[bool] = []
        self.busy_after = busy_after
        self.writable_again = 0
        self.ends: list[bool] = []

    def handshake_fields(self) -> Fields:
        return [(b"x-a", b"b")]

    def opened(self, socket: DirectWebSocket) -> None:
        self.socket = socket

    def message(self, data: bytes) -> bool:
        assert self.socket is not None
        self.messages.append(data)
        self.sent.append(self.socket.send_text(data))
        return self.busy_after is None or len(self.messages) < self.busy_after

    def writable(self) -> None:
        self.writable_again += 1

    def closed(self, is_clean: bool) -> None:
        self.ends.append(is_clean)
        self.socket = None
