"""Many official JavaScript clients in one Node process, driven from Python."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts.documented import check
from parts.processes import program

JSON = dict[str, Any]
_SWARM = Path(__file__).parent / "swarm.mjs"


@dataclass(frozen=True, slots=True)
class Member:
    """One client of the swarm."""

    user: str
    version: str
    transport: str
    ack: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What one client saw; an event is the id of the call, its version, the event id and the replay id."""

    member: Member
    events: list[tuple[str, int, str, int]]
    handshakes: int
    missed: int
    failures: list[JSON]

    def versions(self) -> dict[str, list[int]]:
        """The versions of each call in the order in which they came; repeats, with the same event id, left out."""
        seen: dict[tuple[str, int], str] = {}
        for call, version, event_id, _ in self.events:
            assert seen.setdefault((call, version), event_id) == event_id, f"twice: {call} {version}"
        told: dict[str, list[int]] = {}
        for call, version in seen:
            told.setdefault(call, []).append(version)
        return told


class Swarm:
    """The clients; they are subscribed."""

    def __init__(self, process: asyncio.subprocess.Process, members: Sequence[Member]) -> None:
        self._process = process
        self._members = members

    async def ask(self, question: object) -> Any:
        """Send one line, and return the answer to it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        async with asyncio.timeout(60):
            line = await self._process.stdout.readline()
        assert line, "the swarm ended"
        return json.loads(line)

    async def seen(self) -> list[Seen]:
        """What each client has seen so far; AssertionError if a message is none that is documented."""
        told = await self.ask({})
        for message in told["received"]:
            check(message)
        return [Seen(member, **each) for member, each in zip(self._members, told["seen"], strict=True)]


@asynccontextmanager
async def swarm(url: str, channel: str, password: str, members: Sequence[Member]) -> AsyncIterator[Swarm]:
    """Start the clients, and wait until each is subscribed."""
    process = await asyncio.create_subprocess_exec(
        program("node"), str(_SWARM), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 28
    )
    clients = [
        {"user": each.user, "version": each.version, "transport": each.transport, "ack": each.ack} for each in members
    ]
    try:
        made = Swarm(process, members)
        assert await made.ask({"url": url, "channel": channel, "password": password, "clients": clients}) is True
        yield made
    finally:
        process.kill()
        await process.wait()
