"""A node that goes: its WebSockets are closed at times of their own, and its sessions go on at other nodes."""

import asyncio
from collections.abc import Iterator

import pytest

from parts.eventually import eventually, turns
from parts.frames import SocketPage, opened, web_sockets
from parts.hubs import Client, Installation

GOING_AWAY = 1001


@pytest.fixture
def parts_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a waiting connect is not waited for as long as in production."""
    monkeypatch.setattr("calltag.notifier.websocket._PARTING_S", 0.2)


@pytest.mark.usefixtures("parts_soon")
@pytest.mark.parametrize("ack", [True, False])
async def test_who_waits_is_sent_away_and_goes_on_elsewhere(system: Installation, *, ack: bool) -> None:
    page = await SocketPage.open(system.one, ack=ack)
    await system.publish(1)
    page.sockets.drain()
    await eventually(lambda: page.frames.code == GOING_AWAY)
    page.frames.go(is_clean=True)
    assert page.events() == [1]
    await system.publish(2)
    elsewhere = SocketPage(system.two, page.alice)
    ext = {"ack": page.said()[-1]["ext"]["ack"]} if ack else {}
    elsewhere.connect("c2", ext=ext)
    if not ack:
        await elsewhere.is_answered("c2")
        elsewhere.connect("c3")
    await eventually(lambda: elsewhere.events() == [2])


async def test_each_is_closed_at_a_time_of_its_own(system: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = web_sockets(system.one.server, spread_s=3_600.0)
    pages = [await SocketPage.open(system.one, ack=False, sockets=sockets) for _ in range(2)]
    times: Iterator[float] = iter([0.0, 3_600.0])
    asked = []

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return next(times)

    monkeypatch.setattr("random.uniform", uniform)
    sockets.drain()
    await eventually(lambda: sorted(page.frames.code for page in pages) == [0, GOING_AWAY])
    assert asked == [(0, 3_600.0)] * 2


@pytest.mark.usefixtures("parts_soon")
async def test_who_comes_while_the_node_goes_is_closed_too(system: Installation) -> None:
    sockets = web_sockets(system.one.server)
    sockets.drain()
    frames = opened(sockets)
    assert frames.is_open
    await eventually(lambda: frames.code == GOING_AWAY)


async def test_who_comes_while_the_node_goes_is_served_until_then(system: Installation) -> None:
    alice, sockets = await Client().begin(system.one), web_sockets(system.one.server, spread_s=3_600.0)
    sockets.drain()
    page = SocketPage(system.one, alice, sockets=sockets)
    page.connect("c1", advice={"timeout": 0})
    await page.is_answered("c1")


async def test_what_waits_goes_out_before_the_close(system: Installation) -> None:
    page = await SocketPage.open(system.one, ack=False)
    page.frames.is_slow = True
    await system.publish(1)
    # The client has read on, and the node does not know it yet.
    page.frames._is_slow = False
    page.frames.handler.leave()
    assert (page.events(), page.frames.code) == ([1], GOING_AWAY)


async def test_the_node_waits_until_all_are_closed(system: Installation) -> None:
    sockets = web_sockets(system.one.server)
    frames = [opened(sockets) for _ in range(2)]
    sockets.drain()
    closed = asyncio.create_task(sockets.closed(3_600.0))
    frames[0].go(is_clean=True)
    await turns()
    assert not closed.done()
    frames[1].go(is_clean=True)
    await closed


async def test_the_node_does_not_wait_for_ever(system: Installation) -> None:
    sockets = web_sockets(system.one.server)
    opened(sockets)
    sockets.drain()
    await asyncio.wait_for(sockets.closed(0.01), 15)
    assert len(sockets.opened) == 1


async def test_a_client_that_has_not_connected_again_yet_is_waited_for(system: Installation) -> None:
    page = await SocketPage.open(system.one, ack=True)
    await system.publish(1)
    await eventually(lambda: page.events() == [1])
    page.sockets.drain()
    await turns(20)
    assert page.frames.code == 0
    page.connect("c9", ext={"ack": page.said()[-1]["ext"]["ack"]})
    await eventually(lambda: page.frames.code == GOING_AWAY)
    [parting] = [each for each in page.said() if each.get("id") == "c9"]
    assert (parting["successful"], parting["advice"]["interval"]) == (True, 2_000)
