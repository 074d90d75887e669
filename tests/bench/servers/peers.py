"""Peers of calltag's notifier: Faye, and CometD's server for Node."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench.load.talking import Broken, Talking, talking
from bench.servers.bayeux import TIMEOUT_S, Group, message, name_of
from parts.ports import free_port
from parts.processes import program

_PEERS: Final = Path(__file__).parent.parent / "peers"
FAYE: Final = "faye"
COMETD: Final = "cometd"
_PATHS: Final = {FAYE: "/bayeux", COMETD: "/cometd"}


class Peer:
    """Implements BayeuxServer with a program of Node's."""

    def __init__(self, name: str, port: int, process: Talking) -> None:
        self.port = port
        self.path = _PATHS[name]
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pids(self) -> Sequence[int]:
        return [self.pid]

    def channel_of(self, user: int) -> str:
        return f"/v2/users/{name_of(user)}/calls"

    def cookie_of(self, user: int) -> str:  # noqa: ARG002 - the interface's
        return ""

    async def publish(self, first: int, group: Group) -> None:
        await self._ask({"first": first, "publish": [[self.channel_of(user) for user in users] for users in group]})

    async def collect(self) -> None:
        await self._ask({"collect": True})

    async def _ask(self, line: object) -> None:
        self._process.say(line)
        await expect(self._process, "done")

    async def begin(self) -> None:
        await expect(self._process, "ready")
        await self._ask({"message": message()})


async def expect(process: Talking, word: str) -> None:
    """Raises Broken."""
    heard = await process.heard()
    if heard != word:
        raise Broken(f"a peer said {heard!r} instead of {word!r}")


@asynccontextmanager
async def peer(name: str) -> AsyncIterator[Peer]:
    """One of the peers, on a free port."""
    port = free_port()
    command = [program("node"), "--expose-gc", str(_PEERS / f"{name}.mjs"), str(port), str(TIMEOUT_S)]
    async with talking(name, command, {"NODE_ENV": "production"}) as process:
        made = Peer(name, port, process)
        await made.begin()
        yield made
