"""A WebSocket without a network, and whose it is."""

import asyncio
from collections import deque
from itertools import count
from typing import Any, cast

import orjson

from calltag.core.http.request_parser import RequestHead
from calltag.core.http.websocket import text_frame
from calltag.notifier.authentication import Authentication, Caller, Credentials, InHandshake
from calltag.notifier.bayeux_server import BayeuxServer
from calltag.notifier.session_registry import Resident
from calltag.notifier.websocket import SocketConnection, WebSockets
from parts.eventually import eventually, turns
from parts.hubs import Client, Node

_IDS = count(1_000)


class Frames:
    """Stands for a DirectWebSocket: gives its handler what comes, as far as that is ready, and keeps what goes."""

    def __init__(self, handler: SocketConnection) -> None:
        self.handler = handler
        self.connection_id = next(_IDS)
        self.outgoing: list[bytes] = []
        self.pushed = 0
        """How many frames were written at once, past all buffers."""
        self.code = 0
        """The code of the server's close frame, and what it says."""
        self.reason = ""
        self._incoming: deque[bytes] = deque()
        self._is_busy = self._is_slow = self._is_clean = False
        self._is_ending = self._is_over = False
        handler.opened(cast("Any", self))

    # -- the server's side -----------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return not (self.code or self._is_ending)

    @property
    def is_writable(self) -> bool:
        return self.is_open and not self._is_slow

    def send_text(self, payload: bytes) -> bool:
        if self.is_open:
            self.outgoing.append(payload)
        return self.is_open

    def send_frame(self, frame: bytes, *, one_of_many: bool = False) -> bool:  # noqa: ARG002 - the interface's
        if not self.is_writable:
            return False
        start = frame.index(b"[{")
        assert frame == text_frame(frame[start:])
        self.outgoing.append(frame[start:])
        self.pushed += 1
        return True

    def ready(self) -> None:
        self._is_busy = False
        asyncio.get_running_loop().call_soon(self._hand_on)

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self.is_open:
            self.code, self.reason = code, reason

    # -- the client's side -----------------------------------------------------------------------------------------

    @property
    def is_slow(self) -> bool:
        """Whether the client reads nothing."""
        return self._is_slow

    @is_slow.setter
    def is_slow(self, is_slow: bool) -> None:
        was_slow, self._is_slow = self._is_slow, is_slow
        if was_slow and self.is_writable:
            self.handler.writable()

    @property
    def is_idle(self) -> bool:
        """Whether the server has handled all that came."""
        return not (self._is_busy or self._incoming)

    def come(self, *messages: object) -> None:
        """A frame with these messages comes."""
        self.come_as(orjson.dumps(messages))

    def come_as(self, data: bytes) -> None:
        """A frame comes; behind a close frame it counts for nothing."""
        if self.is_open:
            self._incoming.append(data)
            self._hand_on()

    def go(self, *, is_clean: bool = False) -> None:
        """The connection breaks; or the client answers the server's close frame, or sends the first one."""
        if not self._is_ending:
            self._is_ending, self._is_clean = True, is_clean
            self._hand_on()

    def said(self) -> list[dict[str, Any]]:
        """All messages that were sent so far."""
        return [message for frame in self.outgoing for message in orjson.loads(frame)]

    def _hand_on(self) -> None:
        while self._incoming and not self._is_busy:
            # The handler may be ready again within the call.
            self._is_busy = True
            if self.handler.message(self._incoming.popleft()):
                self._is_busy = False
        if self._is_ending and not self._incoming and not self._is_over:
            self._is_over = True
            self.handler.closed(self._is_clean)


class Alices(Authentication):
    """All requests are alice's."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(cast("Any", None))

    async def caller(
        self,
        shown: Credentials,  # noqa: ARG002 - the interface's
        handshake: InHandshake | None,  # noqa: ARG002 - the interface's
        *,
        begins: bool,  # noqa: ARG002 - the interface's
    ) -> Caller:
        return Caller("alice")


SHOWN = [(b"authorization", b"Basic YWxpY2U6YQ==")]
"""Header fields that show credentials."""


def head_of(headers: list[tuple[bytes, bytes]], *, method: str = "POST") -> RequestHead:
    """The head of a request to CometD."""
    return RequestHead(
        method, b"/genesys/cometd", b"", "1.1", headers, framing="length", content_length=0,
        keep_alive=True, expects_continue=False, is_websocket=method == "GET",
    )  # fmt: skip


def web_sockets(server: BayeuxServer, *, deadline_s: float = 1_000.0, spread_s: float = 0.0) -> WebSockets:
    """The WebSockets of a node, all of them alice's."""
    return WebSockets(server, Alices(), deadline_s, spread_s)


def opened(sockets: WebSockets, *, headers: list[tuple[bytes, bytes]] | None = None) -> Frames:
    """A WebSocket that was just opened."""
    handler = sockets.open(head_of(SHOWN if headers is None else headers, method="GET"), "192.0.2.1")
    assert isinstance(handler, SocketConnection)
    return Frames(handler)


class SocketPage:
    """A client with a WebSocket to a node."""

    def __init__(self, node: Node, alice: Client, *, sockets: WebSockets | None = None) -> None:
        self.node, self.alice = node, alice
        self.sockets = web_sockets(node.server) if sockets is None else sockets
        self.frames = opened(self.sockets)

    @classmethod
    async def open(cls, node: Node, *, ack: bool, sockets: WebSockets | None = None) -> "SocketPage":
        """A page whose connect "c1" is suspended."""
        page = cls(node, await Client().begin(node, ack=ack), sockets=sockets)
        page.connect("c1")
        await page.holds("c1")
        return page

    async def move(self, node: Node) -> "SocketPage":
        """Open another one at another node: without acknowledgement its first connect brings nothing."""
        elsewhere = SocketPage(node, self.alice)
        elsewhere.connect("c2")
        await elsewhere.is_answered("c2")
        elsewhere.connect("c3")
        await elsewhere.holds("c3")
        return elsewhere

    @property
    def resident(self) -> Resident:
        return self.node.registry.residents[self.alice.client_id]

    def connect(self, name: str, **more: object) -> None:
        """A connect comes to the node."""
        self.frames.come(self.alice.connecting(connectionType="websocket", id=name, **more))

    async def holds(self, name: str) -> None:
        """The connect is suspended."""
        await eventually(lambda: self.suspended == name)

    async def is_answered(self, name: str) -> None:
        """The connect is answered, as the last one so far."""
        await eventually(lambda: self.replies()[-1:] == [(name, True)])

    @property
    def suspended(self) -> object:
        """The id of the connect that is suspended; None if none is."""
        resident = self.node.registry.residents.get(self.alice.client_id)
        connect = None if resident is None else resident.suspended
        return None if connect is None or connect.outlet is not self.frames.handler else connect.message["id"]

    def said(self) -> list[dict[str, Any]]:
        """All messages that were sent to the page."""
        return self.frames.said()

    def events(self) -> list[int]:
        return [each["data"]["n"] for each in self.said() if "data" in each]

    def replies(self) -> list[tuple[str, bool]]:
        """The replies, by id, and whether they say that all went well."""
        return [(each["id"], each["successful"]) for each in self.said() if "data" not in each and "id" in each]

    async def let_pass(self, ms: int) -> None:
        """Time passes at the node; its lease is renewed."""
        self.node.ahead_ms += ms
        await self.node.lease.renew()
        self.node.sessions.tick()
        self.sockets.tick()
        await turns()
