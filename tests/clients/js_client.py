"""The official JavaScript client, driven from Python."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from parts.processes import program

_FOLDER = Path(__file__).parent
JSON = dict[str, Any]


class JsClient:
    """One client in a Node process; what happens is read from `next`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def next(self, what: str, within_s: float = 20.0) -> JSON:
        """The next thing of that kind; others are passed over."""
        assert self._process.stdout is not None
        async with asyncio.timeout(within_s):
            while True:
                line = await self._process.stdout.readline()
                assert line, "the client ended"
                told = json.loads(line)
                if told["what"] == what:
                    message: JSON = told["message"]
                    return message

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
    """A client of that version, as in `cometd-9`."""
    process = await asyncio.create_subprocess_exec(
        program("node"), str(_FOLDER / "driver.mjs"), version,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
    )  # fmt: skip
    client = JsClient(process)
    try:
        await client.next("ready")
        yield client
    finally:
        process.kill()
        await process.wait()
