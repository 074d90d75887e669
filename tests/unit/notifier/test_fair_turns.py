"""Messages that are refused at once: whoever sends many of them leaves the event loop to others in between."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import orjson
import pytest

from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.store.embedded import embedded_store
from parts.eventually import eventually
from parts.frames import opened, web_sockets
from parts.hubs import Client, Installation

MANY = 1_000
REFUSED: dict[str, object] = {"id": "7"}
"""A message without a channel."""


@pytest.fixture
async def patient() -> AsyncIterator[Installation]:
    async with embedded_store(None, deadline_s=20) as store:
        installation = Installation(store.client, BayeuxLimits(max_messages=MANY))
        await installation.begin()
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
    frames, seen = opened(web_sockets(patient.one.server)), list[int]()
    send_text = frames.send_text
    with turns() as others:

        def send(payload: bytes) -> bool:
            seen.append(others.count)
            return send_text(payload)

        frames.send_text = send  # type: ignore[method-assign]
        for _ in range(MANY):
            frames.come_as(orjson.dumps([REFUSED]))
        await eventually(lambda: len(frames.outgoing) == MANY)
    frames.go()
    assert seen[-1] - seen[0] >= MANY // 16


async def test_many_small_messages_in_one_array(patient: Installation) -> None:
    with turns() as others:
        replies = (await Client().send(patient.one, *[REFUSED] * MANY)).replies
        assert others.count >= MANY // 16 - 1
    assert [reply["error"] for reply in replies] == ["400::channel_missing"] * MANY
