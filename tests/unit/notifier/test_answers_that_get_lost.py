"""Events that went out and did not arrive: who does not acknowledge gets them again, where the node can know of it."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from calltag.core.bayeux.session import Ending
from calltag.core.store.sessions import SessionState
from parts.eventually import eventually, turns
from parts.frames import SocketPage
from parts.hubs import Client, Installation, Node, numbers
from parts.polls import Poll, cometd_http

HURRY = {"timeout": 0}


async def idle(node: Node) -> None:
    """The node has done what it was asked to do."""
    await eventually(lambda: not any(turn.locked() for turn in node.sessions._turns.values()))
    await turns()


class LateSaves:
    """Saves of a node that wait until they may go on."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.may_go_on = asyncio.Event(), asyncio.Event()
        save = node.store.save

        async def late(states: Sequence[SessionState]) -> object:
            self.began.set()
            await self.may_go_on.wait()
            return await save(states)

        monkeypatch.setattr(node.store, "save", late)


async def test_an_answer_that_a_closed_websocket_did_not_take_is_sent_again(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    # At the other node it takes a look into the store.
    page = SocketPage(system.two, alice)
    page.connect("c1", advice=HURRY)
    page.frames.go()
    await idle(system.two)
    assert page.said() == []
    assert (await alice.poll(system.two, advice=HURRY))[0] == [1]


async def test_an_answer_that_a_broken_connection_did_not_take_is_sent_again(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    poll = Poll(cometd_http(system.two.server), alice.connecting(advice=HURRY))
    poll.break_off()
    await idle(system.two)
    assert (await alice.poll(system.two, advice=HURRY))[0] == [1]


async def test_events_for_another_message_on_a_broken_connection_are_sent_again(system: Installation) -> None:
    alice = Client()
    await alice.shake(system.one, ext={"calltag": {"metaConnectDeliveryOnly": False}})
    await alice.subscribe(system.one)
    await alice.poll(system.one)
    await system.publish(1)
    poll = Poll(cometd_http(system.one.server), {"channel": "/service/x", "id": "1", "clientId": alice.client_id})
    poll.break_off()
    await idle(system.one)
    assert (await alice.poll(system.one))[0] == [1]


def has_events(page: SocketPage, events: list[int]) -> bool:
    return page.events() == events


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_websockets_that_break_one_after_another_lose_nothing(
    system: Installation, *, is_elsewhere: bool
) -> None:
    """Each answer on its way is lost with its link, and no node hears of that."""
    alice = await Client().begin(system.one)
    await system.publish(1)
    for number in range(3):
        page = SocketPage(system.two if is_elsewhere and number % 2 else system.one, alice)
        page.connect("c1", advice=HURRY)
        await page.is_answered("c1")
        # At a new home they follow the answer.
        await eventually(partial(has_events, page, [1]))


async def test_a_client_that_polls_gets_nothing_twice(system: Installation) -> None:
    alice, got = await Client().begin(system.one), []
    for number in range(4):
        await system.publish(number)
        alice.connection_id += 1
        got.append((await alice.poll(system.two if number % 2 else system.one, advice=HURRY))[0])
    # The first one may well say that the connect before failed; it was answered without an event. The second one waits
    # for its former home, and may be given up meanwhile: it brings nothing.
    assert got == [[0], [], [1, 2], [3]]


@pytest.mark.parametrize("advice", [HURRY, {}])
@pytest.mark.parametrize(("is_asked", "comes_again"), [(True, []), (False, [1])])
async def test_who_answers_a_close_frame_has_read_all_and_who_closes_may_not(
    system: Installation, *, is_asked: bool, comes_again: list[int], advice: dict[str, int]
) -> None:
    page = await SocketPage.open(system.one, ack=False)
    await system.publish(1)
    assert page.events() == [1]
    if is_asked:
        page.sockets.drain()
        await eventually(lambda: page.frames.code == 1001)
    page.frames.go(is_clean=True)
    turn = await page.alice.connect(system.one, advice=advice)
    assert numbers(turn.events) == comes_again


async def test_what_was_pushed_is_not_confirmed_by_a_connect_that_did_not_know_of_it(system: Installation) -> None:
    page = await SocketPage.open(system.one, ack=False)
    await page.let_pass(30_000)
    await system.publish(1)
    assert (page.events(), page.replies()) == ([1], [("c1", True)])
    await system.settle()
    # The node forgets the session while the event is on its way, behind the reply to which the client connects.
    page.resident.session.end(Ending.EXPIRED)
    system.one.sessions.endings.release(page.resident)
    page.connect("c2")
    await page.holds("c2")
    # Then the link breaks.
    assert (await page.alice.poll(system.one, advice=HURRY))[0] == [1]


async def test_what_is_to_be_sent_again_does_not_count_as_sent_in_the_store(system: Installation) -> None:
    """One answer does not hold all, and the node crashes behind it."""
    page = await SocketPage.open(system.one, ack=False)
    await system.publish(*range(8))
    await system.settle()
    assert page.events() == [*range(8)]
    page.frames.go()
    events, reply = await page.alice.poll(system.one, advice=HURRY)
    assert (events, reply["ext"]["calltag"]) == ([0, 1, 2, 3], {"behind": True})
    system.loses_notices = True
    await system.one.lapse()
    assert (await page.alice.poll(system.two, advice=HURRY))[0] == []
    got = [(await page.alice.poll(system.two))[0] for _ in range(2)]
    assert got == [[0, 1, 2, 3], [4, 5, 6, 7]]


async def test_a_save_that_a_claim_of_this_node_overtook_changes_nothing(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    resident = system.one.registry.residents[alice.client_id]
    system.one.registry.mark(resident)
    saves = LateSaves(system.one, monkeypatch)
    saving = asyncio.create_task(system.one.sessions.sync.save_marked())
    await saves.began.wait()
    system.one.ahead_ms += 6_000
    await system.one.lease.renew()
    turn = await alice.connect(system.one)
    assert turn.held is not None
    saves.may_go_on.set()
    await saving
    assert system.one.registry.residents[alice.client_id] is resident
    assert resident.suspended is turn.held
    await system.publish(1)
    assert (await alice.finish(system.one, turn))[0] == [1]


async def retry_while_saves_are_late(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> tuple[SocketPage, SocketPage, LateSaves]:
    """A WebSocket with an event, the next one, whose connect says that the event may be lost, and its late save."""
    former = await SocketPage.open(system.one, ack=False)
    await system.publish(1)
    saves = LateSaves(system.one, monkeypatch)
    page = SocketPage(system.one, former.alice)
    page.connect("c2", advice=HURRY)
    await saves.began.wait()
    return former, page, saves


async def test_what_is_sent_again_does_not_go_out_the_former_way(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former WebSocket is given up, and the node does not know."""
    former, page, saves = await retry_while_saves_are_late(system, monkeypatch)
    # Subscriptions that change have the stream read.
    await page.alice.subscribe(system.one, "/v2/x")
    saves.may_go_on.set()
    await page.is_answered("c2")
    assert (former.events(), page.events()) == ([1], [1])


async def test_the_end_of_the_former_websocket_says_nothing_of_the_next_one(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    former, page, saves = await retry_while_saves_are_late(system, monkeypatch)
    former.frames.go()
    saves.may_go_on.set()
    await page.is_answered("c2")
    page.connect("c3")
    await page.holds("c3")
    await page.let_pass(0)
    assert page.events() == [1]


async def test_a_connect_that_was_overtaken_does_not_take_the_session_back(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node has read the session, and waits for the former home, when the client is answered there."""
    page = await SocketPage.open(system.one, ack=False)
    await system.publish(1)
    page.frames.go()
    saves = LateSaves(system.one, monkeypatch)
    is_answered, take_over = asyncio.Event(), system.two.store.take_over

    async def late_take_over(*arguments: Any, **named: Any) -> object:
        await is_answered.wait()
        return await take_over(*arguments, **named)

    monkeypatch.setattr(system.two.store, "take_over", late_take_over)
    late_connect = asyncio.create_task(page.alice.connect(system.two, advice=HURRY))
    await saves.began.wait()
    # The former home has let it go and saves it; a connect takes it back.
    newer = asyncio.create_task(page.alice.poll(system.one, advice=HURRY))
    saves.may_go_on.set()
    assert (await newer)[0] == [1]
    is_answered.set()
    late = await late_connect
    assert (late.held, late.events) == (None, [])


async def test_a_connect_of_a_session_that_expired_meanwhile_asks_for_a_handshake(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    resident = system.one.registry.residents[alice.client_id]
    resident.session.end(Ending.EXPIRED)
    system.one.sessions.endings.release(resident)
    _, reply = await alice.finish(system.one, turn)
    assert (reply["error"], reply["advice"]["reconnect"]) == ("402::Unknown client", "handshake")
