"""A headless Chromium, spoken to by the DevTools protocol; each page has a profile, and so cookies, of its own."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from parts.documented import check
from parts.eventually import eventually
from parts.processes import Program, program

JSON = dict[str, Any]
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--no-proxy-server", "--remote-debugging-port=0",
)  # fmt: skip
_BINDING = "tellTheTest"


class Chromium:
    """Chromium with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        named = os.environ.get("CALLTAG_TEST_CHROMIUM") or program("chromium")
        self._address = folder / "profile" / "DevToolsActivePort"
        home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
        command = [named, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self.process = Program(command, folder, home)

    def start(self) -> None:
        self.process.start(lambda: len(self._lines()) > 1)

    def _lines(self) -> list[str]:
        return self._address.read_text().splitlines() if self._address.exists() else []

    @asynccontextmanager
    async def page(self) -> AsyncIterator["Page"]:
        """A blank page in a new profile; at its end, each message that came has to be a documented one."""
        port, path = self._lines()[:2]
        async with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None, proxy=None) as socket:
            page = Page(socket)
            reading = asyncio.create_task(page.read())
            try:
                await page.begin()
                yield page
                for told in page.told:
                    if told["what"] == "received":
                        check(told["message"])
                await page.end()
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


class Page:
    """One tab: what its scripts told by calling `tellTheTest(text)`, and the Bayeux messages that really went out."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[JSON]] = {}
        self._context = self._session = ""
        self.told: list[JSON] = []
        self.sent: list[JSON] = []
        self.cors_errors: list[str] = []
        """Why the browser gave up requests to other origins."""

    async def call(self, method: str, **parameters: Any) -> JSON:
        """Call a method of the protocol, on the page once there is one."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters, **session}))
        async with asyncio.timeout(20):
            answer = await waiting
        assert "error" not in answer, (method, answer)
        result: JSON = answer["result"]
        return result

    async def begin(self) -> None:
        self._context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        made = await self.call("Target.createTarget", url="about:blank", browserContextId=self._context)
        attached = await self.call("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self.call("Network.enable")
        await self.call("Runtime.enable")
        await self.call("Runtime.addBinding", name=_BINDING)

    async def end(self) -> None:
        self._session = ""
        await self.call("Target.disposeBrowserContext", browserContextId=self._context)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def reload(self) -> None:
        await self.call("Page.reload")

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited."""
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def next(self, what: str) -> JSON:
        """The next thing of that kind that was told after what was given before; what is before it is passed over."""
        found: list[int] = []

        def is_there() -> bool:
            found[:] = [place for place, told in enumerate(self._ahead) if told["what"] == what][:1]
            return bool(found)

        await eventually(is_there)
        message: JSON = self._ahead[found[0]]["message"]
        self._passed += found[0] + 1
        return message

    _passed = 0

    @property
    def _ahead(self) -> list[JSON]:
        return self.told[self._passed :]

    async def read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._waiting.pop(message["id"]).set_result(message)
            else:
                self._handle_event(message["method"], message["params"])

    def _handle_event(self, method: str, event: JSON) -> None:
        match method:
            case "Runtime.bindingCalled":
                self.told.append(json.loads(event["payload"]))
            case "Network.loadingFailed" if "corsErrorStatus" in event:
                self.cors_errors.append(event["corsErrorStatus"]["corsError"])
            case "Network.requestWillBeSent" if "postData" in event["request"]:
                self.sent += json.loads(event["request"]["postData"])
            case "Network.webSocketFrameSent":
                self.sent += json.loads(event["response"]["payloadData"])
            case _:
                pass
