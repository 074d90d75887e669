"""A load generator in a process of its own, which is not to be the bottleneck: raw HTTP/1.1 on kept connections.

It reads a plan as JSON from standard input and writes what came of each request as JSON to standard output. With a
rate, requests are sent at their times whether or not others were answered (open loop); without one, each connection
sends its next request when the last one was answered (closed loop).
"""

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

from parts.eventually import eventually

_TICK_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send: operations that attach the numbers from `first` on, one each, to these calls in turn."""

    port: int
    cookie: str
    calls: list[str]
    seconds: float
    connections: int
    first: int = 0
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request; `seconds` from when it was sent. Status 0 is no answer at all."""

    number: int
    status: int
    code: int
    retry_after: bool
    seconds: float
    text: str = ""


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.transport: asyncio.Transport | None = None
        self.number = -1
        self._sent_at = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.load.idle(self)

    def send(self, number: int) -> None:
        assert self.transport is not None
        self.number, self._sent_at, self._received = number, time.monotonic(), b""
        self.transport.write(self.load.request(number))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        if len(body) < int(headers[b"content-length"]):
            return
        self._answered(int(lines[0].split()[1]), json.loads(body), b"retry-after" in headers)
        self.load.idle(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.load.lost(self)
        if self.number >= 0:
            self._answered(0, {}, retry_after=False)

    def _answered(self, status: int, body: dict[str, Any], retry_after: bool) -> None:
        seconds = round(time.monotonic() - self._sent_at, 4)
        text = f"{status} {body.get('statusMessage', '')[:60]}"
        self.load.answers.append(Answer(self.number, status, body.get("statusCode", -1), retry_after, seconds, text))
        self.number = -1


class Load:
    """Carries out a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.answers: list[Answer] = []
        self.numbers = plan.first
        self._idle: list[Connection] = []
        self._waiting: deque[int] = deque()
        self._open = 0
        self._began = self._ends = 0.0

    def request(self, number: int) -> bytes:
        body = json.dumps({"operationName": "AttachUserData", "userData": {"log": number}}).encode()
        call = self.plan.calls[number % len(self.plan.calls)]
        return (
            f"POST /api/v2/me/calls/{call} HTTP/1.1\r\nHost: calltag\r\nCookie: {self.plan.cookie}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def idle(self, connection: Connection) -> None:
        """The connection may send again."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        elif self.plan.rate is None and time.monotonic() < self._ends:
            connection.send(self._next())
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    def _next(self) -> int:
        self.numbers += 1
        return self.numbers - 1

    async def run(self) -> None:
        self._began = time.monotonic()
        self._ends = self._began + self.plan.seconds
        if self.plan.rate is None:
            for _ in range(self.plan.connections):
                await self._connect()
            await asyncio.sleep(self.plan.seconds)
        else:
            await self._send_at(self.plan.rate)
        await eventually(lambda: len(self.answers) == self.numbers - self.plan.first, within_s=20)

    async def _send_at(self, rate: float) -> None:
        sent = 0
        connecting: set[asyncio.Task[None]] = set()
        while (now := time.monotonic()) < self._ends:
            while sent < (now - self._began) * rate:
                number = self._next()
                sent += 1
                if self._idle:
                    self._idle.pop().send(number)
                    continue
                self._waiting.append(number)
                if self._open < self.plan.connections:
                    task = asyncio.create_task(self._connect())
                    connecting.add(task)
                    task.add_done_callback(connecting.discard)
            await asyncio.sleep(_TICK_S)

    async def _connect(self) -> None:
        self._open += 1
        await asyncio.get_running_loop().create_connection(lambda: Connection(self), "127.0.0.1", self.plan.port)


async def _main(plan: Plan) -> Load:
    load = Load(plan)
    await load.run()
    return load


def main() -> None:
    """Carry out the plan on standard input."""
    import uvloop

    given: dict[str, Any] = json.load(sys.stdin)
    load = uvloop.run(_main(Plan(**given)))
    sent = load.numbers - load.plan.first
    json.dump({"sent": sent, "answers": [list(asdict(each).values()) for each in load.answers]}, sys.stdout)


if __name__ == "__main__":
    main()
