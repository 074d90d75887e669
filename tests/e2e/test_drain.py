"""A notifier that ends while many clients are connected to it."""

import asyncio
import json
import signal
import time
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed

from parts.eventually import eventually
from parts.samples import sample
from parts.system import System, embedded_system

HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling", "websocket"]}
ALICE = {"Authorization": "Basic " + b64encode(b"alice:demo").decode()}
MANY = 8
SPREAD_S = 3.0


def connecting(client_id: str, kind: str) -> list[dict[str, Any]]:
    return [{"channel": "/meta/connect", "id": "3", "clientId": client_id, "connectionType": kind}]


async def poll(system: System) -> int:
    """Connect, and stay connected until the answer comes; returns the interval that it advises."""
    async with httpx.AsyncClient(headers=ALICE, timeout=40) as http:
        url = f"{system.cometd_url}/genesys/cometd"
        [shaken] = (await http.post(url, json=[HELLO])).json()
        assert (await http.post(url, json=connecting(shaken["clientId"], "long-polling"))).json()[0]["successful"]
        [reply] = (await http.post(url, json=connecting(shaken["clientId"], "long-polling"))).json()
    assert (reply["successful"], reply["advice"]["reconnect"]) == (True, "retry")
    return int(reply["advice"]["interval"])


async def listen(system: System) -> tuple[int, float]:
    """Connect by WebSocket, and read until it is closed; returns the code, and when that was."""
    url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    async with websocket_connect(url, additional_headers=ALICE) as socket:
        await socket.send(json.dumps([HELLO]))
        client_id = json.loads(await socket.recv())[0]["clientId"]
        await socket.send(json.dumps(connecting(client_id, "websocket")))
        with suppress(ConnectionClosed):
            while True:
                await socket.recv()
        return socket.close_code or 0, time.monotonic()


async def test_clients_leave_a_notifier_that_ends_one_after_another(tmp_path: Path) -> None:
    spread = {"CALLTAG_NOTIFIER__DRAIN_SPREAD_MS": str(round(SPREAD_S * 1000))}
    with embedded_system(tmp_path, **spread) as system:
        polls = [asyncio.create_task(poll(system)) for _ in range(MANY)]
        sockets = [asyncio.create_task(listen(system)) for _ in range(MANY)]

        async def all_here() -> bool:
            return await sample(system, "serve", "calltag_cometd_sessions") == 2 * MANY

        await eventually(all_here)
        began = time.monotonic()
        system.programs["serve"].signal(signal.SIGTERM)
        intervals = await asyncio.gather(*polls)
        assert time.monotonic() - began < SPREAD_S, "polls are answered at once; it is their clients who wait"
        assert len(set(intervals)) > MANY / 2
        assert all(0 <= interval <= SPREAD_S * 1000 for interval in intervals)
        closed = await asyncio.gather(*sockets)
        assert {code for code, _ in closed} == {1001}
        ends = sorted(end - began for _, end in closed)
        assert ends[-1] - ends[0] > SPREAD_S / 4
        assert system.programs["serve"].wait() == 0
