"""A notifier that ends while many clients are connected to it."""

import asyncio
import json
import signal
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
SPREAD_MS = 3_000


def connecting(client_id: str, kind: str) -> list[dict[str, Any]]:
    return [{"channel": "/meta/connect", "id": "3", "clientId": client_id, "connectionType": kind}]


async def poll(system: System) -> float:
    """Connect, and stay connected until the answer comes; returns when that was, by the loop's clock."""
    async with httpx.AsyncClient(headers=ALICE, timeout=40) as http:
        url = f"{system.cometd_url}/genesys/cometd"
        [shaken] = (await http.post(url, json=[HELLO])).json()
        assert (await http.post(url, json=connecting(shaken["clientId"], "long-polling"))).json()[0]["successful"]
        [reply] = (await http.post(url, json=connecting(shaken["clientId"], "long-polling"))).json()
    # Some clients take the interval for seconds, others ignore it.
    assert (reply["successful"], reply["advice"]["reconnect"], reply["advice"]["interval"]) == (True, "retry", 0)
    return asyncio.get_running_loop().time()


async def listen(system: System) -> tuple[list[Any], int]:
    """Connect by WebSocket, and read until it is closed; returns the last frame, and the code of the close."""
    url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    async with websocket_connect(url, additional_headers=ALICE) as socket:
        await socket.send(json.dumps([HELLO]))
        client_id = json.loads(await socket.recv())[0]["clientId"]
        await socket.send(json.dumps(connecting(client_id, "websocket")))
        assert json.loads(await socket.recv())[0]["successful"]
        await socket.send(json.dumps(connecting(client_id, "websocket")))
        frame = []
        with suppress(ConnectionClosed):
            while True:
                frame = json.loads(await socket.recv())
        return frame, socket.close_code or 0


async def test_clients_leave_a_notifier_that_ends_one_after_another(tmp_path: Path) -> None:
    with embedded_system(tmp_path, CALLTAG_NOTIFIER__DRAIN_SPREAD_MS=str(SPREAD_MS)) as system:
        polls = [asyncio.create_task(poll(system)) for _ in range(MANY)]
        sockets = [asyncio.create_task(listen(system)) for _ in range(MANY)]

        async def all_here() -> bool:
            return await sample(system, "serve", "calltag_cometd_suspended_connects") == 2 * MANY

        await eventually(all_here)
        system.programs["serve"].signal(signal.SIGTERM)
        answered = sorted(await asyncio.gather(*polls))
        assert answered[-1] - answered[0] > SPREAD_MS / 1000 / 8, "the answers are spread over the time"
        # Their clients wait, and have asked for nothing that is not answered, when the close frame comes.
        left = [
            (reply["successful"], reply["advice"]["interval"], code) for [reply], code in await asyncio.gather(*sockets)
        ]
        assert left == [(True, 2_000, 1001)] * MANY
        assert system.programs["serve"].wait() == 0
