"""Events that go straight to the clients on WebSockets, and those that have to wait for something."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import orjson
import pytest
from starlette.websockets import WebSocket

from calltag.notifier.cometd.websocket import Socket
from parts.eventually import eventually
from parts.frames import Alices, Frames
from parts.hubs import Client, Installation


def told(frames: Frames) -> list[int]:
    """The numbers of the events that went out, in their order."""
    messages = [message for frame in frames.outgoing for message in orjson.loads(frame)]
    return [each["data"]["n"] for each in messages if "data" in each]


@asynccontextmanager
async def connected(system: Installation, count: int) -> AsyncIterator[Sequence[tuple[Socket, Frames]]]:
    """Sessions of alice's, each on a WebSocket of its own that holds a connect."""
    served = []
    serving = []
    for _ in range(count):
        alice, frames = await Client().begin(system.one), Frames()
        socket = Socket(cast("WebSocket", frames), system.one.hub, Alices(), 30.0)
        serving.append(asyncio.create_task(socket.run()))
        frames.come(alice.connecting(connectionType="websocket"))
        await eventually(lambda socket=socket: bool(socket.held) and not socket.handling.locked())  # type: ignore[misc]
        frames.outgoing.clear()
        served.append((socket, frames))
    yield served
    for _, frames in served:
        frames.go()
    await asyncio.gather(*serving)


async def test_all_who_are_free_are_sent_the_same_at_once(system: Installation) -> None:
    async with connected(system, 3) as served:
        system.one.metrics.deliveries.clear()
        await system.publish(1)
        assert [(frames.pushed, told(frames)) for _, frames in served] == [(1, [1])] * 3
        assert len({bytes(frames.outgoing[0]) for _, frames in served}) == 1
        assert [sessions for _, sessions in system.one.metrics.deliveries] == [3]
        sessions = [session for socket, _ in served for session in socket.sessions.values()]
        assert all(session.sent == session.position and not session.has_news for session in sessions)


async def test_who_is_slow_has_it_wait_and_then_in_its_order(system: Installation) -> None:
    async with connected(system, 2) as served:
        (_, slow), (_, quick) = served
        slow.slow = True
        await system.publish(1)
        await system.publish(2)
        await eventually(lambda: len(told(slow)) == 2)
        slow.slow = False
        assert told(slow) == told(quick) == [1, 2]
        assert (slow.pushed, quick.pushed) == (0, 2)
        await system.publish(3)
        assert (told(slow), slow.pushed) == ([1, 2, 3], 1)


@pytest.mark.parametrize("reason", ["handling", "sending", "parting"])
async def test_nothing_overtakes_what_is_on_its_way_out(system: Installation, reason: str) -> None:
    async with connected(system, 1) as served:
        [(socket, frames)] = served
        if reason == "handling":
            await socket.handling.acquire()
        elif reason == "sending":
            socket.going_out += 1
        else:
            socket.parting = True
        await system.publish(1)
        assert frames.pushed == 0
        if reason == "handling":
            socket.handling.release()
        socket.going_out = 0
        socket.parting = False
        await eventually(lambda: told(frames) == [1])


async def test_a_gap_is_filled_first(system: Installation) -> None:
    async with connected(system, 1) as served:
        [(_, frames)] = served
        await system.publish(1, by_bus=False)
        await system.publish(2)
        await eventually(lambda: told(frames) == [1, 2])


async def test_a_socket_that_is_over_is_gone_without_a_look_for_garbage(system: Installation) -> None:
    gc.collect()
    gc.disable()
    try:
        async with connected(system, 1) as served:
            served[0][1].scope.clear()
            del served
        await eventually(lambda: not any(type(each) is Socket for each in gc.get_objects()))
    finally:
        gc.enable()
