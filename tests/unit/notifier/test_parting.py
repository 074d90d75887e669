"""What a WebSocket's client gets to know before its node goes: nothing that it has sent is without an answer."""

import asyncio
from typing import cast

import orjson
import pytest
from starlette.websockets import WebSocket

from calltag.notifier.cometd import websocket
from calltag.notifier.cometd.websocket import Socket
from parts.eventually import eventually
from parts.frames import Alices, Frames
from parts.hubs import Client, Installation

LEAVING = {"reconnect": "retry", "interval": 2_000, "timeout": 30_000}


async def advice_of(serving: asyncio.Task[None], frames: Frames) -> list[object]:
    """Once the socket is closed: what each answer to a connect advised."""
    await serving
    assert frames.closed == 1001
    answers = [message for frame in frames.outgoing for message in orjson.loads(frame)]
    return [each.get("advice") for each in answers if each["channel"] == "/meta/connect" and each["successful"]]


def serve(system: Installation) -> tuple[Socket, Frames, asyncio.Task[None]]:
    frames = Frames()
    socket = Socket(cast("WebSocket", frames), system.one.hub, Alices(), 30.0)
    return socket, frames, asyncio.create_task(socket.run())


async def test_who_waits_is_answered(system: Installation) -> None:
    alice = await Client().begin(system.one)
    socket, frames, serving = serve(system)
    frames.come(alice.connecting(connectionType="websocket"))
    await eventually(lambda: bool(socket.held))
    system.one.hub.drain()
    assert await advice_of(serving, frames) == [LEAVING]


@pytest.mark.parametrize("timeout", [{}, {"advice": {"timeout": 0}}])
async def test_who_comes_while_the_node_goes_is_answered(system: Installation, timeout: dict[str, object]) -> None:
    """The connection was there before what was sent on it."""
    alice = await Client().begin(system.one)
    system.one.hub.drain()
    socket, frames, serving = serve(system)
    await eventually(lambda: frames.accepted)
    assert not socket.parting
    frames.come(alice.connecting(connectionType="websocket", **timeout))
    assert await advice_of(serving, frames) == [LEAVING]


async def test_who_was_told_to_wait_is_not_waited_for(system: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends the next connect when the socket is closed, and on another one."""
    monkeypatch.setattr(websocket, "_PARTING_S", 3_600.0)
    alice = await Client().begin(system.one)
    _, frames, serving = serve(system)
    # The node goes, and the turn of this socket is later.
    system.one.connects.answers.draining = True
    frames.come(alice.connecting(connectionType="websocket", advice={"timeout": 0}))
    await eventually(lambda: bool(frames.outgoing))
    system.one.hub.drain()
    assert await advice_of(serving, frames) == [LEAVING]


async def test_who_sends_nothing_is_not_waited_for_long(system: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_PARTING_S", 0.01)
    system.one.hub.drain()
    _, frames, serving = serve(system)
    assert await advice_of(serving, frames) == []
