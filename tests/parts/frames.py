"""A WebSocket without a network, and whose it is."""

import asyncio

import orjson
from starlette.websockets import WebSocketState

from calltag.core.http.websocket import FRAME_WRITER, text_frame
from calltag.notifier.cometd.access import Login


class Frames:
    """A WebSocket that is told what comes, and keeps what goes."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self.outgoing: list[bytes] = []
        self.client = None
        self.cookies: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.application_state = WebSocketState.CONNECTED
        self.scope: dict[str, object] = {"state": {FRAME_WRITER: self.write_frame}}
        self.slow = False
        """Whether no frame can be written at once."""
        self.pushed = 0
        """How many were."""
        self.accepted = False
        self.closed = 0
        """The code of the close."""

    async def accept(self) -> None:
        self.accepted = True

    async def close(self, code: int, _: str) -> None:
        self.application_state = WebSocketState.DISCONNECTED
        self.closed = code

    async def receive(self) -> dict[str, object]:
        return await self.incoming.get()

    async def send_text(self, text: str) -> None:
        self.outgoing.append(text.encode())

    def write_frame(self, frame: bytes, *, one_of_many: bool = False) -> bool:  # noqa: ARG002 - the interface's
        if self.slow:
            return False
        start = frame.index(b"[{")
        assert frame == text_frame(frame[start:])
        self.outgoing.append(frame[start:])
        self.pushed += 1
        return True

    def come(self, *messages: object) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "text": orjson.dumps(messages).decode()})

    def go(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect"})


class Alices:
    """Implements Access: all requests are alice's."""

    def login_of(self, connection: object) -> str:  # noqa: ARG002 - the interface's
        return ""

    def shows_credentials(self, connection: object) -> bool:  # noqa: ARG002 - the interface's
        return True

    async def of_request(self, connection: object, *, begins: bool) -> Login | None:  # noqa: ARG002 - the interface's
        return Login("alice")

    async def of_credentials(self, name: str, password: str, address: str) -> Login | None:  # noqa: ARG002 - the interface's
        return None
