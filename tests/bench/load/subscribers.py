"""Many Bayeux sessions in a process of its own, which is not to be the bottleneck: `python -m bench.load.subscribers`.

The first line of standard input is a Plan as JSON. When all sessions are subscribed, and a connect of each is held,
standard output says {"ready": sessions}. Each further line is an Expected: events by number, in groups, with the
sessions that are to have each of them, exactly once; it is answered with {"expected": events}. When a group has come
whole, a line {"came": group} says so. What was not to come, or came twice, ends the process with {"failed": ...}, as
does a session that fails. A line {"missing": true} is answered with how many deliveries are still to come. The end of
the input is the end of all.
"""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from calltag.core.process.os_limits import raise_descriptor_limit

WEBSOCKET: Final = "websocket"
LONG_POLLING: Final = "long-polling"
_NUMBER: Final = re.compile(rb'"bench-(\d+)"')
_CONNECTED: Final = b'"/meta/connect"'
_LONGEST_LINE: Final = 1 << 28
JSON = dict[str, Any]


class Failed(Exception):
    """A session did not go as it should."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to, and the sessions: a channel and the value of the Cookie header ("" for none) of each."""

    port: int
    path: str
    transport: str
    sessions: list[tuple[str, str]]
    at_once: int = 50
    """How many sessions are begun at a time."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Groups of events, numbered on from `first`: the sessions of each event; null is all of them."""

    first: int
    groups: list[list[list[int] | None]]


@dataclass(slots=True)
class Tally:
    """What is still to come."""

    sessions: int
    failure: str = ""
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    _pending: dict[int, set[int]] = field(default_factory=dict)
    _group_of: dict[int, int] = field(default_factory=dict)
    _left_of: dict[int, int] = field(default_factory=dict)
    _groups: int = 0

    def expect(self, expected: Expected) -> int:
        """Note what is to come; returns how many events that are."""
        number = expected.first
        for group in expected.groups:
            self._left_of[self._groups] = len(group)
            for sessions in group:
                self._pending[number] = set(range(self.sessions) if sessions is None else sessions)
                self._group_of[number] = self._groups
                number += 1
            self._groups += 1
        return number - expected.first

    def came(self, session: int, frame: bytes) -> None:
        """Take note of the events in a frame, or in the body of an answer."""
        for found in _NUMBER.findall(frame):
            number = int(found)
            pending = self._pending.get(number)
            if pending is None or session not in pending:
                self.fail(f"event {number} was not to come to session {session}, or not again")
                return
            pending.remove(session)
            if not pending:
                self._complete(number)

    def missing(self) -> int:
        return sum(map(len, self._pending.values()))

    def fail(self, text: str) -> None:
        self.failure = self.failure or text
        self.failed.set()

    def _complete(self, number: int) -> None:
        del self._pending[number]
        group = self._group_of.pop(number)
        self._left_of[group] -= 1
        if not self._left_of[group]:
            del self._left_of[group]
            tell({"came": group})


