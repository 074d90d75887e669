"""Answers to clients that were away: as large as clients take by default, whole in the end, and in order."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect

from parts.agent import Agent, agent
from parts.system import System, embedded_system

SYSTEMS = ("one-process", "three-processes", "six-processes")
CHANNEL = "/v2/me/calls"
ANSWER_BYTES = 524_288
FRAME_BYTES = 65_536
CHANGES = 40
BIG = "x" * 30_000
AWAY = {"timeout": 0, "interval": 300_000}
"""The advice of a client that comes back late; its session waits for it."""


class Polling:
    """Long-polling by HTTP."""

    name = "long-polling"
    most_bytes = ANSWER_BYTES

    def __init__(self, carol: Agent) -> None:
        self.carol = carol

    async def post(self, *messages: dict[str, Any]) -> bytes:
        answer = await self.carol.http.post(f"{self.carol.cometd_url}/genesys/cometd", json=list(messages), timeout=40)
        assert answer.status_code == 200, answer.text
        return answer.content

    async def ask(self, *messages: dict[str, Any]) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = json.loads(await self.post(*messages))
        return answer

    async def connect(self, message: dict[str, Any]) -> AsyncIterator[tuple[int, list[dict[str, Any]]]]:
        content = await self.post(message)
        yield len(content), json.loads(content)


class WebSocket:
    """Python's websockets, which takes messages of up to 1 MiB."""

    name = "websocket"
    most_bytes = FRAME_BYTES

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def ask(self, *messages: dict[str, Any]) -> list[dict[str, Any]]:
        await self.socket.send(json.dumps(messages))
        answer: list[dict[str, Any]] = json.loads(await self.socket.recv())
        return answer

    async def connect(self, message: dict[str, Any]) -> AsyncIterator[tuple[int, list[dict[str, Any]]]]:
        """Frames up to the reply, or to the last of what was pushed."""
        await self.socket.send(json.dumps([message]))
        answered = False
        while not answered:
            frame = await self.socket.recv()
            messages = json.loads(frame)
            answered = messages[-1]["channel"] == "/meta/connect"
            yield len(frame), messages


@asynccontextmanager
async def line(system: System, name: str) -> AsyncIterator[Polling | WebSocket]:
    if name == "websocket":
        url = system.cometd_url.replace("http://", "ws://") + "/genesys/cometd"
        headers = {"Authorization": "Basic Y2Fyb2w6ZGVtbw=="}
        async with websocket_connect(url, additional_headers=headers) as socket:
            yield WebSocket(socket)
    else:
        async with agent(system, "carol") as carol:
            yield Polling(carol)


async def begin(at: Polling | WebSocket, *, ack: bool) -> dict[str, Any]:
    """A session that is subscribed and connected, and whose client may then be away; what its messages carry."""
    hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": [at.name]}
    [shaken] = await at.ask(hello | {"ext": {"ack": ack}})
    mine = {"clientId": shaken["clientId"]}
    assert (await at.ask({"channel": "/meta/subscribe", "subscription": CHANNEL} | mine))[0]["successful"]
    connect = {"channel": "/meta/connect", "connectionType": at.name, "advice": AWAY} | mine
    assert (await at.ask(connect))[-1]["successful"]
    return mine


async def change(system: System, call: str) -> None:
    """Many large changes of a call of carol's."""
    facts = {"eventId": call, "eventType": "CallStarted", "id": call,
             "parties": [{"phoneNumber": "15002", "state": "Established"}]}  # fmt: skip
    async with agent(system, "switch") as switch, agent(system, "carol") as carol:
        assert (await switch.post("/switch/events", facts, Prefer="wait=10")).json() == {"statusCode": 0}
        for number in range(CHANGES):
            taken = await carol.operate(call, "UpdateUserData", userData={"big": BIG, "n": number})
            assert taken == {"statusCode": 0}
        last = await carol.operate(call, "UpdateUserData", prefer="wait=10", userData={"n": CHANGES})
        assert last["statusCode"] == 0, last


def changes(messages: list[dict[str, Any]], call: str) -> list[int]:
    """The numbers of the changes that the messages tell of."""
    found = [each["data"]["call"] for each in messages if each.get("data", {}).get("call", {}).get("id") == call]
    return [each["userData"]["n"] for each in found if "n" in each.get("userData", {})]


