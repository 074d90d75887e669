"""Memory of connects that are held: it does not grow with what clients put into their messages."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect

from parts.agent import agent
from parts.eventually import eventually
from parts.memory import resident_mb
from parts.samples import sample
from parts.system import System, embedded_system

SESSIONS = 60
LARGE: dict[str, Any] = {"x": [[]] * 20_000}
"""As text near the limit of a request, as objects about 20 times as large."""
MOST_MB = 50.0
"""Half of what the messages take as objects; connections and what the allocator keeps have some."""
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling", "websocket"]}
CAROL = {"Authorization": "Basic Y2Fyb2w6ZGVtbw=="}


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[System]:
    """A process whose memory nothing has used before."""
    settings = {"CALLTAG_NOTIFIER__TIMEOUT_S": "120", "CALLTAG_NOTIFIER__MAX_SESSIONS_PER_BROWSER": "-1"}
    with embedded_system(tmp_path, **settings) as running:
        yield running


@asynccontextmanager
async def by_polling(system: System) -> AsyncIterator[None]:
    """Sessions whose connects, large ones, are held."""
    async with httpx.AsyncClient(headers=CAROL, timeout=200, limits=httpx.Limits(max_connections=None)) as http:

        async def post(message: dict[str, Any]) -> dict[str, Any]:
            answer: list[dict[str, Any]] = (
                await http.post(f"{system.cometd_url}/genesys/cometd", json=[message])
            ).json()
            return answer[-1]

        held = []
        for _ in range(SESSIONS):
            connect = {"channel": "/meta/connect", "clientId": (await post(HELLO))["clientId"],
                       "connectionType": "long-polling"}  # fmt: skip
            assert (await post(connect))["successful"]
            held.append(asyncio.create_task(post(connect | {"ext": LARGE})))
        try:
            yield
        finally:
            for each in held:
                each.cancel()
            await asyncio.gather(*held, return_exceptions=True)


@asynccontextmanager
async def by_websocket(system: System) -> AsyncIterator[None]:
    """The same on one WebSocket each."""
    url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    async with AsyncExitStack() as stack:
        for _ in range(SESSIONS):
            socket = await stack.enter_async_context(websocket_connect(url, additional_headers=CAROL))
            await socket.send(json.dumps([HELLO]))
            connect = {"channel": "/meta/connect", "clientId": json.loads(await socket.recv())[0]["clientId"],
                       "connectionType": "websocket"}  # fmt: skip
            await socket.send(json.dumps([connect]))
            assert json.loads(await socket.recv())[-1]["successful"]
            await socket.send(json.dumps([connect | {"ext": LARGE}], separators=(",", ":")))
        yield


@pytest.mark.parametrize("way", [by_polling, by_websocket])
async def test_a_held_connect_keeps_nothing_of_a_large_message(holding: System, way: Any) -> None:
    pid = holding.programs["serve"].pid
    before_mb = resident_mb(pid)
    async with way(holding):

        async def all_are_held() -> bool:
            return await sample(holding, "serve", "calltag_cometd_suspended_connects") == SESSIONS

        await eventually(all_are_held)
        assert resident_mb(pid) - before_mb < MOST_MB


async def test_an_id_longer_than_ids_are_is_not_kept(system: System) -> None:
    async with agent(system, "carol", "/v2/me/calls") as carol:
        connect = {"channel": "/meta/connect", "clientId": carol.client_id, "connectionType": "long-polling"}
        [reply] = await carol.bayeux(connect | {"id": "x" * 257})
        assert reply == {"channel": "/meta/connect", "successful": False, "error": "405::message_id_invalid"}
        [reply] = await carol.bayeux(connect | {"id": "x" * 256, "advice": {"timeout": 0}})
        assert (reply["id"], reply["successful"]) == ("x" * 256, True)
