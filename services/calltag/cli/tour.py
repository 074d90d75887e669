"""The tour: lines for newcomers to paste into a shell, and the same steps run by `calltag demo`."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

from calltag.core.backends import Backends
from calltag.core.process.os_limits import exit_with_parent
from calltag.core.store.embedded import EmbeddedStore

_START_DEADLINE_S: Final = 20.0
_STOP_DEADLINE_S: Final = 20.0
_POLL_S: Final = 0.1
DEVICE: Final = "631608b3-ceb1-472b-ba05-2ae39555b0d1"
_THIS_MACHINE: Final = ("127.0.0.1", "localhost")


class NotStarted(Exception):
    """The instance did not start; the message says so, and the instance itself has printed why."""


async def answers(url: str) -> bool:
    """Return whether calltag runs at the URL."""
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{url}/api/v2/me", timeout=2)).status_code == 401
    except httpx.HTTPError:
        propagate_cancellation()
        return False


def propagate_cancellation() -> None:
    """Raise CancelledError if the current task was cancelled but still runs.

    The HTTP client may swallow a cancellation that coincides with a failing connection attempt.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@asynccontextmanager
async def own_instance(url: str) -> AsyncIterator[None]:
    """Run calltag with the demo contact centre on the URL's port, in a temporary folder. Raises NotStarted."""
    port = str(httpx.URL(url).port or 80)
    with tempfile.TemporaryDirectory(prefix="calltag-demo-") as folder, _cancelled_by_sigterm():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from calltag.cli.main import main; main()",
            "serve", "--embedded", "--demo", "--port", port,
            env={**os.environ, "CALLTAG_EMBEDDED__FOLDER": folder},
            stdout=asyncio.subprocess.DEVNULL,
            # Ctrl-C signals only the command, which then stops the instance gracefully.
            process_group=0,
            preexec_fn=exit_with_parent(),
        )  # fmt: skip
        try:
            await _started(process, url)
            yield
        finally:
            await _end(process)


@contextmanager
def _cancelled_by_sigterm() -> Iterator[None]:
    """Cancel the current task on SIGTERM, as on Ctrl-C."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    loop.add_signal_handler(signal.SIGTERM, lambda: task and task.cancel())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _started(process: Process, url: str) -> None:
    try:
        async with asyncio.timeout(_START_DEADLINE_S):
            while not await answers(url):
                propagate_cancellation()
                if process.returncode is not None:
                    raise NotStarted(f"The own instance ended with exit code {process.returncode}.")
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise NotStarted(f"The own instance did not start within {_START_DEADLINE_S:g} s.") from None


async def _end(process: Process) -> None:
    """Stop the instance; kill it after a timeout, or on a second Ctrl-C."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_DEADLINE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise


def welcome(parts: Backends) -> str:
    """Return the text to print when the demo is ready."""
    match parts.embedded:
        case None:
            kept = "Data is kept in Redis."
        case EmbeddedStore(kept_in=None) as store:
            kept = f"Data is in memory only and ends with calltag: {store.reason}."
        case EmbeddedStore(kept_in=Path() as folder):
            kept = f"Data is kept in {folder.resolve()} between runs."
    template = resources.files("calltag.cli").joinpath("tour.txt").read_text(encoding="utf-8")
    return template.format(url=parts.settings.public_url, device=DEVICE, kept=kept)


