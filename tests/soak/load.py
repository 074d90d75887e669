"""A steady load: calls begin, change and end, some are forgotten, subscribers come and go."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import httpx

from parts.agent import agent
from parts.system import System

_AGENTS: Final = {"alice": "15000", "bob": "15001"}
_ATTACHMENTS: Final = 4
_FORGOTTEN: Final = 10
"""One call of so many is never ended by the switch."""


@dataclass
class Load:
    """Keeps `calls_per_s` calls beginning and `subscribers` sessions listening until it is cancelled."""

    system: System
    calls_per_s: float
    subscribers: int
    done: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        async with (
            httpx.AsyncClient(base_url=self.system.gateway_url, timeout=20) as http,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self.subscribers):
                group.create_task(self._subscribe(number))
            loop = asyncio.get_running_loop()
            began = loop.time()
            for number in itertools.count():
                group.create_task(self._counted("calls", lambda number=number: self._call(http, number)))  # type: ignore[misc]
                await asyncio.sleep(max(0.0, began + (number + 1) / self.calls_per_s - loop.time()))

    async def _counted(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
            self.done[what] += 1
        except (httpx.HTTPError, AssertionError) as error:
            self.failures[f"{what}: {type(error).__name__} {str(error)[:120]}"] += 1

    async def _call(self, http: httpx.AsyncClient, number: int) -> None:
        user, phone = list(_AGENTS.items())[number % len(_AGENTS)]
        call = f"SOAK{number}"
        await self._tell(http, call, "CallStarted", parties=[{"phoneNumber": phone, "state": "Established"}])
        for turn in range(_ATTACHMENTS):
            body = {"operationName": "AttachUserData", "userData": {f"key{turn}": number, "text": "x" * 40}}
            answer = await http.post(
                f"/api/v2/me/calls/{call}",
                json=body,
                auth=(user, "demo"),
                headers={"Prefer": "wait=10", "Idempotency-Key": f"{call}-{turn}"},
            )
            assert answer.json()["statusCode"] == 0, answer.text
        if number % _FORGOTTEN:
            await self._tell(http, call, "CallEnded")

    async def _tell(self, http: httpx.AsyncClient, call: str, kind: str, **more: object) -> None:
        fact = {"eventId": f"{kind}-{call}", "eventType": kind, "id": call, **more}
        answer = await http.post(
            "/api/v2/switch/events", json=fact, auth=("switch", "demo"), headers={"Prefer": "wait=10"}
        )
        assert answer.json() == {"statusCode": 0}, answer.text

    async def _subscribe(self, number: int) -> None:
        while True:
            await self._counted("sessions", lambda: self._session(number))

    async def _session(self, number: int) -> None:
        async with agent(self.system, list(_AGENTS)[number % len(_AGENTS)], "/v2/me/calls") as client:
            for _ in range(random.randint(2, 8)):
                await client.connect()
                self.done["events"] += len(client.messages)
                client.messages.clear()
            # The others leave without a word.
            if random.random() < 0.5:
                await client.bayeux({"channel": "/meta/disconnect", "clientId": client.client_id})