async def read_all(at: Polling | WebSocket, call: str, mine: dict[str, Any], *, ack: bool) -> list[int]:
    """Connect until the last change has come, or none can come."""
    got: list[int] = []
    batch = connects = 0
    while CHANGES not in got:
        connects += 1
        assert connects <= 2 * CHANGES, "nothing more comes"
        connect: dict[str, Any] = {"channel": "/meta/connect", "connectionType": at.name} | mine
        connect["advice"] = {"timeout": 1_000}
        if ack:
            connect["ext"] = {"ack": batch}
        async for size, messages in at.connect(connect):
            events = [each for each in messages if "data" in each]
            assert size <= at.most_bytes or len(messages) == 1, (size, len(events))
            got += changes(messages, call)
            for reply in (each for each in messages if each["channel"] == "/meta/connect"):
                assert reply["successful"], reply
                batch = reply.get("ext", {}).get("ack", 0)
            if CHANGES in got and not ack:
                break
    return got


@pytest.mark.parametrize("ack", [True, False])
@pytest.mark.parametrize("name", ["long-polling", "websocket"])
async def test_all_comes_in_answers_that_clients_take(system: System, call_id: str, name: str, ack: bool) -> None:
    async with line(system, name) as at:
        mine = await begin(at, ack=ack)
    await change(system, call_id)
    async with line(system, name) as at:
        assert await read_all(at, call_id, mine, ack=ack) == list(range(CHANGES + 1))


@pytest.mark.parametrize("name", ["long-polling", "websocket"])
async def test_a_replay_comes_in_such_answers(system: System, call_id: str, name: str) -> None:
    await change(system, call_id)
    async with line(system, name) as at:
        mine = await begin(at, ack=True)
        again = {"channel": "/meta/subscribe", "subscription": CHANNEL, "ext": {"replay": {CHANNEL: -2}}} | mine
        assert (await at.ask(again))[0]["successful"]
        assert await read_all(at, call_id, mine, ack=True) == list(range(CHANGES + 1))


@pytest.fixture(scope="module")
def delivering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Events go with any reply."""
    folder: Path = tmp_path_factory.mktemp("delivering")
    settings = {
        "CALLTAG_NOTIFIER__META_CONNECT_DELIVERY_ONLY": "[]",
        "CALLTAG_NOTIFIER__MAX_ANSWER_BYTES": "200000",
        "CALLTAG_NOTIFIER__MAX_FRAME_BYTES": "100000",
        "CALLTAG_NOTIFIER__PERMESSAGE_DEFLATE": "true",
    }
    with embedded_system(folder, **settings) as running:
        yield running


async def test_replies_to_other_messages_are_bounded_too(delivering: System, call_id: str) -> None:
    async with line(delivering, "long-polling") as at:
        assert isinstance(at, Polling)
        mine = await begin(at, ack=False)
        await change(delivering, call_id)
        got: list[int] = []
        while CHANGES not in got:
            content = await at.post(*[{"channel": "/service/x", "data": {}} | mine] * 5)
            assert len(content) <= 200_000
            got += changes(json.loads(content), call_id)
        assert got == list(range(CHANGES + 1))


async def test_answers_to_several_sessions_are_bounded_together(delivering: System, call_id: str) -> None:
    async with line(delivering, "long-polling") as at:
        assert isinstance(at, Polling)
        sessions = [await begin(at, ack=False) for _ in range(3)]
        await change(delivering, call_id)
        got: list[int] = []
        while got.count(CHANGES) < len(sessions):
            connects = [{"channel": "/meta/connect", "connectionType": at.name} | mine for mine in sessions]
            content = await at.post(*connects)
            assert len(content) <= 200_000
            got += changes(json.loads(content), call_id)
        assert sorted(got) == sorted(list(range(CHANGES + 1)) * 3)


async def test_a_frame_that_is_compressed_is_bounded_by_its_text(delivering: System, call_id: str) -> None:
    async with line(delivering, "websocket") as at:
        mine = await begin(at, ack=True)
    await change(delivering, call_id)
    async with line(delivering, "websocket") as at:
        at.most_bytes = 100_000
        assert await read_all(at, call_id, mine, ack=True) == list(range(CHANGES + 1))
