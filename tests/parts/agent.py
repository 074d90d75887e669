"""An agent's client for tests: the API by HTTP, CometD by long-polling without any library."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from parts.documented import check
from parts.system import System

JSON = dict[str, Any]


class Agent:
    """One signed-in user with a CometD session."""

    def __init__(self, http: httpx.AsyncClient, cometd_url: str) -> None:
        self.http = http
        self.cometd_url = cometd_url
        self.client_id = ""
        self.messages: list[JSON] = []
        self.about: str | None = None
        """The only call whose messages `next_message` gives; tests share users."""
        self._arrived: asyncio.Event | None = None
        """Set with each answer to a connect while somebody else makes the connects."""

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.http.post(f"/api/v2{path}", json=body, headers=headers)

    async def operate(self, call: str, name: str, *, prefer: str = "", **parameters: Any) -> JSON:
        headers = {"Prefer": prefer} if prefer else {}
        response = await self.http.post(
            f"/api/v2/me/calls/{call}", json={"operationName": name, **parameters}, headers=headers
        )
        answer: JSON = response.json()
        return answer

    async def bayeux(self, *messages: JSON) -> list[JSON]:
        response = await self.http.post(f"{self.cometd_url}/genesys/cometd", json=list(messages), timeout=40)
        assert response.status_code == 200, response.text
        answer: list[JSON] = response.json()
        for message in answer:
            check(message)
        return answer

    async def subscribe(self, *channels: str) -> None:
        hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
        [shaken] = await self.bayeux(hello)
        assert shaken["successful"], shaken
        self.client_id = shaken["clientId"]
        subscription = {"channel": "/meta/subscribe", "clientId": self.client_id, "subscription": list(channels)}
        assert (await self.bayeux(subscription))[0]["successful"]
        await self.connect()

    async def connect(self) -> list[JSON]:
        """One connect; returns the messages that came with it, without the reply."""
        answer = await self.bayeux(
            {"channel": "/meta/connect", "clientId": self.client_id, "connectionType": "long-polling"}
        )
        assert answer[-1]["successful"], answer
        self.messages += answer[:-1]
        return answer[:-1]

    async def next_message(self) -> JSON:
        """The next message that was not taken yet."""
        while True:
            while not self.messages:
                await self._more()
            message = self.messages.pop(0)
            data = message["data"]
            if self.about in (None, data.get("call", {}).get("id"), data.get("callId")):
                return message

    async def _more(self) -> None:
        if self._arrived is None:
            await self.connect()
        else:
            self._arrived.clear()
            await self._arrived.wait()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Make one connect after another while the context is open, so that the session lives whatever else is done."""
        self._arrived = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            connecting = group.create_task(self._connect_on(self._arrived))
            try:
                yield
            finally:
                connecting.cancel()
                self._arrived = None

    async def _connect_on(self, arrived: asyncio.Event) -> None:
        while True:
            await self.connect()
            arrived.set()


@asynccontextmanager
async def agent(system: System, user: str, *channels: str) -> AsyncIterator[Agent]:
    """A user who has signed in, subscribed where channels are given."""
    # No TLS here; to read all authorities' certificates for each client takes longer than many a test.
    async with httpx.AsyncClient(base_url=system.gateway_url, timeout=20, verify=False) as http:
        signed_in = await http.get("/api/v2/me", auth=(user, "demo"))
        assert signed_in.status_code == 200, signed_in.text
        made = Agent(http, system.cometd_url)
        if channels:
            await made.subscribe(*channels)
        yield made
