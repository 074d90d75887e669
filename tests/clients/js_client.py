"""JavaScript clients, the official one and Faye's, driven from Python."""

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from parts.documented import check
from parts.processes import program

_FOLDER = Path(__file__).parent
JSON = dict[str, Any]
_REMEMBERED = 60
_SHOWN = 400
"""How many of the last things heard are shown where something did not come, and how many characters of each."""


class JsClient:
    """One client in a Node process; what happens is read from `next`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.events: list[JSON] = []
        """All that were read."""
        self.handshakes = 0
        """How many went out, of what was read."""
        self._heard: deque[str] = deque(maxlen=_REMEMBERED)

    def versions(self) -> list[int]:
        """The versions of the call in the order in which they came; repeats, which have the same event id, left out."""
        seen: dict[str, int] = {}
        for event in self.events:
            told = event["ext"]["calltag"]
            assert seen.setdefault(told["eventId"], told["version"]) == told["version"]
        return list(seen.values())

    async def do(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def next(self, what: str, within_s: float = 20.0) -> JSON:
        """The next thing of that kind; others are passed over. Each message that comes has to be a documented one."""
        try:
            async with asyncio.timeout(within_s):
                return await self._next(what)
        except TimeoutError:
            heard = "\n".join(self._heard)
            raise AssertionError(f"no {what} within {within_s:g} s; heard at last:\n{heard}") from None

    async def _next(self, what: str) -> JSON:
        assert self._process.stdout is not None
        while True:
            line = await self._process.stdout.readline()
            assert line, "the client ended"
            told = json.loads(line)
            message: JSON = told["message"] if isinstance(told["message"], dict) else {}
            if told["what"] == "received":
                check(message)
                continue
            self._heard.append(f"{time.strftime('%X')} {line.decode().strip()[:_SHOWN]}")
            if told["what"] == "event":
                self.events.append(message)
            self.handshakes += told["what"] == "sent"
            if told["what"] == what:
                return message

    async def reload(self) -> JSON:
        """Have a new page take the place of the page; returns the handshake that the new one sees."""
        await self.do(reload=True)
        return await self.next("handshake")

    async def sign_in(self, url: str, transport: str, user: str, *extensions: str) -> JSON:
        """Handshake over the transport: Basic where there are request headers, else credentials in the message."""
        common = {"url": url, "transport": transport, "extensions": extensions}
        if transport == "long-polling":
            credentials = base64.b64encode(f"{user}:demo".encode()).decode()
            await self.do(configure={**common, "headers": {"Authorization": f"Basic {credentials}"}})
            await self.do(handshake={})
        else:
            await self.do(configure=common)
            await self.do(handshake={"ext": {"authentication": {"username": user, "password": "demo"}}})
        return await self.next("handshake")


@asynccontextmanager
async def js_client(version: str) -> AsyncIterator[JsClient]:
    """The official client of that version, as in `cometd-9`, or `faye`."""
    driver = "faye_driver.mjs" if version == "faye" else "driver.mjs"
    process = await asyncio.create_subprocess_exec(
        program("node"), str(_FOLDER / driver), version,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
    )  # fmt: skip
    client = JsClient(process)
    try:
        await client.next("ready")
        yield client
    finally:
        process.kill()
        await process.wait()
