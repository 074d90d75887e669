"""Delivery as the session asks for it, on the wire."""

import json
from typing import Any

from websockets.asyncio.client import connect as websocket_connect

from parts.agent import agent
from parts.eventually import eventually
from parts.system import System

HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling", "websocket"]}
CHANNEL = "/v2/me/calls"


def started(call: str) -> dict[str, Any]:
    return {"eventId": call, "eventType": "CallStarted", "id": call,
            "parties": [{"phoneNumber": "15002", "state": "Established"}]}  # fmt: skip


def about(answer: list[dict[str, Any]], call: str) -> list[int]:
    """Where in the answer events about the call are."""
    return [place for place, each in enumerate(answer) if each.get("data", {}).get("call", {}).get("id") == call]


async def test_events_come_before_the_reply_to_whatever_was_sent(system: System, call_id: str) -> None:
    async with agent(system, "switch") as switch, agent(system, "carol") as carol:
        hello = HELLO | {"ext": {"calltag": {"metaConnectDeliveryOnly": False}}}
        [shaken] = await carol.bayeux(hello)
        assert shaken["ext"]["calltag"] == {"metaConnectDeliveryOnly": False}
        mine = {"clientId": shaken["clientId"]}
        await carol.bayeux({"channel": "/meta/subscribe", "subscription": CHANNEL} | mine)
        await carol.bayeux({"channel": "/meta/connect", "connectionType": "long-polling"} | mine)
        assert (await switch.post("/switch/events", started(call_id), Prefer="wait=10")).status_code == 200
        answers: list[list[dict[str, Any]]] = []

        async def has_come() -> bool:
            answers.append(await carol.bayeux({"channel": "/service/x", "id": "7", "data": {}} | mine))
            return bool(about(answers[-1], call_id))

        await eventually(has_come)
        assert answers[-1][-1] == {"id": "7", "channel": "/service/x", "successful": True}
        connect = {"channel": "/meta/connect", "connectionType": "long-polling", "advice": {"timeout": 100}} | mine
        assert about(await carol.bayeux(connect), call_id) == []


async def test_a_websocket_may_have_events_with_connect_replies(system: System, call_id: str) -> None:
    url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
    headers = {"Authorization": "Basic Y2Fyb2w6ZGVtbw=="}
    async with agent(system, "switch") as switch, websocket_connect(url, additional_headers=headers) as socket:

        async def send(message: dict[str, Any]) -> None:
            await socket.send(json.dumps([message]))

        async def receive() -> list[dict[str, Any]]:
            frame: list[dict[str, Any]] = json.loads(await socket.recv())
            return frame

        await send(HELLO | {"ext": {"calltag": {"metaConnectDeliveryOnly": True}}})
        mine = {"clientId": (await receive())[0]["clientId"]}
        connect = {"channel": "/meta/connect", "connectionType": "websocket"} | mine
        await send({"channel": "/meta/subscribe", "subscription": CHANNEL} | mine)
        assert (await receive())[0]["successful"]
        await send(connect)
        assert (await receive())[0]["successful"]
        await send(connect | {"id": "held"})
        assert (await switch.post("/switch/events", started(call_id), Prefer="wait=10")).status_code == 200
        while True:
            frame = await receive()
            assert frame[-1]["channel"] == "/meta/connect", "events never come without a reply"
            if about(frame, call_id):
                break
            await send(connect)
        assert len(frame) >= 2
