"""Clients that take their messages more slowly than these come: a small queue, and the rest out of the stream."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as websocket_connect

from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.samples import sample
from parts.system import System, embedded_system

JSON = dict[str, Any]
Send = Callable[[JSON], Awaitable[list[JSON]]]
LIMITS = {"CALLTAG_NOTIFIER__MAX_QUEUED_EVENTS": "4", "CALLTAG_NOTIFIER__TIMEOUT_S": "2"}
CHANNEL = "/v2/me/calls"


@asynccontextmanager
async def polling(system: System, alice: Agent) -> AsyncIterator[Send]:
    async def send(message: JSON) -> list[JSON]:
        return await alice.bayeux(message)

    assert system.cometd_url == alice.cometd_url
    yield send


@asynccontextmanager
async def socket(system: System, alice: Agent) -> AsyncIterator[Send]:
    cookie = "; ".join(f"{name}={value}" for name, value in alice.http.cookies.items())
    url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    async with websocket_connect(url, additional_headers={"Cookie": cookie}) as opened:

        async def send(message: JSON) -> list[JSON]:
            """All messages up to the reply."""
            await opened.send(json.dumps([message]))
            got: list[JSON] = []
            while not got or "successful" not in got[-1]:
                got += json.loads(await opened.recv())
            return got

        yield send


async def publish(system: System, call: str, count: int) -> None:
    facts = {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call,
             "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip
    async with agent(system, "switch") as switch, agent(system, "alice") as alice:
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}
        for number in range(count - 1):
            answer = await alice.operate(call, "AttachUserData", prefer="wait=10", userData={"n": number})
            assert answer["statusCode"] == 0


@pytest.mark.parametrize(
    ("transport", "kind", "ack", "answers"),
    [
        (polling, "long-polling", False, [(4, True), (4, True), (3, False)]),
        (polling, "long-polling", True, [(4, True), (4, True), (3, False)]),
        (socket, "websocket", True, [(4, True), (4, True), (3, False)]),
        (socket, "websocket", False, [(11, False)]),
    ],
)
async def test_what_a_slow_client_did_not_take_comes_out_of_its_stream_in_order(
    tmp_path: Path, call_id: str, transport: Any, kind: str, ack: bool, answers: list[tuple[int, bool]]
) -> None:
    with embedded_system(tmp_path, **LIMITS) as system:
        async with agent(system, "alice") as alice, transport(system, alice) as send:
            hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": [kind],
                     "ext": {"ack": ack}}  # fmt: skip
            client_id = (await send(hello))[0]["clientId"]
            subscription = {"channel": "/meta/subscribe", "clientId": client_id, "subscription": CHANNEL}
            assert (await send(subscription))[0]["successful"]
            connect = {"channel": "/meta/connect", "clientId": client_id, "connectionType": kind}
            [reply] = await send(connect)
            await publish(system, call_id, 11)
            if kind == "long-polling" or ack:
                assert await sample(system, "serve", "calltag_cometd_queued_events") == 4
            versions = []
            for count, behind in answers:
                *events, reply = await send(connect | {"ext": {"ack": reply.get("ext", {}).get("ack", 0)}})
                assert len(events) == count
                assert reply.get("ext", {}).get("calltag", {}) == ({"behind": True} if behind else {})
                assert reply["advice"]["interval"] == 0
                versions += [event["ext"]["calltag"]["version"] for event in events]
            assert versions == list(range(1, 12))


async def test_what_operators_see_of_sessions_and_deliveries(tmp_path: Path, call_id: str) -> None:
    with embedded_system(tmp_path) as system:

        async def seen(name: str, **labels: str) -> float:
            return await sample(system, "serve", f"calltag_{name}", **labels)

        async with (
            agent(system, "alice", CHANNEL) as alice,
            agent(system, "alice") as other,
            socket(system, other) as send,
        ):
            hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]}
            client_id = (await send(hello))[0]["clientId"]
            await send({"channel": "/meta/connect", "clientId": client_id, "connectionType": "websocket"})
            assert [await seen("cometd_sessions", transport=each) for each in ("long-polling", "websocket")] == [1, 1]
            assert await seen("cometd_handshakes_total") == 2
            polling_on = asyncio.create_task(alice.connect())

            async def is_held() -> bool:
                return await seen("cometd_suspended_connects") == 1

            await eventually(is_held)
            await publish(system, call_id, 1)
            await polling_on
            assert await seen("cometd_suspended_connects") == 0
            assert await seen("delivery_seconds_count") == 1
            assert await seen("deliveries_total", channel=CHANNEL) == 1
            # As the official client connects after a failure: at once, and on another connection.
            hurry = {"channel": "/meta/connect", "clientId": alice.client_id, "connectionType": "long-polling",
                     "advice": {"timeout": 0}}  # fmt: skip
            await alice.http.aclose()
            async with agent(system, "alice") as again:
                assert len(await again.bayeux(hurry)) == 2
            assert await seen("cometd_redelivered_total") == 1
            assert await seen("delivery_seconds_count") == 1
