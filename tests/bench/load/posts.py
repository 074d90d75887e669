"""Sends the same number of operations to any gateway, as cheaply as Python can: raw HTTP/1.1 on kept connections.

A process of its own: reads a plan as JSON from standard input, and writes what came of it to standard output. Closed
loop: each connection sends its next request when the last one was answered.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, cast

_LENGTH: Final = b"content-length: "


@dataclass(frozen=True, slots=True)
class Plan:
    """Operations that set a number to these calls in turn, `count` of them in all; `headers` as they are sent."""

    port: int
    calls: list[str]
    count: int
    connections: int
    headers: list[str]
    path: str = "/api/v2/me/calls/{call}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many answers there were of each status, and how long it took from the first request to the last answer."""

    statuses: dict[str, int]
    seconds: float


def request(plan: Plan, number: int) -> bytes:
    """The request with this number."""
    body = f'{{"operationName":"UpdateUserData","userData":{{"AccountNumber":"{number}"}}}}'
    path = plan.path.format(call=plan.calls[number % len(plan.calls)])
    lines = [f"POST {path} HTTP/1.1", "Host: bench", *plan.headers]
    return "\r\n".join(
        [*lines, "Content-Type: application/json", f"Content-Length: {len(body)}", "", body]
    ).encode()  # fmt: skip


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end >= 0:
            head = received[:end].lower()
            at = head.find(_LENGTH)
            length = int(head[at + len(_LENGTH) :].partition(b"\r")[0]) if at >= 0 else 0
            if len(received) >= end + 4 + length:
                self._received = b""
                self._load.answered(self, received[9:12].decode())
                return
        self._received = received

    def connection_lost(self, _: Exception | None) -> None:
        self._load.lost()


class Load:
    """Carries out a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._statuses: Counter[str] = Counter()
        self._sent = 0
        self._done = asyncio.Event()

    async def run(self) -> Outcome:
        """Connect, send everything, wait for the last answer."""
        loop = asyncio.get_running_loop()
        connections = [
            (await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._plan.port))[1]
            for _ in range(self._plan.connections)
        ]
        began = time.monotonic()
        await self.sending(connections)
        await self._done.wait()
        return Outcome(dict(self._statuses), time.monotonic() - began)

    def answered(self, connection: Connection, status: str) -> None:
        self._statuses[status] += 1
        if sum(self._statuses.values()) >= self._plan.count:
            self._done.set()
        elif self._sent < self._plan.count:
            self.next(connection)

    def lost(self) -> None:
        """A connection ended: the plan cannot be carried out."""
        if not self._done.is_set():
            self._statuses["lost"] += 1
            self._done.set()

    async def sending(self, connections: list[Connection]) -> None:
        """Begin to send, on each connection."""
        for connection in connections:
            self.next(connection)

    def next(self, connection: Connection) -> None:
        """A connection is free for the next request."""
        connection.send(request(self._plan, self._sent))
        self._sent += 1


async def _carry_out(plan: Plan) -> Outcome:
    return await Load(plan).run()


def main() -> None:
    """Carry out the plan on standard input."""
    import uvloop

    given: dict[str, Any] = json.load(sys.stdin)
    outcome = uvloop.run(_carry_out(Plan(**given)))
    json.dump({"statuses": outcome.statuses, "seconds": outcome.seconds}, sys.stdout)


if __name__ == "__main__":
    main()
