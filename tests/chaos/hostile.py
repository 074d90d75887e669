"""Hostile clients: attacks on the connection layer, each run in a process of its own with the lowest priority.

`python -m chaos.hostile` reads a plan as JSON from standard input, runs it, and writes a report as JSON.
"""

import base64
import contextlib
import json
import os
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

TURN_S: Final = 0.05
_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLRDHUP
_RETRY: Final = (TimeoutError, BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError)


@dataclass(frozen=True, slots=True)
class Plan:
    """One attack on one server; `source` is the loopback address that it comes from."""

    attack: str
    port: int
    path: str
    source: str
    seconds: float
    ca_file: str = ""


@dataclass(slots=True)
class Report:
    """Counts of one attack."""

    attack: str
    sent_bytes: int = 0
    received_bytes: int = 0
    connections: int = 0
    most_open: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    """Reasons why connections ended."""
    last: str = ""
    """The beginning of the last answer that was read."""

    def end(self, reason: str) -> None:
        self.ends[reason] = self.ends.get(reason, 0) + 1

    def __str__(self) -> str:
        return (
            f"{self.attack}: {self.connections} connections ({self.most_open} at a time), sent "
            f"{self.sent_bytes / 1e6:.1f} MB, received {self.received_bytes / 1e6:.1f} MB, ended by "
            f"{self.ends}, last answer {self.last[:60]!r}"
        )


