"""Requests to CometD without a network."""

import asyncio
from itertools import count
from typing import Any, cast

import orjson

from calltag.core.http.direct import Fields
from calltag.notifier.bayeux_server import BayeuxServer
from calltag.notifier.browsers import UNLIMITED, Browsers, Origins
from calltag.notifier.http import CometdHttp
from parts.frames import SHOWN, Alices, head_of, web_sockets

_IDS = count(100_000)


def cometd_http(
    server: BayeuxServer, *, origins: Origins | None = None, browsers: Browsers | None = None
) -> CometdHttp:
    """CometD at a node, where all requests are alice's."""
    return CometdHttp(
        server, Alices(), origins or Origins(), browsers or Browsers(UNLIMITED), web_sockets(server),
        server.sessions.metrics, 10.0,
    )  # fmt: skip


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name, value


class Poll:
    """Stands for a DirectRequest: a POST on a connection of its own, unless that is given, and the answer to it."""

    def __init__(
        self,
        http: CometdHttp,
        *messages: object,
        body: bytes | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
        connection_id: int | None = None,
    ) -> None:
        self.head = head_of(SHOWN if headers is None else headers)
        self.body = orjson.dumps(messages) if body is None else body
        self.on_gone: Any = None
        self.keeps_alive = True
        self.client, self.scheme = ("192.0.2.1", 40_000), "http"
        self.connection_id = next(_IDS) if connection_id is None else connection_id
        self.is_half_closed = self._is_lost = False
        self.answered = asyncio.Event()
        self.status = 0
        """The status of the answer; 0 while there is none."""
        self.fields: dict[bytes, list[bytes]] = {}
        self.text = b""
        http.handle(cast("Any", self))

    # -- the server's side -----------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return not (self.status or self._is_lost)

    def notify_gone(self, on_gone: Any) -> None:
        self.on_gone = on_gone

    def respond(self, status: int, fields: Fields, body: bytes) -> bool:
        if not self.is_open:
            return False
        self.status, self.text, self.on_gone = status, body, None
        for name, value in fields:
            self.fields.setdefault(name, []).append(value)
        self.answered.set()
        return True

    def respond_prepared(self, lines: bytes, body: bytes) -> bool:
        first, *fields = lines.removesuffix(b"\r\n").split(b"\r\n")
        return self.respond(int(first.split()[1]), [_field(each) for each in fields], body)

    # -- the client's side -----------------------------------------------------------------------------------------

    def break_off(self) -> None:
        """The connection breaks."""
        self._is_lost = True
        self._gone(is_lost=True)

    def half_close(self) -> None:
        """The client sends no more, and may still read."""
        self.is_half_closed = True
        self._gone(is_lost=False)

    def _gone(self, *, is_lost: bool) -> None:
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone(is_lost)

    async def messages(self) -> list[dict[str, Any]]:
        """The messages of the answer, however long it takes."""
        await self.answered.wait()
        assert self.status == 200, (self.status, self.text)
        return cast("list[dict[str, Any]]", orjson.loads(self.text))