class TourFailed(Exception):
    """The tour cannot continue; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Tour:
    """Runs the tour against `url`, and prints requests and responses."""

    url: str
    console: Console

    async def run(self, *, own_if_absent: bool) -> int:
        """Run the tour, and return the exit code."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                if not await answers(self.url):
                    await stack.enter_async_context(self._instance(own_if_absent=own_if_absent))
                code = await self._walk()
                propagate_cancellation()
                return code
        except (TourFailed, NotStarted) as failed:
            self.console.print(str(failed), markup=False)
            return 1

    @asynccontextmanager
    async def _instance(self, *, own_if_absent: bool) -> AsyncIterator[None]:
        if not own_if_absent or httpx.URL(self.url).host not in _THIS_MACHINE:
            raise TourFailed(f"Nothing answers at {self.url}. Start it with: make run")
        self.console.print(f"Nothing runs at {self.url}; starting an own instance, its data in a temporary folder ...")
        async with own_instance(self.url):
            self.console.print("It runs.")
            yield
            self.console.print("Ending the own instance ...")

    async def _walk(self) -> int:
        async with httpx.AsyncClient(base_url=self.url, timeout=40) as http:
            await self._show(http, "Sign in as alice", "GET", "/api/v2/me", auth=("alice", "demo"))
            hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
            client = (await self._comet(http, "Shake hands with CometD", hello))[-1]["clientId"]
            subscribe = {"channel": "/meta/subscribe", "clientId": client, "subscription": "/v2/me/calls"}
            await self._comet(http, "Subscribe to the calls of alice", subscribe)
            connect = {"channel": "/meta/connect", "clientId": client, "connectionType": "long-polling"}
            await self._comet(http, "The first connect returns at once", connect)
            dial = {"operationName": "Dial", "destination": {"phoneNumber": "15001"}}
            path = f"/api/v2/me/devices/{DEVICE}/calls"
            dialed = await self._show(http, "Dial bob", "POST", path, json=dial, headers={"Prefer": "wait=5"})
            if "call" not in dialed:
                raise TourFailed(f"The call was not made in time ({dialed}). Does a worker run? See: calltag doctor")
            async with self._hung_up(http, f"/api/v2/me/calls/{dialed['call']['id']}") as call:
                await self._comet(http, "The call is there", connect)
                attach = {"operationName": "AttachUserData", "userData": {"AccountNumber": "12345"}}
                await self._show(http, "Attach data to the call", "POST", call, json=attach)
                messages = await self._comet(http, "And the message comes", connect)
            kept = await self._transferred(http)
            await self._comet(http, "Take leave", {"channel": "/meta/disconnect", "clientId": client})
        about_calls = [each for each in messages if each["channel"] == "/v2/me/calls"]
        attached = bool(about_calls) and about_calls[0]["data"]["call"].get("userData") == {"AccountNumber": "12345"}
        good = attached and kept == {"AccountNumber": "12345", "Reason": "billing"}
        self.console.print("The tour is complete." if good else "The message did not come as expected.")
        return 0 if good else 1

    async def _transferred(self, http: httpx.AsyncClient) -> object:
        """Let a call come in, transfer it to bob, and return the data that bob sees."""
        call_id, waits = f"in-{time.time_ns() // 1_000_000}", {"Prefer": "wait=5"}
        parties = [{"phoneNumber": "+4989555", "state": "Established"}, {"phoneNumber": "15000", "state": "Ringing"}]
        fact = {
            "eventId": call_id, "eventType": "CallStarted", "id": call_id, "callType": "Inbound", "dnis": "15000",
            "parties": parties, "userData": {"AccountNumber": "12345"},
        }  # fmt: skip
        call = f"/api/v2/me/calls/{call_id}"
        transfer = {
            "operationName": "InitiateTransfer", "destination": {"phoneNumber": "15001"},
            "userData": {"Reason": "billing"},
        }  # fmt: skip
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=40, auth=("switch", "demo")) as switch,
            httpx.AsyncClient(base_url=self.url, timeout=40, auth=("bob", "demo")) as bob,
        ):
            path = "/api/v2/switch/events"
            await self._show(switch, "The switch reports an incoming call", "POST", path, json=fact, headers=waits)
            for title, body in (
                ("Alice answers", {"operationName": "Answer"}),
                ("Alice consults bob", transfer),
                ("Alice transfers the call to bob", {"operationName": "CompleteTransfer"}),
            ):
                await self._show(http, title, "POST", call, json=body, headers=waits)
            shown = await self._show(bob, "Bob sees the call with its data", "GET", f"{call}?fields=state,userData")
            await self._show(bob, "Bob declines it", "POST", call, json={"operationName": "Reject"}, headers=waits)
        return shown["call"].get("userData")

    @asynccontextmanager
    async def _hung_up(self, http: httpx.AsyncClient, call: str) -> AsyncIterator[str]:
        """Hang up the call at the end, even if the tour fails: alice would keep it for a day."""
        hangup = {"operationName": "Hangup"}
        try:
            yield call
        except TourFailed:
            with contextlib.suppress(httpx.HTTPError):
                await http.post(call, json=hangup)
            raise
        await self._show(http, "Hang up", "POST", call, json=hangup)

    async def _comet(self, http: httpx.AsyncClient, title: str, message: dict[str, Any]) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = await self._show(http, title, "POST", "/genesys/cometd", json=[message])
        if not answer[-1].get("successful"):
            raise TourFailed(f"CometD refuses {message['channel']}: {answer[-1].get('error')}")
        return answer

    async def _show(self, http: httpx.AsyncClient, title: str, method: str, path: str, **more: Any) -> Any:
        propagate_cancellation()
        self.console.print(f"[bold]{title}[/bold]")
        body = f" {json.dumps(more['json'])}" if "json" in more else ""
        self.console.print(f"  → {method} {path}{body}", markup=False)
        try:
            response = await http.request(method, path, **more)
            response.raise_for_status()
            answer = response.json()
        except httpx.HTTPStatusError as error:
            raise TourFailed(self._explained(error.response, path)) from None
        except httpx.HTTPError as error:
            raise TourFailed(f"{self.url} does not answer {path} ({type(error).__name__}). Did it end?") from None
        except ValueError:
            raise TourFailed(f"What {self.url}{path} answers is not JSON. Is it calltag?") from None
        for line in json.dumps(answer, indent=2, ensure_ascii=False).splitlines():
            self.console.print(f"  ← {line}", markup=False)
        return answer

    def _explained(self, response: httpx.Response, path: str) -> str:
        match response.status_code:
            case 401:
                return (
                    f"{self.url} does not know the user alice with the password demo: it runs without the demo contact "
                    "centre. Start one that has it with make run, or with CALLTAG_DIRECTORY__DEMO=true."
                )
            case 404 if path == "/genesys/cometd":
                return f"{self.url} serves no CometD. Name the address in front of gateway and notifier with --url."
            case status:
                return f"{self.url}{path} answered with HTTP {status}: {response.text[:300]}"