def mask(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A WebSocket frame of a client, masked with zeros."""
    head = bytes([(0x80 if final else 0) | opcode])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    else:
        head += bytes([0x80 | 126]) + struct.pack("!H", size)
    return head + bytes(4) + payload


def request(first: str, *fields: str) -> bytes:
    return "\r\n".join((first, "Host: a", *fields, "", "")).encode()


POST = "POST <path> HTTP/1.1"
CHUNKED: Final = request(POST, "Content-Type: application/json", "Transfer-Encoding: chunked")
UPGRADE: Final = request(
    "GET <path> HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
)  # fmt: skip
MINIMAL: Final = request("GET /x HTTP/1.1")
HANDSHAKE: Final = b'[{"channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["long-polling"]}]'
UNKNOWN: Final = b'[{"channel":"/meta/unsubscribe","clientId":"none","subscription":"/none"}]'
EXPECTS: Final = request(POST, "Content-Type: application/json", "Expect: 100-continue", "Content-Length: 2") + b"[]"


def is_gone(opened: socket.socket) -> bool:
    """Whether the server has closed, without reading."""
    poll = select.poll()
    poll.register(opened, _GONE)
    return bool(poll.poll(0))


@dataclass(frozen=True, slots=True)
class Flood:
    """One connection after another: `opening` once, and then `again` as fast as the server takes it."""

    opening: bytes
    again: bytes
    reads: bool = True
    begins: bytes = b""
    """Sent once after `opening` has been answered, where that is an upgrade."""
    rate: float = 0.0
    """`again` per second; 0 is no limit."""

    def run(self, line: "Line") -> None:
        while line.is_on():
            with line.connected(rcvbuf=0 if self.reads else 4_096) as opened:
                if opened is not None:
                    line.report.end(self._flood(line, opened))
            time.sleep(0.01)

    def _flood(self, line: "Line", opened: socket.socket) -> str:
        try:
            line.send(opened, self.opening)
            if self.opening is UPGRADE and not line.read(opened):
                return "refused"
            line.send(opened, self.begins)
            due = time.monotonic()
            while line.is_on():
                if self.reads and not line.read_what_is_there(opened):
                    return "close"
                line.send(opened, self.again)
                due += 1 / self.rate if self.rate else 0
                time.sleep(max(0.0, due - time.monotonic()) if self.rate else 0)
        except OSError as error:
            return type(error).__name__
        return "time"


@dataclass(frozen=True, slots=True)
class Hold:
    """Many connections at a time that never read: `opening` once each, `drip` again and again."""

    count: int
    opening: bytes
    drip: bytes = b""
    every_s: float = 0.5

    def run(self, line: "Line") -> None:
        held: list[socket.socket] = []
        due = 0.0
        while line.is_on():
            held = [each for each in held if not self._is_gone(line, each)]
            if len(held) < self.count:
                held += line.several(min(20, self.count - len(held)), self.opening)
            line.report.most_open = max(line.report.most_open, len(held))
            if self.drip and time.monotonic() > due:
                due = time.monotonic() + self.every_s
                for each in held:
                    line.send_what_fits(each, self.drip)
            time.sleep(TURN_S)

    def _is_gone(self, line: "Line", each: socket.socket) -> bool:
        if not is_gone(each):
            return False
        line.report.end("close")
        each.close()
        return True


@dataclass(frozen=True, slots=True)
class Churn:
    """Connections that open, send something, and close at once; every second one by a reset."""

    opening: bytes = b""

    def run(self, line: "Line") -> None:
        while line.is_on():
            with line.connected() as opened:
                if opened is None:
                    continue
                with contextlib.suppress(OSError):
                    line.send_what_fits(opened, self.opening)
                    if line.report.connections % 2:
                        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass(frozen=True, slots=True)
class HalfHandshakes:
    """Connections that begin a TLS handshake and leave it there."""

    count: int

    def run(self, line: "Line") -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        half = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            half.do_handshake()
        hello = outgoing.read()
        line.context = None
        Hold(self.count, hello[: len(hello) // 2]).run(line)


Attack = Flood | Hold | Churn | HalfHandshakes
HTTP: Final[dict[str, Attack]] = {
    "pipelining and reading": Flood(b"", MINIMAL * 10_000),
    "pipelining and never reading": Hold(20, MINIMAL * 10_000, MINIMAL * 10_000, TURN_S),
    "endless trailers": Flood(CHUNKED + b"2\r\n[]\r\n0\r\n", b"a:\r\n" * 16_000),
    "one endless trailer": Flood(CHUNKED + b"2\r\n[]\r\n0\r\nx: ", b"a" * 64_000),
    "chunks of one byte": Flood(CHUNKED, b"1\r\n \r\n" * 10_000),
    "chunk extensions": Flood(CHUNKED, (b"1;" + b"a" * 500 + b"\r\n \r\n") * 100),
    "chunks that nobody reads": Flood(CHUNKED.replace(b"<path>", b"/x"), b"1\r\n \r\n" * 10_000),
}
CONNECTIONS: Final[dict[str, Attack]] = {
    "never reading": Hold(15, MINIMAL * 500),
    "large answers and never reading": Hold(15, request("GET /docs/files/swagger-ui-bundle.js HTTP/1.1") * 8),
    "all places": Hold(400, MINIMAL),
    "slow heads": Hold(15, b"GET /x HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n"),
    "slow bodies": Hold(15, request(POST, "Content-Length: 10000"), b" "),
    "large bodies": Flood(request(POST, "Content-Length: 1000000000"), b" " * 64_000, reads=False),
    "heads at the limit": Flood(b"", request("GET /x HTTP/1.1", *(f"X-{n}: {'y' * 300}" for n in range(180)))),
    "malformed requests": Flood(b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n", b"\r\n"),
    "empty lines": Flood(b"", b"\r\n" * 32_000),
    "100 Continue without end": Flood(b"", EXPECTS * 500, reads=False),
    "opening and closing": Churn(b"GET /x HTTP/1.1\r\n"),
}
WEBSOCKETS: Final[dict[str, Attack]] = {
    "pings and never reading": Flood(UPGRADE, mask(9, b"x" * 125) * 400, reads=False),
    "pings and reading": Flood(UPGRADE, mask(9, b"x") * 2_000),
    "pongs": Flood(UPGRADE, mask(10) * 10_000),
    "empty fragments": Flood(UPGRADE, mask(0, final=False) * 20_000, begins=mask(1, b"[", final=False)),
    "fragments of one byte": Flood(UPGRADE, mask(0, b" ", final=False) * 20_000, begins=mask(1, b"[", final=False)),
    "small messages": Flood(UPGRADE, mask(1, UNKNOWN) * 200),
    "small messages and never reading": Flood(UPGRADE, mask(1, UNKNOWN) * 200, reads=False),
    "messages that are empty arrays": Flood(UPGRADE, mask(1, b"[]") * 2_000),
    "handshakes without credentials": Flood(UPGRADE, mask(1, HANDSHAKE) * 8, rate=500),
    "idle": Hold(20, UPGRADE),
}
TLS: Final[dict[str, Attack]] = {
    "half handshakes": HalfHandshakes(20),
    "handshakes and closing": Churn(b"GET /x HTTP/1.1\r\n"),
}
ATTACKS: Final[dict[str, Attack]] = {**HTTP, **CONNECTIONS, **WEBSOCKETS, **TLS}


class Line:
    """Connections of one attack, while it lasts."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.report = Report(plan.attack)
        self.context = ssl.create_default_context(cafile=plan.ca_file) if plan.ca_file else None
        self._ends = time.monotonic() + plan.seconds

    def is_on(self) -> bool:
        return time.monotonic() < self._ends

    @contextlib.contextmanager
    def connected(self, rcvbuf: int = 0) -> Iterator[socket.socket | None]:
        """A new connection; None where the server takes none."""
        opened = self._connect(rcvbuf)
        try:
            yield opened
        finally:
            if opened is not None:
                opened.close()

    def several(self, count: int, opening: bytes) -> list[socket.socket]:
        """So many new connections, as far as the server takes them."""
        opened: list[socket.socket] = []
        for _ in range(count):
            one = self._connect(4_096)
            if one is None:
                break
            self.send_what_fits(one, opening)
            opened.append(one)
        return opened

    def send(self, opened: socket.socket, data: bytes) -> None:
        """Send all, for as long as the attack lasts."""
        rest = memoryview(data.replace(b"<path>", self.plan.path.encode()))
        while rest and self.is_on():
            try:
                sent = opened.send(rest)
            except _RETRY:
                # The server does not read; a real client would wait here as well.
                if not self.read_what_is_there(opened, most=0):
                    raise ConnectionError from None
                continue
            self.report.sent_bytes += sent
            rest = rest[sent:]

    def send_what_fits(self, opened: socket.socket, data: bytes) -> None:
        with contextlib.suppress(OSError):
            opened.settimeout(0)
            self.report.sent_bytes += opened.send(data.replace(b"<path>", self.plan.path.encode()))

    def read(self, opened: socket.socket) -> bool:
        """Read once, waiting for it; false where there was nothing, or no answer below 400."""
        opened.settimeout(10)
        data = opened.recv(65_536)
        opened.settimeout(TURN_S)
        self._received(data)
        return data.startswith((b"HTTP/1.1 1", b"HTTP/1.1 2"))

    def read_what_is_there(self, opened: socket.socket, most: int = 1_000_000) -> bool:
        """Read without waiting; false where the server has closed."""
        if most == 0:
            return not is_gone(opened)
        opened.settimeout(0)
        try:
            while most > 0 and (data := opened.recv(65_536)):
                self._received(data)
                most -= len(data)
        except _RETRY:
            return True
        finally:
            opened.settimeout(TURN_S)
        return most <= 0

    def _received(self, data: bytes) -> None:
        self.report.received_bytes += len(data)
        self.report.last = data[:60].decode("latin-1")

    def _connect(self, rcvbuf: int) -> socket.socket | None:
        opened = socket.socket()
        try:
            if rcvbuf:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            opened.settimeout(5)
            opened.bind((self.plan.source, 0))
            opened.connect(("127.0.0.1", self.plan.port))
            if self.context is not None:
                opened = self.context.wrap_socket(opened, server_hostname="localhost")
            opened.settimeout(TURN_S)
        except OSError as error:
            self.report.end(f"not connected: {type(error).__name__}")
            opened.close()
            time.sleep(0.01)
            return None
        self.report.connections += 1
        return opened


def give_way() -> None:
    """Take the lowest priority, among processes and among groups of them."""
    os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


def main() -> None:
    plan = Plan(**json.load(sys.stdin))
    line = Line(plan)
    attack = ATTACKS[plan.attack]
    if not (isinstance(attack, Flood) and attack.rate):
        # An attack at a fixed rate takes little of the processor, and would be none without it.
        give_way()
    attack.run(line)
    json.dump(asdict(line.report), sys.stdout)
    sys.stdout.flush()
    # Thousands of sockets close with the process.
    os._exit(0)


if __name__ == "__main__":
    main()
