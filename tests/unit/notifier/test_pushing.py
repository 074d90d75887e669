"""Events that go straight to the clients on WebSockets, and those that have to wait for something."""

import asyncio
import gc
from typing import Any

import pytest

from calltag.notifier.authentication import proof_of
from calltag.notifier.websocket import SocketConnection
from parts.eventually import eventually
from parts.frames import SHOWN, SocketPage
from parts.hubs import CALLS, Client, Installation


async def pages_of(system: Installation, count: int) -> list[SocketPage]:
    """Sessions of alice's, each on a WebSocket of its own with a connect that waits."""
    return [await SocketPage.open(system.one, ack=False) for _ in range(count)]


async def test_all_who_are_free_are_sent_the_same_at_once(system: Installation) -> None:
    pages = await pages_of(system, 3)
    await system.publish(1)
    assert [(page.frames.pushed, page.events()) for page in pages] == [(1, [1])] * 3
    assert len({page.frames.outgoing[-1] for page in pages}) == 1
    system.one.metrics.flush()
    delivered = system.one.all_metrics.registry.get_sample_value("calltag_deliveries_total", {"channel": CALLS})
    assert delivered == 3
    sessions = [page.resident.session for page in pages]
    assert all(session.sent == session.position and not session.has_news for session in sessions)


async def test_who_is_slow_has_it_wait_and_then_in_its_order(system: Installation) -> None:
    slow, quick = await pages_of(system, 2)
    slow.frames.is_slow = True
    await system.publish(1)
    await system.publish(2)
    assert (slow.events(), quick.events()) == ([], [1, 2])
    slow.frames.is_slow = False
    assert slow.events() == [1, 2]
    assert (slow.frames.pushed, quick.frames.pushed) == (0, 2)
    await system.publish(3)
    assert (slow.events(), slow.frames.pushed) == ([1, 2, 3], 1)


async def test_nothing_overtakes_the_answer_to_what_is_being_handled(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    [page] = await pages_of(system, 1)
    may_go_on, subscribe = asyncio.Event(), system.one.store.subscribe

    async def subscribe_late(*given: Any, **more: Any) -> Any:
        await may_go_on.wait()
        return await subscribe(*given, **more)

    monkeypatch.setattr(system.one.store, "subscribe", subscribe_late)
    message = {"channel": "/meta/subscribe", "id": "s1", "clientId": page.alice.client_id, "subscription": "/v2/x"}
    page.frames.come(message)
    await system.publish(1)
    assert page.said() == []
    may_go_on.set()
    await eventually(lambda: page.events() == [1])
    assert [each.get("id") for each in page.said()] == ["s1", None]
    assert page.frames.pushed == 0


async def test_nothing_is_written_after_the_close_frame(system: Installation) -> None:
    [page] = await pages_of(system, 1)
    page.frames.handler.leave()
    await system.publish(1)
    assert (page.frames.code, page.events()) == (1001, [])
    page.frames.go(is_clean=True)
    assert (await page.alice.poll(system.one))[0] == [1]


async def test_what_waits_goes_out_when_a_websocket_is_known_at_once(system: Installation) -> None:
    """Its first connect needs no look at the store, as another WebSocket has shown the same."""
    alice = await Client().begin(system.one)
    system.one.registry.residents[alice.client_id].proof = proof_of(SHOWN, is_http=False)
    await system.publish(1)
    page = SocketPage(system.one, alice)
    page.connect("c1")
    assert page.suspended == "c1"
    await eventually(lambda: page.events() == [1])


async def test_a_gap_is_filled_first(system: Installation) -> None:
    [page] = await pages_of(system, 1)
    await system.publish(1, by_broker=False)
    await system.publish(2)
    await eventually(lambda: page.events() == [1, 2])


async def test_what_is_more_than_a_queue_holds_is_pushed_to_the_end(system: Installation) -> None:
    [page] = await pages_of(system, 1)
    page.frames.is_slow = True
    await system.publish(*range(11))
    page.frames.is_slow = False
    await eventually(lambda: page.events() == list(range(11)))


async def test_a_websocket_that_is_over_is_gone_without_a_look_for_garbage(system: Installation) -> None:
    alice = await Client().begin(system.one)
    gc.collect()
    gc.disable()
    try:
        page = SocketPage(system.one, alice)
        page.connect("c1")
        await page.holds("c1")
        page.frames.go()
        del page
        await eventually(lambda: not any(type(each) is SocketConnection for each in gc.get_objects()))
    finally:
        gc.enable()