def tell(line: JSON) -> None:
    """One line to whoever started this."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def handshake(transport: str) -> JSON:
    return {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": [transport], "id": "1"}


def connect(client_id: str, transport: str, *, first: bool = False) -> JSON:
    message = {"channel": "/meta/connect", "clientId": client_id, "connectionType": transport, "id": "2"}
    return message | ({"advice": {"timeout": 0}} if first else {})


def subscribe(client_id: str, channel: str) -> JSON:
    return {"channel": "/meta/subscribe", "clientId": client_id, "subscription": channel, "id": "3"}


def encoded(message: JSON) -> bytes:
    return json.dumps([message], separators=(",", ":")).encode()


class Session:
    """What a session is, whatever its transport: an answer to each question, then events without end."""

    def __init__(self, index: int, plan: Plan, tally: Tally) -> None:
        self.index = index
        self.plan = plan
        self.tally = tally
        self.channel, self.cookie = plan.sessions[index]
        self.runs = False
        self._answer: asyncio.Future[bytes] | None = None

    async def begin(self) -> None:
        """Connect, handshake, subscribe, and leave a connect to be held."""
        await self.open()
        [shaken] = json.loads(await self._ask(encoded(handshake(self.plan.transport))))
        client_id = shaken.get("clientId", "")
        for message in (connect(client_id, self.plan.transport, first=True), subscribe(client_id, self.channel)):
            replies = json.loads(await self._ask(encoded(message)))
            if not all(reply.get("successful") for reply in replies):
                raise Failed(f"{shaken}, then {replies}")
        self.hold(encoded(connect(client_id, self.plan.transport)))
        self.runs = True
        self.reconnect()

    async def _ask(self, message: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self.send(message)
        async with asyncio.timeout(30):
            return await self._answer

    def received(self, frame: bytes) -> None:
        """A frame, or the body of an answer."""
        if not self.runs:
            if self._answer is None or self._answer.done():
                self.lost(f"unasked: {frame[:200]!r}")
            else:
                self._answer.set_result(frame)
            return
        self.tally.came(self.index, frame)
        if _CONNECTED in frame:
            if b'"successful":true' not in frame:
                self.lost(repr(frame[:300]))
            self.reconnect()

    def lost(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Failed(reason))
        self.tally.fail(f"session {self.index}: {reason}")

    async def open(self) -> None:
        raise NotImplementedError

    def send(self, message: bytes) -> None:
        raise NotImplementedError

    def hold(self, message: bytes) -> None:
        """The connect that is sent from now on whenever the last one was answered."""
        raise NotImplementedError

    def reconnect(self) -> None:
        raise NotImplementedError


class SocketSession(Session, WSListener):
    """On a WebSocket of its own."""

    _socket: WSTransport
    _connect: bytes

    async def open(self) -> None:
        headers = [("Cookie", self.cookie)] if self.cookie else []
        url = f"ws://127.0.0.1:{self.plan.port}{self.plan.path}"
        # The buffers are this process's; 10,000 of them are to stay small.
        self._socket, _ = await ws_connect(
            lambda: self, url, extra_headers=headers, read_buffer_init_size=2_048, websocket_handshake_timeout=30
        )

    def send(self, message: bytes) -> None:
        self._socket.send(WSMsgType.TEXT, message)

    def hold(self, message: bytes) -> None:
        self._connect = message

    def reconnect(self) -> None:
        self._socket.send(WSMsgType.TEXT, self._connect)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002 - the interface's
        if frame.msg_type == WSMsgType.TEXT:
            self.received(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            self.lost(f"closed: {frame.get_close_code()} {frame.get_close_reason()}")

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 - the interface's
        self.lost("disconnected")


class PollingSession(Session, asyncio.Protocol):
    """HTTP/1.1 on one connection of its own, one request at a time."""

    _transport: asyncio.Transport
    _connect: bytes

    def __init__(self, index: int, plan: Plan, tally: Tally) -> None:
        super().__init__(index, plan, tally)
        self._received = b""

    async def open(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.plan.port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, message: bytes) -> None:
        self._transport.write(self._request(message))

    def hold(self, message: bytes) -> None:
        self._connect = self._request(message)

    def reconnect(self) -> None:
        self._transport.write(self._connect)

    def _request(self, message: bytes) -> bytes:
        cookie = f"Cookie: {self.cookie}\r\n" if self.cookie else ""
        return (
            f"POST {self.plan.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.plan.port}\r\n{cookie}"
            f"Content-Type: application/json;charset=UTF-8\r\nContent-Length: {len(message)}\r\n\r\n"
        ).encode() + message

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        body = _body(head.lower(), rest)
        if body is None:
            return
        self._received = b""
        if not head.startswith(b"HTTP/1.1 200"):
            self.lost(repr(head[:100] + body[:200]))
            return
        if not self.runs:
            self._keep_cookies(head)
        self.received(body)

    def _keep_cookies(self, head: bytes) -> None:
        for line in head.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            if name.lower() == "set-cookie":
                self.cookie = "; ".join(filter(None, (self.cookie, value.partition(";")[0])))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost(f"connection lost: {exc}")


def _body(head: bytes, rest: bytes) -> bytes | None:
    """The body of an answer, once all of it has come."""
    _, found, length = head.partition(b"content-length: ")
    if found:
        return rest if len(rest) >= int(length.partition(b"\r\n")[0]) else None
    if b"transfer-encoding: chunked" not in head:
        raise Failed(f"an answer without length: {head!r}")
    chunks: list[bytes] = []
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return None
        if size == b"0":
            return b"".join(chunks)
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]


def _sessions(plan: Plan, tally: Tally) -> Sequence[Session]:
    kind = {WEBSOCKET: SocketSession, LONG_POLLING: PollingSession}[plan.transport]
    return [kind(index, plan, tally) for index in range(len(plan.sessions))]


async def begin_all(sessions: Sequence[Session], at_once: int) -> None:
    """Begin the sessions, so many at a time, and tell when all are there. Raises ExceptionGroup."""
    waiting = iter(sessions)

    async def begin() -> None:
        for session in waiting:
            await session.begin()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(begin())
    tell({"ready": len(sessions)})


async def _follow(reader: asyncio.StreamReader, tally: Tally) -> None:
    while line := await reader.readline():
        asked = json.loads(line)
        if "missing" in asked:
            tell({"missing": tally.missing()})
        else:
            tell({"expected": tally.expect(Expected(**asked))})


async def _main() -> int:
    reader = asyncio.StreamReader(_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    plan = Plan(**json.loads(await reader.readline()))
    tally = Tally(len(plan.sessions))
    try:
        await begin_all(_sessions(plan, tally), plan.at_once)
    except ExceptionGroup as group:
        tell({"failed": repr(group.exceptions[0])})
        return 1
    following = asyncio.ensure_future(_follow(reader, tally))
    failing = asyncio.ensure_future(tally.failed.wait())
    await asyncio.wait({following, failing}, return_when=asyncio.FIRST_COMPLETED)
    if not following.done():
        following.cancel()
        tell({"failed": tally.failure})
        return 1
    failing.cancel()
    following.result()
    return 0


def carry_out(plan: Coroutine[object, object, int]) -> int:
    """Run what is to be the whole work of this process."""
    import uvloop

    raise_descriptor_limit()
    with contextlib.suppress(KeyboardInterrupt):
        return uvloop.run(plan)
    return 1


if __name__ == "__main__":
    sys.exit(carry_out(_main()))
