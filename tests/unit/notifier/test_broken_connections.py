"""Connections that break behind an answer: what was written last may not have arrived, and comes again."""

import pytest

from parts.eventually import eventually
from parts.frames import SocketPage
from parts.hubs import Client, Installation
from parts.polls import Poll, cometd_http
from unit.notifier.conftest import Door, begun_with_wish, two_polls


def reconnect(*clients: Client) -> None:
    """The next connects come on another connection."""
    for client in clients:
        client.connection_id += 1


# -- sessions that share a connection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [False, True])
async def test_the_last_answer_on_a_shared_connection_comes_again(system: Installation, *, leaves: bool) -> None:
    """Also where another session of the connection came between, or has left."""
    alice = await Client().begin(system.one)
    bob = await Client(user="bob").begin(system.one)
    if leaves:
        await alice.poll(system.one, advice={"timeout": 1})
        assert (await bob.ask(system.one, "/meta/disconnect"))["successful"]
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]
    system.one.sessions.connection_broke(1)
    reconnect(alice)
    assert await two_polls(system.one, alice) == [1]


async def test_an_answer_on_a_shared_connection_before_the_last_one_does_not_come_again(system: Installation) -> None:
    bob = await Client(user="bob").begin(system.one)
    await system.publish(7, user="bob")
    assert (await bob.poll(system.one))[0] == [7]
    alice = await Client().begin(system.one)
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]
    system.one.sessions.connection_broke(1)
    reconnect(alice, bob)
    assert await two_polls(system.one, bob) == []
    assert await two_polls(system.one, alice) == [1]


# -- answers that are lost, and who knows ------------------------------------------------------------------------------


async def test_the_store_does_not_count_a_lost_answer_as_sent(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]
    system.one.sessions.connection_broke(1)
    await system.settle()
    record = await system.one.store.load(alice.client_id)
    assert record is not None
    assert record.cursor.sent == record.cursor.confirmed


async def test_a_lost_answer_comes_again_after_its_home_has_crashed(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]
    system.one.sessions.connection_broke(1)
    await system.settle()
    system.loses_notices = True
    await system.one.lapse()
    reconnect(alice)
    assert await two_polls(system.two, alice) == [1]


async def test_a_lost_answer_of_a_session_that_roams_comes_again_from_another_node(system: Installation) -> None:
    alice = await Client().begin(system.one)
    assert (await alice.poll(system.two))[0] == []
    assert system.two.registry.residents[alice.client_id].is_roaming
    await system.publish(1)
    assert (await alice.poll(system.two))[0] == [1]
    system.two.sessions.connection_broke(1)
    await system.settle()
    reconnect(alice)
    assert await two_polls(system.one, alice) == [1]


async def test_an_answer_that_is_lost_while_it_is_saved_comes_again_from_another_node(system: Installation) -> None:
    alice = await Client().begin(system.one)
    assert (await alice.poll(system.two))[0] == []
    turn = await alice.connect(system.two)
    assert turn.held is not None
    assert turn.held.resident.is_roaming
    turn.line.is_gone = True
    await system.publish(1)
    await eventually(lambda: turn.held is not None and turn.held.resident.is_answer_lost)
    await system.settle()
    reconnect(alice)
    assert await two_polls(system.one, alice) == [1]


async def test_events_with_the_reply_to_another_message_come_again(system: Installation) -> None:
    """That message came on a connection of its own."""
    alice = await begun_with_wish(system.one, connects_only=False)
    await system.publish(1)
    message = {"channel": "/service/x", "id": "5", "clientId": alice.client_id, "data": {}}
    told = await Poll(cometd_http(system.one.server), message, connection_id=77).messages()
    assert [each["data"]["n"] for each in told if "data" in each] == [1]
    system.one.sessions.connection_broke(77)
    assert await two_polls(system.one, alice) == [1]


async def test_a_websocket_that_breaks_while_its_connect_is_claimed_loses_nothing(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await SocketPage.open(system.one, ack=False)
    await system.publish(1)
    assert page.events() == [1]
    # The home has to ask the store.
    page.resident.ends_at_ms = 0
    with monkeypatch.context() as patched:
        take_over = Door(system.one.store, "take_over", patched)
        page.connect("c2")
        await take_over.began.wait()
        page.frames.go()
        assert page.resident.is_answer_lost
        take_over.may_go_on.set()
        await eventually(lambda: not page.sockets.tasks)
    after = SocketPage(system.one, page.alice)
    after.connect("c3")
    await eventually(lambda: after.events() == [1])
