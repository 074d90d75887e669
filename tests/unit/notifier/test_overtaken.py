"""A connect that comes late, from a page that is gone, takes the session from the page that is there: it comes back."""

import pytest

from calltag.notifier.session_registry import Resident
from parts.eventually import eventually
from parts.frames import SocketPage
from parts.hubs import Client, Installation

PATIENCE_MS = 1_000
RETRY = {"reconnect": "retry", "interval": 0, "timeout": 30_000}


async def overtake(system: Installation, page: SocketPage) -> None:
    """The former page's connect comes to the other node, and nobody is there any more to be told anything."""
    turn = await page.alice.send(system.two, page.alice.connecting(connectionType="websocket"), streaming=True)
    assert page.alice.client_id in system.two.registry.residents
    await system.settle()
    assert page.suspended is None
    if turn.held is not None:
        system.two.sessions.abandon(turn.held)


@pytest.mark.parametrize("ack", [True, False])
async def test_who_still_waits_is_asked_to_connect_again_and_misses_nothing(system: Installation, *, ack: bool) -> None:
    page = await SocketPage.open(system.one, ack=ack)
    await overtake(system, page)
    await system.publish(1)
    await page.let_pass(PATIENCE_MS // 2)
    assert page.said() == []
    await page.let_pass(PATIENCE_MS)
    [reply] = page.said()
    assert (reply["channel"], reply["id"], reply["advice"]) == ("/meta/connect", "c1", RETRY)
    assert (reply["successful"], reply.get("error")) == ((True, None) if ack else (False, "408::connect_replaced"))
    # What has failed makes the client ask for an answer at once.
    page.connect("c2", **({} if ack else {"advice": {"timeout": 0}}))
    await eventually(lambda: page.events() == [1])
    await page.let_pass(2 * PATIENCE_MS)
    assert [name for name, _ in page.replies()] == ["c1", "c2"]


@pytest.mark.parametrize("ack", [True, False])
async def test_a_client_that_connects_again_by_itself_is_asked_nothing_more(system: Installation, *, ack: bool) -> None:
    page = await SocketPage.open(system.one, ack=ack)
    await overtake(system, page)
    page.connect("c2")
    answered, last = ["c1"], "c2"
    if not ack:
        # It waited for the other node, and may have been given up: the answer is immediate and empty.
        await page.is_answered("c2")
        page.connect("c3")
        answered, last = ["c1", "c2"], "c3"
    await page.holds(last)
    assert page.replies() == [(name, True) for name in answered]
    assert "ext" not in page.said()[0]
    await page.let_pass(2 * PATIENCE_MS)
    assert len(page.said()) == len(answered)
    assert page.suspended == last


async def test_who_still_waits_while_the_node_goes_is_told_that_it_goes(system: Installation) -> None:
    page = await SocketPage.open(system.one, ack=True)
    await overtake(system, page)
    page.sockets.drain()
    await eventually(lambda: page.frames.code == 1001)
    await page.let_pass(2 * PATIENCE_MS)
    [reply] = page.said()
    assert (reply["id"], reply["successful"], reply["advice"]["interval"]) == ("c1", True, 2_000)


@pytest.mark.parametrize("ack", [True, False])
async def test_who_is_overtaken_while_events_are_read_is_asked_too(
    system: Installation, monkeypatch: pytest.MonkeyPatch, *, ack: bool
) -> None:
    page = SocketPage(system.one, await Client().begin(system.one, ack=ack))

    async def overtaken(_: object, resident: Resident) -> None:
        system.one.sessions.endings.release(resident)

    async def refuse(*_: object, **__: object) -> None:
        return None

    with monkeypatch.context() as patched:
        patched.setattr(type(system.one.dispatcher), "catch_up", overtaken)
        patched.setattr(system.one.store, "take_over", refuse)
        page.connect("c1", **({"ext": {"ack": 0}} if ack else {}))
        await eventually(lambda: page.frames.is_idle)
    assert page.said() == []
    await page.let_pass(PATIENCE_MS)
    assert page.replies() == [("c1", ack)]


async def test_clients_of_one_websocket_are_asked_each_for_itself(system: Installation) -> None:
    page = await SocketPage.open(system.one, ack=True)
    other = SocketPage(system.one, await Client().begin(system.one, ack=True), sockets=page.sockets)
    other.frames = page.frames
    other.connect("o1")
    await other.holds("o1")
    for resident in list(system.one.registry.residents.values()):
        system.one.sessions.endings.release(resident)
    await page.let_pass(PATIENCE_MS // 2)
    assert page.said() == []
    # One comes back by itself, in time.
    other.connect("o2")
    await other.holds("o2")
    assert [(each["clientId"], each["id"]) for each in page.said()] == [(other.alice.client_id, "o1")]
    await page.let_pass(PATIENCE_MS)
    assert [(each["clientId"], each["id"]) for each in page.said()] == [
        (other.alice.client_id, "o1"), (page.alice.client_id, "c1"),
    ]  # fmt: skip
