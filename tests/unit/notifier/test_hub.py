"""What a hub answers, and when."""

import asyncio
import contextlib

import pytest

from calltag.core.bayeux import errors
from calltag.core.bayeux.events import Event
from calltag.core.bayeux.session import Session
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import digest_of, is_bearer, user_of
from calltag.core.wire.messages import NoticeKind, SessionNotice
from calltag.notifier.cometd.answers import HeldConnect
from calltag.notifier.cometd.hub import Turn
from parts.eventually import eventually
from parts.hubs import CALLS, HELLO, KEYS, Client, Installation, numbers


def held(turn: Turn) -> HeldConnect:
    assert turn.held is not None
    assert not turn.replies
    return turn.held


async def test_a_session_begins_for_its_user_alone(system: Installation) -> None:
    alice = Client()
    reply = await alice.shake(system.one)
    assert reply["successful"]
    assert (user_of(alice.client_id), is_bearer(alice.client_id)) == ("alice", False)
    bearer = Client("bob", bearer=True)
    await bearer.shake(system.one)
    assert is_bearer(bearer.client_id)
    assert (await Client(None).shake(system.one))["error"] == errors.UNAUTHORIZED


async def test_a_handshake_goes_alone(system: Installation) -> None:
    turn = await Client().send(system.one, {"channel": "/meta/connect"}, HELLO, {"channel": "/x"})
    assert [reply["channel"] for reply in turn.replies] == ["/meta/handshake"]
    assert system.one.metrics.messages == 3


async def test_no_session_begins_while_no_events_can_come(system: Installation) -> None:
    system.one.hub.reachable = False
    reply = await Client().shake(system.one)
    assert reply["error"] == errors.UNAVAILABLE
    assert reply["advice"]["reconnect"] == "handshake"
    assert system.one.metrics.errors == [errors.UNAVAILABLE]
    assert await system.registered() == []


async def test_a_session_that_begins_on_a_draining_node_goes_on_on_another(system: Installation) -> None:
    system.one.hub.drain()
    alice = Client()
    assert (await alice.shake(system.one))["successful"]
    assert (await alice.connect(system.two)).replies[0]["successful"]


