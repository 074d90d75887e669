"""What a node answers, and when."""

import asyncio

import pytest

from calltag.core.bayeux import errors
from calltag.core.bayeux.events import Event
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import digest_of, is_bearer, user_of
from calltag.notifier.session_registry import Resident, Suspended
from parts.hubs import CALLS, HELLO, KEYS, Client, Installation, Turn, numbers
from parts.store_commands import library

RECHECK_MS = 5_000
"""For how long credentials that were checked are trusted."""


def suspended(turn: Turn) -> Suspended:
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
    assert system.one.count("messages_total") == 3


async def test_no_session_begins_while_no_events_can_come(system: Installation) -> None:
    system.one.server.is_reachable = False
    reply = await Client().shake(system.one)
    assert reply["error"] == errors.UNAVAILABLE
    assert reply["advice"]["reconnect"] == "handshake"
    assert system.one.count("refused_total", code="503") == 1
    assert await system.registered() == []


async def test_a_session_that_begins_on_a_draining_node_goes_on_on_another(system: Installation) -> None:
    system.one.server.drain()
    alice = Client()
    assert (await alice.shake(system.one))["successful"]
    assert (await alice.connect(system.two)).replies[0]["successful"]


async def test_the_first_connect_is_answered_at_once(system: Installation) -> None:
    alice = Client()
    await alice.shake(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is None
    assert (turn.replies[0]["successful"], turn.replies[0]["id"]) == (True, "8")


async def test_a_later_connect_is_suspended_until_an_event_comes(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert suspended(turn).resident.suspended is turn.held
    assert not turn.line.answered.is_set()
    await system.publish(1)
    assert turn.line.answered.is_set()
    events, reply = await alice.finish(system.one, turn)
    assert (events, reply["id"]) == ([1], "8")
    delivered = system.one.all_metrics.registry.get_sample_value("calltag_deliveries_total", {"channel": CALLS})
    assert delivered == 1
    assert not suspended(await alice.connect(system.one)).resident.session.has_news


async def test_a_suspended_connect_ends_when_its_time_is_up(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one, advice={"timeout": 20})
    assert not turn.line.answered.is_set()
    suspended(turn)
    events, reply = await alice.finish(system.one, turn)
    assert (events, reply["successful"], reply["advice"]["reconnect"]) == ([], True, "retry")


async def test_an_event_that_waits_answers_the_next_connect_at_once(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    turn = await alice.connect(system.one)
    assert (turn.held, numbers(turn.events)) == (None, [1])


async def test_a_connect_that_is_not_alone_is_not_suspended(system: Installation) -> None:
    alice = await Client().begin(system.one)
    message = {"channel": "/meta/unsubscribe", "clientId": alice.client_id, "subscription": CALLS}
    turn = await alice.send(system.one, message, alice.connecting())
    assert turn.held is None
    assert [reply["channel"] for reply in turn.replies] == ["/meta/unsubscribe", "/meta/connect"]


async def test_a_newer_connect_takes_the_place_of_the_older(system: Installation) -> None:
    alice = await Client().begin(system.one)
    older = await alice.connect(system.one)
    turn = await alice.connect(system.one)
    assert older.line.is_replaced
    await system.publish(1)
    assert (await alice.finish(system.one, turn))[0] == [1]


async def test_of_two_connects_at_once_the_later_one_is_suspended(system: Installation) -> None:
    alice = await Client().begin(system.one)
    first, second = await asyncio.gather(alice.connect(system.one), alice.connect(system.one))
    assert first.line.is_replaced
    assert not second.line.is_replaced
    assert suspended(second).resident.suspended is second.held


def key_of(resident: Resident) -> str:
    return KEYS.cometd_session(UserId(resident.session.user), digest_of(resident.client_id))


def replace_what_arrives(system: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer connect comes to another node while this one reads the events of an older one."""

    async def move(_: object, resident: Resident) -> None:
        system.one.sessions.endings.release(resident)
        # The other node keeps it: whoever tries to claim it is too late.
        await library(system.client).hincrby(key_of(resident), "cycle", 1)

    async def refuse(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(type(system.one.dispatcher), "catch_up", move)
    monkeypatch.setattr(system.one.store, "take_over", refuse)
    # Its credentials are to be looked at again, which memory alone cannot do.
    system.one.ahead_ms += RECHECK_MS


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
    system.one.sessions.abandon(suspended(await alice.connect(system.one)))
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]


async def test_events_are_pushed_past_a_connect_over_a_stream(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.send(system.one, alice.connecting(), streaming=True)
    await system.publish(1)
    assert not turn.line.answered.is_set()
    assert numbers(suspended(turn).resident.session.take()) == [1]


async def test_a_draining_node_answers_its_connects(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    system.one.server.drain()
    system.one.ahead_ms += 5_000
    system.one.sessions.tick()
    assert turn.line.reply is not None
    advice = turn.line.reply["advice"]
    assert isinstance(advice, dict)
    assert advice["reconnect"] == "retry"
    assert system.one.sessions.replies.is_draining
    # Where the balancer sends it back, it gets its answer when the time to drain is over.
    assert (await alice.poll(system.one))[1]["successful"]
    assert (await alice.move(system.two, advice={"timeout": 0}))[1]["successful"]


async def test_suspended_connects_of_a_draining_node_are_answered_at_times_of_their_own(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter(range(0, 5_000, 1_000))
    monkeypatch.setattr("random.randint", lambda *_: next(shares))
    clients = [await Client(f"u{number}").begin(system.one) for number in range(5)]
    turns = [await client.connect(system.one) for client in clients]
    system.one.server.drain()
    answered = []
    for _ in range(5):
        system.one.sessions.tick()
        answered.append(sum(turn.line.answered.is_set() for turn in turns))
        system.one.ahead_ms += 1_000
    assert answered == [1, 2, 3, 4, 5]


async def test_a_connect_that_comes_to_a_draining_node_is_answered_when_that_goes(system: Installation) -> None:
    alice = await Client().begin(system.one)
    system.one.server.drain()
    turn = await alice.connect(system.one)
    system.one.ahead_ms += 4_000
    system.one.sessions.tick()
    assert not turn.line.answered.is_set()
    system.one.ahead_ms += 1_000
    system.one.sessions.tick()
    assert turn.line.answered.is_set()


async def test_a_session_outlives_its_answer_by_the_time_for_its_next_connect(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    system.one.server.drain()
    system.one.ahead_ms += 5_000
    _, reply = await alice.finish(system.one, turn)
    assert reply["advice"]["interval"] == 0
    await system.settle()
    key = KEYS.cometd_session(UserId("alice"), digest_of(alice.client_id))
    assert 10_000 < await library(system.client).pttl(key) <= 11_000


async def test_a_disconnect_ends_the_suspended_connect_for_good(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert (await alice.ask(system.one, "/meta/disconnect"))["successful"]
    _, reply = await alice.finish(system.one, turn)
    assert (reply["successful"], reply["advice"]["reconnect"]) == (True, "none")
    await system.settle()
    assert await system.registered() == []
    assert system.one.registry.residents == {}


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
    assert system.one.registry.residents == {}


@pytest.mark.parametrize("thief", [Client("bob"), Client(None), Client("bob", login="other"), Client(None, login="x")])
async def test_a_session_of_another_user_is_unknown(system: Installation, thief: Client) -> None:
    alice = await Client(login="mine").begin(system.one)
    thief.client_id = alice.client_id
    for node in system.nodes.values():
        for channel in ("/meta/connect", "/meta/subscribe", "/meta/disconnect", "/service/x"):
            reply = await thief.ask(node, channel, connectionType="long-polling", subscription=CALLS)
            assert reply["error"] == errors.UNKNOWN_CLIENT
    assert system.two.registry.residents == {}
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]


@pytest.mark.parametrize("is_told", [False, True])
async def test_a_login_that_has_ended_serves_no_session(system: Installation, *, is_told: bool) -> None:
    """Where a node is not told that it ended, it looks after a while."""
    alice = await Client(login="mine").begin(system.one)
    alice.user = None
    turn = await alice.connect(system.one)
    suspended(turn)
    if is_told:
        ended = SessionNotice(kind=NoticeKind.LOGIN_ENDED, user=UserId("alice"), digest="other")
        await system.one.server.handle_notice(ended)
        assert (await alice.connect(system.one)).held is not None
        await system.one.server.handle_notice(ended.model_copy(update={"digest": "mine"}))
    else:
        system.one.ahead_ms += RECHECK_MS
    _, reply = await alice.poll(system.one)
    assert reply["error"] == errors.UNKNOWN_CLIENT


async def test_who_began_with_credentials_needs_to_show_the_id_alone(system: Installation) -> None:
    alice = await Client(bearer=True).begin(system.one)
    alice.user = None
    await system.publish(1)
    assert (await alice.move(system.two))[0] == [1]
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
    system.one.dispatcher.publish_services(Event(CALLS, {"n": 5}), active=False)
    assert (await alice.finish(system.one, turn))[0] == [5]
    assert (await bob.connect(system.one)).held is not None


async def test_a_silent_session_is_forgotten(system: Installation) -> None:
    alice, bob = await Client().begin(system.one), await Client("bob").begin(system.one)
    await system.settle()
    system.one.ahead_ms = 9_000
    assert (await bob.connect(system.one)).held is not None
    system.one.ahead_ms = 11_000
    system.one.sessions.tick()
    await system.settle()
    assert set(system.one.registry.residents) == {bob.client_id}
    assert system.one.count("sessions_swept_total") == 1
    assert (await system.registered(), await system.registered("bob")) == ([], [system.one.name])
    assert (await alice.poll(system.one, advice={"timeout": 0}))[1]["successful"], "the store knows it for longer"


async def test_a_session_does_not_end_while_its_connect_waits(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    for answers in (False, True):
        system.one.ahead_ms += 15_000
        await system.one.lease.renew()
        system.one.sessions.tick()
        assert turn.line.answered.is_set() is answers
    assert system.one.registry.residents.keys() == {alice.client_id}


async def test_users_are_registered_again_where_workers_took_the_node_for_gone(system: Installation) -> None:
    system.one.sessions.registrations.renew()
    await system.settle()
    assert await system.registered() == []
    await Client().begin(system.one)
    await system.streams.forget(system.one.name, [UserId("alice")])
    system.one.sessions.registrations.renew()
    await system.settle()
    assert await system.registered() == [system.one.name]


async def test_a_save_registers_the_user_where_workers_took_the_node_for_gone(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.streams.forget(system.one.name, [UserId("alice")])
    assert (await alice.connect(system.one)).held is not None
    await system.settle()
    assert await system.registered() == [system.one.name]
