"""CometD at a node, as it answers at once what it can, or with every request in a task of its own; and what of the
answers has to be the same.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from starlette.responses import PlainTextResponse

from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.http.scope import COMETD_PATHS
from calltag.core.http.server import Server, ServerOptions
from calltag.core.store.embedded import embedded_store
from calltag.notifier.bayeux_server import BayeuxServer
from calltag.notifier.http import CometdHttp
from calltag.notifier.session_registry import RequestContext
from fuzz.peer import Peer
from parts.eventually import turns
from parts.hubs import Client, Installation, Node
from parts.polls import cometd_http

PATH: Final = COMETD_PATHS[0].encode()
LEASE_MS: Final = 600_000
"""Longer than any input takes."""
_CHANCES: Final = (
    # Ids of alice's sessions.
    (re.compile(rb"c[a-z2-7]{40}"), b"@"),
    # A refused client is told to come back at a time that is drawn; positions are of their time.
    (re.compile(rb'"interval":\d{4,5}\b'), b'"interval":1'),
    (re.compile(rb"\b\d{14,16}\b"), b"1"),
)


class InTasks(BayeuxServer):
    """Answers nothing at once."""

    def process_now(self, messages: Sequence[object], context: RequestContext) -> None:
        return None


@dataclass(slots=True)
class Cometd:
    """One node, its HTTP server without a socket, and a session of alice's."""

    installation: Installation
    http: CometdHttp
    server: Server
    alice: Client

    @property
    def node(self) -> Node:
        return self.installation.one

    def peer(self) -> Peer:
        """A new connection."""
        return Peer(self.server)

    async def quiet(self) -> None:
        """Wait until nothing is under way but suspended connects."""
        while True:
            await turns(8)
            tasks = {*self.http.tasks, *self.http.sockets.tasks, *self.server.tasks}
            if not tasks:
                break
            await asyncio.wait(tasks)
        await self.node.background.finish()
        await turns(8)

    async def answer_suspended(self) -> None:
        """Answer the connects that wait, as their timeouts would."""
        for resident in list(self.node.registry.residents.values()):
            if resident.suspended is not None:
                self.node.sessions.answer(resident.suspended)
        await self.quiet()


@asynccontextmanager
async def cometd(limits: BayeuxLimits, *, at_once: bool, ack: bool) -> AsyncIterator[Cometd]:
    """A node with a session that is connected."""
    async with embedded_store(None, deadline_s=30) as store:
        installation = Installation(store.client, limits, lease_ms=LEASE_MS)
        await installation.begin()
        node = installation.one
        if not at_once:
            node.server = InTasks(node.sessions, is_reachable=True, parting_s=0.0)
        http = cometd_http(node.server)
        server = Server(PlainTextResponse("", 404), ServerOptions(), direct=http)
        server.on_broken = node.sessions.connection_broke
        try:
            yield Cometd(installation, http, server, await Client().begin(node, ack=ack))
        finally:
            await installation.settle()


def without_chances(text: bytes) -> bytes:
    """The text without what differs from one time to the next."""
    for pattern, instead in _CHANCES:
        text = pattern.sub(instead, text)
    return text
