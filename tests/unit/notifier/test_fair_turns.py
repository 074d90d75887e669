"""Messages that are refused at once: whoever sends many of them leaves the event loop to others in between."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import cast

import pytest
from starlette.websockets import WebSocket

from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.store.embedded import embedded_store
from calltag.notifier.cometd.websocket import Socket
from parts.eventually import eventually
from parts.frames import Alices, Frames
from parts.hubs import Client, Installation

MANY = 1_000
REFUSED: dict[str, object] = {"id": "7"}
"""A message without a channel."""


@pytest.fixture
async def patient() -> AsyncIterator[Installation]:
    async with embedded_store(None, deadline_s=20) as store:
        installation = Installation(store.client, BayeuxLimits(max_messages=MANY))
        yield installation
        await installation.settle()


class Turns:
    """How often another task had its turn."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.count += 1


@contextmanager
def turns() -> Iterator[Turns]:
    others = Turns()
    task = asyncio.create_task(others.run())
    try:
        yield others
    finally:
        task.cancel()


async def test_many_small_messages_of_one_websocket(patient: Installation) -> None:
    frames = Frames()
    for _ in range(MANY):
        frames.come(REFUSED)
    seen: list[int] = []
    with turns() as others:

        async def send_text(text: str) -> None:
            frames.outgoing.append(text.encode())
            seen.append(others.count)

        frames.send_text = send_text  # type: ignore[method-assign]
        socket = Socket(cast("WebSocket", frames), patient.one.hub, Alices(), 30.0)
        serving = asyncio.create_task(socket.run())
        await eventually(lambda: len(frames.outgoing) == MANY)
    frames.go()
    await serving
    assert seen[-1] - seen[0] >= MANY // 16


async def test_many_small_messages_in_one_array(patient: Installation) -> None:
    with turns() as others:
        replies = (await Client().send(patient.one, *[REFUSED] * MANY)).replies
        assert others.count >= MANY // 16 - 1
    assert [reply["error"] for reply in replies] == ["400::channel_missing"] * MANY
