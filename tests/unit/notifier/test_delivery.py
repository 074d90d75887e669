"""Events with the replies to other messages, for sessions that want them so: nothing is lost, and nothing doubled."""

from urllib.parse import urlencode

import orjson
import pytest

from calltag.core.bayeux.engine import CALLBACK_POLLING
from calltag.core.domain.ids import UserId
from calltag.core.http.request_parser import RequestHead
from calltag.core.store.client_ids import digest_of
from calltag.notifier.session_registry import RequestContext
from parts.frames import SHOWN
from parts.hubs import KEYS, Client, Installation, Line, Node, numbers
from parts.polls import Poll, cometd_http
from parts.store_commands import library

ANY = {"calltag": {"metaConnectDeliveryOnly": False}}
CONNECTS_ONLY = {"calltag": {"metaConnectDeliveryOnly": True}}


async def begun(node: Node, **ext: object) -> Client:
    alice = Client()
    assert (await alice.shake(node, ext=ext))["successful"]
    assert (await alice.subscribe(node))["successful"]
    await alice.poll(node)
    await node.background.finish()
    return alice


async def said(node: Node, client: Client) -> list[int]:
    """The events that go with the reply to a message that is no connect."""
    assert (await client.ask(node, "/service/x", data={}))["successful"]
    return await delivered(node, client)


async def delivered(node: Node, client: Client) -> list[int]:
    return numbers(await node.sessions.deliver([client.client_id], RequestContext(Line(node), 77)))


def key_of(client: Client) -> str:
    return KEYS.cometd_session(UserId("alice"), digest_of(client.client_id))


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
    system.one.sessions.connects_only = ()
    alice, bob = await begun(system.one), await begun(system.one, **CONNECTS_ONLY)
    await system.publish(1)
    assert (await said(system.one, alice), await said(system.one, bob)) == ([1], [])


async def test_what_went_with_a_reply_is_not_sent_again_by_another_node(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    assert await said(system.one, alice) == [1]
    await system.publish(2)
    assert (await alice.move(system.two))[0] == [2]
    assert await said(system.two, alice) == []


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_what_went_with_a_reply_is_sent_again_to_who_may_lack_it(
    system: Installation, *, is_elsewhere: bool
) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    assert await said(system.one, alice) == [1]
    alice.connection_id += 1
    events, _ = await alice.poll(system.two if is_elsewhere else system.one, advice={"timeout": 0})
    if is_elsewhere:
        assert events == []
        events, _ = await alice.poll(system.two)
    assert events == [1]


async def test_the_wish_holds_on_every_node_and_only_the_home_delivers(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    assert await said(system.two, alice) == []
    assert (await alice.move(system.two))[0] == [1]
    await system.publish(2)
    assert await said(system.one, alice) == []
    assert await said(system.two, alice) == [2]


async def test_a_node_that_lost_the_session_unawares_sends_nothing(system: Installation) -> None:
    system.loses_notices = True
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    await system.one.lapse()
    assert (await alice.move(system.two))[0] == [1]
    await system.publish(2)
    for renews in (False, True):
        if renews:
            await system.one.lease.renew()
        assert system.one.registry.residents[alice.client_id].session.has_news
        assert await said(system.one, alice) == []
    await system.settle()
    assert system.one.registry.residents == {}
    assert await said(system.two, alice) == [2]


async def test_events_go_with_replies_while_the_store_is_away(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    system.one.client.cut.append("away")
    assert await delivered(system.one, alice) == [1]
    system.one.client.cut.clear()
    assert (await alice.connect(system.one)).held is not None


async def test_where_a_session_roams_nothing_goes_out_that_the_store_does_not_know_of(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    assert (await alice.poll(system.two))[0] == []
    assert system.two.registry.residents[alice.client_id].is_roaming
    await system.publish(1)
    system.two.client.cut.append("away")
    assert await delivered(system.two, alice) == []
    system.two.client.cut.clear()
    assert (await alice.poll(system.two))[0] == [1]
    await system.publish(2)
    assert await delivered(system.two, alice) == [2]
    # The next home has to ask nobody.
    system.loses_notices = True
    assert (await alice.connect(system.one)).held is not None


async def test_an_event_answers_the_connect_that_waits_and_does_not_go_with_another_reply(
    system: Installation,
) -> None:
    alice = await begun(system.one, **ANY)
    turn = await alice.connect(system.one)
    await system.publish(1)
    assert await said(system.one, alice) == []
    assert (await alice.finish(system.one, turn))[0] == [1]


async def test_a_suspended_connect_keeps_its_session_alive(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    turn = await alice.connect(system.one)
    assert await said(system.one, alice) == []
    await system.settle()
    assert await library(system.client).pttl(key_of(alice)) > 30_000
    assert not turn.line.answered.is_set()


async def test_a_session_lives_on_for_a_while_after_a_reply_with_events(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.settle()
    await library(system.client).pexpire(key_of(alice), 5_000)
    await system.publish(1)
    assert await said(system.one, alice) == [1]
    await system.settle()
    assert await library(system.client).pttl(key_of(alice)) > 9_000


async def test_what_a_subscription_wants_from_the_past_may_come_with_its_reply(system: Installation) -> None:
    await system.publish(1)
    alice = Client()
    await alice.shake(system.one, ext=ANY)
    await alice.poll(system.one)
    assert (await alice.subscribe(system.one, ext={"replay": {"/v2/me/calls": -2}}))["successful"]
    assert await delivered(system.one, alice) == [1]


async def test_over_a_stream_events_may_end_the_connect(system: Installation) -> None:
    alice, bob = await begun(system.one, **CONNECTS_ONLY), await begun(system.one)
    turns = [await each.send(system.one, each.connecting(), streaming=True) for each in (alice, bob)]
    assert all(turn.held is not None for turn in turns)
    await system.publish(1)
    assert [turn.line.answered.is_set() for turn in turns] == [True, False]
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


async def test_nothing_goes_with_a_reply_while_the_store_is_asked_about_the_session(system: Installation) -> None:
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    async with system.one.sessions.turn(alice.client_id):
        assert await delivered(system.one, alice) == []
    assert await delivered(system.one, alice) == [1]


async def test_nothing_goes_with_the_reply_that_a_script_is(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script may be lost unnoticed: with callback-polling, events go with connects alone."""
    alice = await begun(system.one, **ANY)
    await system.publish(1)
    http = cometd_http(system.one.server)
    engine = http.server.engine
    monkeypatch.setattr(engine, "connection_types", (*engine.connection_types, CALLBACK_POLLING))
    message = [{"channel": "/service/x", "id": "5", "clientId": alice.client_id, "data": {}}]
    query = urlencode({"message": orjson.dumps(message).decode(), "jsonp": "f"}).encode()
    head = RequestHead(
        "GET", b"/genesys/cometd", query, "1.1", SHOWN, framing="none", content_length=0,
        keep_alive=True, expects_continue=False, is_websocket=False,
    )  # fmt: skip
    monkeypatch.setattr("parts.polls.head_of", lambda _: head)
    poll = Poll(http, body=b"")
    await poll.answered.wait()
    assert poll.status == 200
    assert poll.text.startswith(b"/**/f([")
    assert b'"data"' not in poll.text
    assert (await alice.poll(system.one))[0] == [1]