async def test_the_first_connect_is_answered_at_once(system: Installation) -> None:
    alice = Client()
    await alice.shake(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is None
    assert (turn.replies[0]["successful"], turn.replies[0]["id"]) == (True, "8")
    assert turn.connected == alice.client_id


async def test_a_later_connect_is_held_until_an_event_comes(system: Installation) -> None:
    alice = await Client().begin(system.one)
    connect = held(await alice.connect(system.one))
    assert not system.one.connects.answers.is_due(connect)
    waiting = asyncio.create_task(system.one.connects.answers.hold(connect))
    await system.publish(1)
    answer = await waiting
    assert answer is not None
    assert (numbers(answer[0]), answer[1]["id"]) == ([1], "8")
    assert system.one.metrics.deliveries == [(CALLS, 1)]
    assert held(await alice.connect(system.one)).session.has_news is False


async def test_a_held_connect_ends_when_its_time_is_up(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one, advice={"timeout": 20})
    assert not system.one.connects.answers.is_due(held(turn))
    events, reply = await alice.finish(system.one, turn)
    assert (events, reply["successful"], reply["advice"]["reconnect"]) == ([], True, "retry")


async def test_an_event_that_waits_answers_the_next_connect_at_once(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    turn = await alice.connect(system.one)
    assert (turn.held, numbers(turn.events)) == (None, [1])


async def test_a_connect_that_is_not_alone_is_not_held(system: Installation) -> None:
    alice = await Client().begin(system.one)
    message = {"channel": "/meta/unsubscribe", "clientId": alice.client_id, "subscription": CALLS}
    turn = await alice.send(system.one, message, alice.connecting())
    assert turn.held is None
    assert [reply["channel"] for reply in turn.replies] == ["/meta/unsubscribe", "/meta/connect"]


async def test_a_newer_connect_takes_the_place_of_the_older(system: Installation) -> None:
    alice = await Client().begin(system.one)
    older = held(await alice.connect(system.one))
    waiting = asyncio.create_task(system.one.connects.answers.hold(older))
    turn = await alice.connect(system.one)
    assert await waiting is None
    await system.publish(1)
    assert (await alice.finish(system.one, turn))[0] == [1]


async def test_of_two_connects_at_once_the_later_one_is_held(system: Installation) -> None:
    alice = await Client().begin(system.one)
    first, second = await asyncio.gather(alice.connect(system.one), alice.connect(system.one))
    assert await system.one.connects.answers.hold(held(first)) is None
    assert not system.one.connects.answers.is_due(held(second))


def replace_what_arrives(system: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer connect comes to another node while this one reads the events of an older one."""

    async def move(_: object, session: Session) -> None:
        moved = SessionNotice(kind=NoticeKind.MOVED, client_id=session.client_id, cycle=session.cycle + 1)
        await system.one.hub.heed(moved)

    monkeypatch.setattr(type(system.one.feeding), "catch_up", move)


async def test_a_replaced_connect_has_a_reply_beside_those_of_its_neighbours(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    replace_what_arrives(system, monkeypatch)
    other = {"channel": "/service/x", "clientId": alice.client_id, "data": {}}
    turn = await alice.send(system.one, other | {"id": "6"}, alice.connecting(), other | {"id": "9"})
    assert [(each["id"], each["successful"]) for each in turn.replies] == [("6", True), ("8", False), ("9", True)]
    advice = {"reconnect": "retry", "interval": 0, "timeout": 30_000}
    assert (turn.replies[1]["error"], turn.replies[1]["advice"]) == (errors.CONNECT_REPLACED, advice)
    assert (turn.replaced, turn.held) == ([], None)


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_replaced_connect_that_came_alone_is_the_transports_to_answer(
    system: Installation, monkeypatch: pytest.MonkeyPatch, *, streaming: bool
) -> None:
    alice = await Client().begin(system.one)
    replace_what_arrives(system, monkeypatch)
    turn = await alice.send(system.one, alice.connecting(), streaming=streaming)
    assert ([each.message["id"] for each in turn.replaced], turn.replies) == (["8"], [])


async def test_a_connect_whose_client_has_gone_takes_nothing(system: Installation) -> None:
    alice = await Client().begin(system.one)
    connect = held(await alice.connect(system.one))
    waiting = asyncio.create_task(system.one.connects.answers.hold(connect))
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    system.one.connects.answers.abandon(connect)
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]


async def test_events_are_pushed_past_a_connect_over_a_stream(system: Installation) -> None:
    alice = await Client().begin(system.one)
    connect = held(await alice.send(system.one, alice.connecting(), streaming=True))
    await system.publish(1)
    assert not system.one.connects.answers.is_due(connect)
    assert numbers(connect.session.take()) == [1]


async def test_a_draining_node_answers_its_connects(system: Installation) -> None:
    alice = await Client().begin(system.one)
    waiting = asyncio.create_task(system.one.connects.answers.hold(held(await alice.connect(system.one))))
    await asyncio.sleep(0)
    system.one.hub.drain()
    answer = await waiting
    assert answer is not None
    assert answer[1]["advice"]["reconnect"] == "retry"  # type: ignore[index]
    assert (await alice.connect(system.one)).held is None
    assert system.one.hub.draining
    assert (await alice.connect(system.two)).held is not None


async def test_clients_of_a_draining_node_come_back_at_times_of_their_own(system: Installation) -> None:
    clients = [await Client(f"u{number}").begin(system.one) for number in range(5)]
    turns = [await client.connect(system.one) for client in clients]
    system.one.hub.drain()
    replies = [(await client.finish(system.one, turn))[1] for client, turn in zip(clients, turns, strict=True)]
    replies += [(await client.poll(system.one))[1] for client in clients]
    intervals = {reply["advice"]["interval"] for reply in replies}
    assert len(intervals) > 5
    assert all(0 <= interval <= 5_000 for interval in intervals)


async def test_a_session_outlives_the_time_for_which_its_client_is_asked_to_wait(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.randint", lambda _, most: most)
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    await system.settle()
    system.one.hub.drain()
    _, reply = await alice.finish(system.one, turn)
    assert reply["advice"]["interval"] == 5_000
    await system.settle()
    left_ms = await system.client.connection.pttl(KEYS.cometd_session(UserId("alice"), digest_of(alice.client_id)))
    assert 14_000 < left_ms <= 15_000


async def test_a_disconnect_ends_the_held_connect_for_good(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert (await alice.ask(system.one, "/meta/disconnect"))["successful"]
    _, reply = await alice.finish(system.one, turn)
    assert (reply["successful"], reply["advice"]["reconnect"]) == (True, "none")
    await system.settle()
    assert await system.registered() == []
    assert system.one.local.sessions == {}


@pytest.mark.parametrize(
    "client_id", ["", "x", "caaaa-", 7, None, "c" + "a" * 40, "c" + "a" * 32 + "mfwgsy3f", "c" + "a" * 32 + "ä"]
)
async def test_what_is_no_session_is_unknown(system: Installation, client_id: object) -> None:
    alice = Client(login="mine")
    for channel in ("/meta/connect", "/meta/subscribe", "/meta/unsubscribe", "/meta/disconnect"):
        more = {"connectionType": "long-polling", "subscription": CALLS, "clientId": client_id}
        reply = await alice.ask(system.one, channel, **more)
        assert (reply["error"], reply["id"]) == (errors.UNKNOWN_CLIENT, "7")
        advice = {"reconnect": "handshake", "interval": 0, "timeout": 30_000}
        assert reply.get("advice") == (advice if channel == "/meta/connect" else None)
    assert system.one.local.sessions == {}


@pytest.mark.parametrize("thief", [Client("bob"), Client(None), Client("bob", login="other"), Client(None, login="x")])
async def test_a_session_of_another_user_is_unknown(system: Installation, thief: Client) -> None:
    alice = await Client(login="mine").begin(system.one)
    thief.client_id = alice.client_id
    for node in system.nodes.values():
        for channel in ("/meta/connect", "/meta/subscribe", "/meta/disconnect", "/service/x"):
            reply = await thief.ask(node, channel, connectionType="long-polling", subscription=CALLS)
            assert reply["error"] == errors.UNKNOWN_CLIENT
    assert system.two.local.sessions == {}
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]


async def test_a_login_that_has_ended_serves_no_session(system: Installation) -> None:
    alice = await Client(login="mine").begin(system.one)
    alice.user = None
    _, reply = await alice.poll(system.one)
    assert reply["error"] == errors.UNKNOWN_CLIENT


async def test_who_began_with_credentials_needs_to_show_the_id_alone(system: Installation) -> None:
    alice = await Client(bearer=True).begin(system.one)
    alice.user = None
    await system.publish(1)
    assert (await alice.poll(system.two))[0] == [1]
    alice.user = "bob"
    assert (await alice.poll(system.two))[1]["error"] == errors.UNKNOWN_CLIENT


async def test_a_new_login_of_the_same_user_goes_on_with_the_session(system: Installation) -> None:
    alice = await Client(login="old").begin(system.one)
    alice.login = "new"
    assert (await alice.connect(system.one)).held is not None


async def test_sessions_are_bounded_for_a_user(system: Installation) -> None:
    for _ in range(3):
        assert (await Client().shake(system.one))["successful"]
    reply = await Client().shake(system.two)
    assert reply["error"] == errors.too_many_sessions(3)
    assert reply["advice"]["reconnect"] == "handshake"
    assert (await Client("bob").shake(system.two))["successful"]


async def test_sessions_are_bounded_for_a_node(system: Installation) -> None:
    for number in range(5):
        await Client(f"u{number}").begin(system.one)
    assert (await Client().shake(system.one))["error"] == errors.too_many_sessions(5)
    assert (await Client().shake(system.two))["successful"]


async def test_subscriptions_are_bounded(system: Installation) -> None:
    alice = await Client().begin(system.one)
    reply = await alice.subscribe(system.two, ["/v2/a", "/v2/b"])
    assert (reply["error"], reply["subscription"]) == (errors.too_many_subscriptions(2), ["/v2/a", "/v2/b"])
    assert (await alice.subscribe(system.two, ["/v2/a"]))["successful"]


async def test_a_message_that_is_wrong_spoils_no_neighbour(system: Installation) -> None:
    alice = await Client().begin(system.one)
    subscribe = {"channel": "/meta/subscribe", "clientId": alice.client_id, "subscription": "/v2/x"}
    publish = {"channel": "/service/x", "clientId": alice.client_id, "data": {}}
    turn = await alice.send(system.one, 3, {"id": "5"}, subscribe | {"subscription": ""}, subscribe, publish)
    assert [reply["successful"] for reply in turn.replies] == [False, False, False, True, True]


async def test_events_without_a_stream_reach_those_who_listen(system: Installation) -> None:
    alice, bob = await Client().begin(system.one), await Client("bob").begin(system.one)
    await bob.ask(system.one, "/meta/unsubscribe", subscription=CALLS)
    turn = await alice.connect(system.one)
    system.one.connects.tell_services(Event(CALLS, {"n": 5}), active=False)
    assert (await alice.finish(system.one, turn))[0] == [5]
    assert (await bob.connect(system.one)).held is not None


async def test_a_silent_session_is_forgotten(system: Installation) -> None:
    alice, bob = await Client().begin(system.one), await Client("bob").begin(system.one)
    await system.settle()
    system.one.ahead_ms = 9_000
    assert (await bob.connect(system.one)).held is not None
    system.one.ahead_ms = 11_000
    system.one.connects.ends.sweep()
    await system.settle()
    assert set(system.one.local.sessions) == {bob.client_id}
    assert system.one.metrics.silent == 1
    assert (await system.registered(), await system.registered("bob")) == ([], [system.one.name])
    assert (await alice.connect(system.one)).held is not None, "the store knows it for longer"


async def test_the_sweeper_ends_held_connects_that_nobody_answers(system: Installation) -> None:
    alice = await Client().begin(system.one)
    connect = held(await alice.connect(system.one))
    system.one.ahead_ms = 60_000
    sweeping = asyncio.create_task(system.one.hub.sweep())
    await eventually(lambda: connect.session.ended)
    sweeping.cancel()
    answer = await system.one.connects.answers.hold(connect)
    assert answer is not None
    assert answer[1]["advice"]["reconnect"] == "none"  # type: ignore[index]


async def test_users_are_registered_again_where_workers_took_the_node_for_gone(system: Installation) -> None:
    system.one.connects.residence.stay()
    await system.settle()
    assert await system.registered() == []
    await Client().begin(system.one)
    await system.streams.forget(system.one.name, [UserId("alice")])
    system.one.connects.residence.stay()
    await system.settle()
    assert await system.registered() == [system.one.name]
