"""Events with the replies to other messages, for sessions that want them so: nothing is lost, and nothing doubled."""

import asyncio

import pytest

from calltag.core.store.client_ids import digest_of
from calltag.notifier.cometd.delivery import Delivery
from parts.eventually import eventually
from parts.hubs import KEYS, Client, Installation, Node, numbers

ANY = {"calltag": {"metaConnectDeliveryOnly": False}}
CONNECTS_ONLY = {"calltag": {"metaConnectDeliveryOnly": True}}


async def begun(node: Node, **ext: object) -> Client:
    alice = Client()
    assert (await alice.shake(node, ext=ext))["successful"]
    assert (await alice.subscribe(node))["successful"]
    await alice.poll(node)
    await node.side_tasks.finish()
    return alice


async def said(node: Node, client: Client) -> list[int]:
    """The events that go with the reply to a message that is no connect."""
    turn = await client.send(node, {"channel": "/service/x", "clientId": client.client_id, "data": {}})
    assert turn.replies[0]["successful"]
    return numbers(await Delivery(node.connects).with_replies(turn.spoke))


async def test_events_go_with_any_reply_where_the_session_asks_for_it(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1, 2)
    assert await said(system.one, alice) == [1, 2]
    assert await said(system.one, alice) == []
    await system.publish(3)
    assert (await alice.poll(system.one))[0] == [3]


@pytest.mark.parametrize("ext", [{}, CONNECTS_ONLY, ANY | {"ack": True}, {"calltag": {"metaConnectDeliveryOnly": 0}}])
async def test_else_they_go_with_connects_only(system: Installation, ext: dict[str, object]) -> None:
    alice = await begun(system.one, **ext)
    await system.publish(1)
    assert await said(system.one, alice) == []
    assert (await alice.poll(system.one))[0] == [1]


async def test_an_operator_may_make_it_usual(system: Installation) -> None:
    system.one.connects.connects_only = ()
    alice, bob = await begun(system.one), await begun(system.one, **CONNECTS_ONLY)
    await system.publish(1)
    assert (await said(system.one, alice), await said(system.one, bob)) == ([1], [])


async def test_what_went_with_a_reply_is_not_sent_again_by_another_node(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    assert await said(system.one, alice) == [1]
    await system.publish(2)
    assert (await alice.poll(system.two))[0] == [2]
    assert await said(system.two, alice) == []


async def test_what_went_with_a_reply_is_sent_again_to_who_may_lack_it(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    assert await said(system.one, alice) == [1]
    assert (await alice.poll(system.two, advice={"timeout": 0}))[0] == [1]


async def test_the_wish_holds_on_every_node_and_only_the_holder_delivers(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    assert await said(system.two, alice) == []
    assert (await alice.poll(system.two))[0] == [1]
    await system.publish(2)
    assert await said(system.one, alice) == []
    assert await said(system.two, alice) == [2]


async def test_a_node_that_lost_the_session_unawares_sends_nothing(system: Installation) -> None:
    system.loses_notices = True
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    turn = await alice.connect(system.two)
    assert await said(system.one, alice) == []
    assert system.one.local.sessions == {}
    assert (await alice.finish(system.two, turn))[0] == [1]


async def test_nothing_goes_out_that_the_store_does_not_know_of(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    system.one.client.cut.append("away")
    assert await Delivery(system.one.connects).with_replies([alice.client_id]) == []
    system.one.client.cut.clear()
    assert (await alice.poll(system.one))[0] == [1]


async def test_a_held_connect_goes_on_waiting_and_living(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    turn = await alice.connect(system.one)
    [session] = system.one.local.sessions.values()
    await system.publish(1)
    assert await said(system.one, alice) == [1]
    key = KEYS.cometd_session(session.user, digest_of(alice.client_id))  # type: ignore[arg-type]
    assert await system.client.connection.pttl(key) > 30_000
    waiting = asyncio.create_task(alice.finish(system.one, turn))
    await system.publish(2)
    assert (await waiting)[0] == [2]


async def test_a_session_lives_on_for_a_while_after_a_reply_with_events(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    [session] = system.one.local.sessions.values()
    key = KEYS.cometd_session(session.user, digest_of(alice.client_id))  # type: ignore[arg-type]
    await system.client.connection.pexpire(key, 5_000)
    await system.publish(1)
    assert await said(system.one, alice) == [1]
    assert await system.client.connection.pttl(key) > 9_000


async def test_what_a_subscription_wants_from_the_past_may_come_with_its_reply(system: Installation) -> None:
    await system.publish(1)
    alice = Client()
    await alice.shake(system.one, ext=ANY)
    await alice.poll(system.one)
    message = {"channel": "/meta/subscribe", "clientId": alice.client_id, "subscription": "/v2/me/calls"}
    turn = await alice.send(system.one, message | {"ext": {"replay": {"/v2/me/calls": -2}}})
    assert numbers(await Delivery(system.one.connects).with_replies(turn.spoke)) == [1]


async def test_over_a_stream_events_may_end_the_connect(system: Installation) -> None:
    alice, bob = await begun(system.one, **CONNECTS_ONLY), await begun(system.one)
    turns = [await each.send(system.one, each.connecting(), streaming=True) for each in (alice, bob)]
    await system.publish(1)
    due = [turn.held is not None and system.one.connects.answers.is_due(turn.held) for turn in turns]
    assert due == [True, False]
    assert (await alice.finish(system.one, turns[0]))[0] == [1]


async def test_who_asks_is_told_what_holds(system: Installation) -> None:
    for ext, told in (
        (ANY, {"metaConnectDeliveryOnly": False}),
        (CONNECTS_ONLY, {"metaConnectDeliveryOnly": True}),
        (ANY | {"ack": True}, {"metaConnectDeliveryOnly": True}),
        ({}, None),
        ({"calltag": 3}, None),
    ):
        client = Client(f"user{told}")
        assert (await client.shake(system.one, ext=ext))["ext"].get("calltag") == told


async def test_the_reply_waits_for_its_turn(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    async with system.one.connects.turn(alice.client_id):
        saying = asyncio.create_task(Delivery(system.one.connects).with_replies([alice.client_id]))
        [session] = system.one.local.sessions.values()
        await asyncio.sleep(0)
        assert session.has_news
    assert numbers(await saying) == [1]
    await eventually(lambda: not session.has_news)
