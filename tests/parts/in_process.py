"""The gateway and a worker inside the test's own process, for what a whole system rarely shows."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from calltag.core.backends import Backends, backends
from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Partition
from calltag.core.domain.ids import DeviceId, UserId
from calltag.core.identity.directory import Device, Directory, demo_directory, directory
from calltag.core.process.lifecycle import Lifecycle
from calltag.core.settings import load_settings
from calltag.core.store.keys import StateKeys
from calltag.gateway.app import gateway_app
from calltag.worker.app import worker_parts

JSON = dict[str, Any]


@dataclass
class InProcess:
    """What runs; `work` lets a worker run inside."""

    backends: Backends
    app: ASGIApp
    stack: AsyncExitStack
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)

    @property
    def broker(self) -> MemoryBroker:
        assert isinstance(self.backends.broker, MemoryBroker)
        return self.backends.broker

    def keys(self, call: str) -> StateKeys:
        """Where the store has a call; there is one partition."""
        return self.backends.keys.state(Partition(0), f"call:{call}")

    async def request(self, user: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        if user not in self.clients:
            transport = httpx.ASGITransport(self.app)
            client = httpx.AsyncClient(transport=transport, base_url="http://test/api/v2", auth=(user, "demo"))
            self.clients[user] = await self.stack.enter_async_context(client)
        return await self.clients[user].request(method, path, json=body, headers=headers)

    async def operate(self, user: str, call: str, name: str, prefer: str = "wait=10", **parameters: Any) -> JSON:
        response = await self.request(
            user, "POST", f"/me/calls/{call}", {"operationName": name, **parameters}, Prefer=prefer
        )
        answer: JSON = response.json()
        return answer

    async def send_facts(self, *facts: JSON, **headers: str) -> httpx.Response:
        """Facts of the switch: one as it is, more as a list; waits for the effect."""
        body = facts[0] if len(facts) == 1 else list(facts)
        return await self.request("switch", "POST", "/switch/events", body, **{"Prefer": "wait=10", **headers})

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        running = asyncio.create_task(worker_parts(self.backends).run(stop))
        try:
            yield
        finally:
            stop.set()
            await running


def started(call: str, *numbers: str, **more: Any) -> JSON:
    """A fact of the switch: a call on which all are through."""
    parties = [{"phoneNumber": number, "state": "Established"} for number in numbers]
    return {"eventId": f"started-{call}", "eventType": "CallStarted", "id": call, "parties": parties, **more}


def ended(call: str) -> JSON:
    """A fact of the switch: the call is over."""
    return {"eventId": f"ended-{call}", "eventType": "CallEnded", "id": call}


def with_second_device(user: str, device: str, number: str) -> Directory:
    """The demo contact centre, where the user has one more device."""
    users = demo_directory().users
    owner = users[UserId(user)]
    more = replace(owner, devices=(*owner.devices, Device(DeviceId(device), number)))
    return directory(tuple(more if each is owner else each for each in users.values()))


@asynccontextmanager
async def in_process(
    folder: Path, change: Callable[[Backends], Backends] = lambda made: made, **settings: Any
) -> AsyncIterator[InProcess]:
    """A gateway without a worker. `change` takes the backends as they are made, before anything runs on them."""
    given = load_settings(partitions=1, directory={"demo": True}, embedded={"folder": folder}, **settings)
    async with backends("test", given, embedded=True) as made, asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        changed = change(made)
        life = Lifecycle(group, asyncio.Event())
        stack.callback(life.end)
        yield InProcess(changed, gateway_app(changed, life, changed.authenticator()), stack)
