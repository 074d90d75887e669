"""CometD by HTTP: bytes in pieces, given to a connection without a socket, with the notifier behind it.

The first byte of an input is the size of a piece; where that is odd, the session acknowledges. The rest is lines, each
the body of a POST, but: `!` publishes an event, `#` ends the connection and begins the next one, `|` does so when the
client has closed its sending side, and after `^` bytes go as they are, `~` for the end of a line. `@` stands for the id
of a session that is connected.

Each input goes twice: in pieces to a node that answers at once what it can, and whole to one that has a task for each
request. The answers are the same.
"""

import re
from collections.abc import Iterator

import orjson

from calltag.notifier.http import REPLACED
from fuzz.cometd import PATH, Cometd, cometd, without_chances
from fuzz.target import LOOP, Target
from fuzz.targets import bayeux
from fuzz.targets.bayeux import ACKNOWLEDGED, CONNECT, HELLO, LIMITS, check_bounds

MOST_LINES = 12
FORM = b"message=" + CONNECT.replace(b"&", b"%26")
SEEDS = [
    b"\xff" + b"\n".join([CONNECT] * 4),
    b"\x05" + b"\n!\n".join([CONNECT] * 4),
    b"\x06" + b"\n!\n!\n".join(ACKNOWLEDGED),
    b"\x40" + CONNECT + b"\n!\n#\n" + CONNECT + b"\n" + CONNECT,
    b"\x40" + CONNECT + b"\n|\n!\n" + CONNECT + b"\n" + CONNECT,
    b"\xff" + HELLO + b"\n[]\n{\n" + CONNECT,
    b"\x01^POST " + PATH + b"/connect HTTP/1.1~Host: a~Transfer-Encoding: chunked~~2~[]~0~~\n" + CONNECT,
    b"\xff^POST " + PATH + b" HTTP/1.1~Host: a~Content-Length: 99999999~~[",
    b"\x10^POST " + PATH + b" HTTP/1.1~Host: a~Origin: http://b~Content-Length: 2~~[]\n^GET / HTTP/1.1~Host: a~~",
    b"\x80" + CONNECT.replace(b'"id"', b'"advice":{"timeout":0},"id"') + b"\n!\n" + CONNECT,
    *(b"\x20" + seed for seed in bayeux.SEEDS),
]
WORDS = [
    *bayeux.WORDS, b"\n#\n", b"\n|\n", b"\n^", b"~", b"POST " + PATH + b" HTTP/1.1~", b"Host: a~",
    b"Content-Length: 2~",
    b"Content-Type: application/x-www-form-urlencoded~", b"Connection: close~", b"Cookie: BAYEUX_BROWSER=a~", FORM,
]  # fmt: skip


def one_input(data: bytes) -> None:
    """Each request has one answer, or its connection is closed; the answers do not depend on pieces or tasks."""
    LOOP.run(_compare(data[1:], 1 + (data[0] if data else 0)))


async def _compare(data: bytes, piece: int) -> None:
    ack = piece % 2 == 1
    async with cometd(LIMITS, at_once=True, ack=ack) as at_once, cometd(LIMITS, at_once=False, ack=ack) as in_tasks:
        assert await _talk(at_once, data, piece) == await _talk(in_tasks, data, len(data) + 1)


async def _talk(served: Cometd, data: bytes, piece: int) -> list[list[tuple[int, bytes]]]:
    """The answers, by connection."""
    talk = _Talk(served, piece)
    # Who calls is known from here on.
    await talk.line(0, CONNECT)
    await served.quiet()
    for number, line in enumerate(data.split(b"\n")[:MOST_LINES], 1):
        await talk.line(number, line)
        await served.quiet()
        check_bounds(served.node)
    await served.answer_suspended()
    talk.check_answered()
    for peer in talk.peers:
        peer.go()
    await served.quiet()
    assert not served.server.connections
    return [list(_answers(peer.written)) for peer in talk.peers]


class _Talk:
    def __init__(self, served: Cometd, piece: int) -> None:
        self.peers = [served.peer()]
        self._served, self._piece = served, piece
        self._asked = 0
        """Requests on the last connection; negative where that cannot be known."""

    async def line(self, number: int, line: bytes) -> None:
        if line.startswith(b"!"):
            await self._served.installation.publish(number)
        elif line.startswith((b"#", b"|")):
            if line.startswith(b"|"):
                self.peers[-1].close_sending_side()
                await self._served.quiet()
            self._begin()
        else:
            await self._served.answer_suspended()
            self.check_answered()
            if self.peers[-1].wire.closed:
                self._begin()
            line = line.replace(b"@", self._served.alice.client_id.encode())
            is_raw = line.startswith(b"^")
            self._asked = -2 * MOST_LINES if is_raw else self._asked + 1
            await self.peers[-1].send(line[1:].replace(b"~", b"\r\n") if is_raw else _post(line), self._piece)

    def _begin(self) -> None:
        self.peers[-1].go()
        self.peers.append(self._served.peer())
        self._asked = 0

    def check_answered(self) -> None:
        """All that was asked for whole has its answer, in a connection that is open."""
        peer = self.peers[-1]
        answered = len(list(_answers(peer.written)))
        assert peer.wire.closed or self._asked < 0 or answered == self._asked


def _post(body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (PATH, len(body), body)


def _answers(written: bytes) -> Iterator[tuple[int, bytes]]:
    """Status and body of each answer that is there whole."""
    while written:
        head, _, written = written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), head
        status = int(head[9:12])
        if status == 100:
            continue
        length = re.search(rb"(?im)^content-length: (\d+)\r?$", head)
        size = int(length[1]) if length is not None else 0
        body, written = written[:size], written[size:]
        assert status != 500 or body == REPLACED
        if status == 200:
            assert isinstance(orjson.loads(body), list)
        if body.startswith(b'{"statusCode":'):
            # No HTTP: what is found wrong first depends on how much has come.
            status, body = 400, b""
        yield status, without_chances(body)


TARGET = Target("cometd_http", one_input, SEEDS, WORDS, slow=True)
