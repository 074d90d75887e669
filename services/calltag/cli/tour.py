"""The tour: what a newcomer pastes into a shell, and the same done by `calltag demo`."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from calltag.core.backends import Backends
from calltag.core.settings import Settings
from calltag.core.store.embedded import EmbeddedStore

DEVICE = "631608b3-ceb1-472b-ba05-2ae39555b0d1"
_START_DEADLINE_S = 20.0


def welcome(settings: Settings, parts: Backends) -> str:
    """What is printed when the demo is ready."""
    match parts.embedded:
        case None:
            kept = "Data is kept in Redis."
        case EmbeddedStore(kept_in=None) as store:
            kept = f"Data is in memory only and ends with calltag: {store.reason}."
        case EmbeddedStore(kept_in=Path() as folder):
            kept = f"Data is kept in {folder.resolve()} between runs."
    template = resources.files("calltag.cli").joinpath("tour.txt").read_text(encoding="utf-8")
    return template.format(url=settings.public_url, device=DEVICE, kept=kept)


@dataclass(frozen=True, slots=True)
class Tour:
    """Runs the tour against `url` and prints what goes to and fro."""

    url: str
    console: Console

    async def run(self, *, own_if_absent: bool) -> int:
        """Returns the exit code."""
        async with contextlib.AsyncExitStack() as stack:
            if not await self._answers():
                if not own_if_absent:
                    self.console.print(f"Nothing answers at {self.url}. Start it with: make run")
                    return 1
                await stack.enter_async_context(self._own_instance())
            return await self._walk()

    async def _answers(self) -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{self.url}/api/v2/me", timeout=2)).status_code == 401
        except httpx.HTTPError:
            return False

    @asynccontextmanager
    async def _own_instance(self) -> AsyncIterator[None]:
        port = str(httpx.URL(self.url).port or 80)
        self.console.print(f"Nothing runs at {self.url}; starting an own instance ...")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from calltag.cli.main import main; main()",
            "serve", "--embedded", "--demo", "--port", port,
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                while not await self._answers():
                    if process.returncode is not None:
                        raise SystemExit(process.returncode)
                    await asyncio.sleep(0.1)
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    async def _walk(self) -> int:
        async with httpx.AsyncClient(base_url=self.url, timeout=40) as http:
            await self._show(http, "Sign in as alice", "GET", "/api/v2/me", auth=("alice", "demo"))
            hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
            shaken = await self._comet(http, "Shake hands with CometD", hello)
            client = shaken[-1]["clientId"]
            subscribe = {"channel": "/meta/subscribe", "clientId": client, "subscription": "/v2/me/calls"}
            await self._comet(http, "Subscribe to the calls of alice", subscribe)
            connect = {"channel": "/meta/connect", "clientId": client, "connectionType": "long-polling"}
            await self._comet(http, "The first connect returns at once", connect)
            dial = {"operationName": "Dial", "destination": {"phoneNumber": "15001"}}
            path = f"/api/v2/me/devices/{DEVICE}/calls"
            dialed = await self._show(http, "Dial bob", "POST", path, json=dial, headers={"Prefer": "wait=5"})
            call = dialed["call"]["id"]
            await self._comet(http, "The call is there", connect)
            attach = {"operationName": "AttachUserData", "userData": {"AccountNumber": "12345"}}
            await self._show(http, "Attach data to the call", "POST", f"/api/v2/me/calls/{call}", json=attach)
            messages = await self._comet(http, "And the message comes", connect)
            hangup = {"operationName": "Hangup"}
            await self._show(http, "Hang up", "POST", f"/api/v2/me/calls/{call}", json=hangup)
            await self._comet(http, "Take leave", {"channel": "/meta/disconnect", "clientId": client})
        told = [each for each in messages if each["channel"] == "/v2/me/calls"]
        good = bool(told) and told[0]["data"]["call"].get("userData") == {"AccountNumber": "12345"}
        self.console.print("The tour is complete." if good else "The message did not come as expected.")
        return 0 if good else 1

    async def _comet(self, http: httpx.AsyncClient, title: str, message: dict[str, Any]) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = await self._show(http, title, "POST", "/genesys/cometd", json=[message])
        return answer

    async def _show(self, http: httpx.AsyncClient, title: str, method: str, path: str, **more: Any) -> Any:
        self.console.print(f"[bold]{title}[/bold]")
        body = f" {json.dumps(more['json'])}" if "json" in more else ""
        self.console.print(f"  → {method} {path}{body}", markup=False)
        response = await http.request(method, path, **more)
        response.raise_for_status()
        answer = response.json()
        for line in json.dumps(answer, indent=2, ensure_ascii=False).splitlines():
            self.console.print(f"  ← {line}", markup=False)
        return answer
