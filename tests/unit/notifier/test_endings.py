"""Sessions that the server ends: what their clients are told, and what the application is told."""

import asyncio
import itertools
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
import structlog
from redis.exceptions import ConnectionError as ConnectionBroken
from starlette.websockets import WebSocket
from structlog.testing import LogCapture

from calltag.core.bayeux import errors
from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.extensions.activity import Activity
from calltag.core.bayeux.session import Session
from calltag.core.domain.ids import UserId
from calltag.core.store import client as store_client
from calltag.core.store.client_ids import digest_of, handle_of
from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry.metrics import Metrics
from calltag.core.wire.messages import NoticeKind, SessionNotice
from calltag.notifier.cometd import endings
from calltag.notifier.cometd.endings import EndingLog
from calltag.notifier.cometd.hub import Turn
from calltag.notifier.cometd.websocket import Socket
from calltag.notifier.observations import EndingCounts
from parts.eventually import eventually
from parts.frames import Alices, Frames
from parts.hubs import KEYS, Client, Installation, Node

NONE = {"reconnect": "none", "interval": 0, "timeout": 30_000}
HANDSHAKE = {"reconnect": "handshake", "interval": 0, "timeout": 30_000}
FAREWELL = (
    b'{"channel":"/meta/disconnect","successful":true,"advice":{"reconnect":"none","interval":0,"timeout":30000}}'
)


def key_of(client: Client) -> str:
    return KEYS.cometd_session(UserId("alice"), digest_of(client.client_id))


def closing(client: Client) -> SessionNotice:
    return SessionNotice(kind=NoticeKind.CLOSED, user=UserId("alice"), digest=digest_of(client.client_id))


async def back_date(system: Installation, client: Client, name: str, by_ms: int) -> None:
    await system.client.connection.hincrby(key_of(client), name, -by_ms)


def watch_activity(*nodes: Node, both_sides: bool = False) -> None:
    for node in nodes:
        engine = node.connects.engine
        more = (*engine.extensions, Activity(20_000, both_sides))
        node.connects.engine = replace(engine, extensions=more)


async def test_a_client_that_leaves_is_told_of_once(system: Installation) -> None:
    alice = await Client().begin(system.one)
    assert (await alice.ask(system.two, "/meta/disconnect"))["successful"]
    await system.settle()
    assert system.two.metrics.endings == [(handle_of(alice.client_id), "alice", Ending.DISCONNECTED)]
    assert system.one.metrics.endings == []


async def test_a_client_that_leaves_is_answered_though_the_answer_of_the_store_is_lost(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    waiting = asyncio.create_task(system.one.connects.answers.hold(turn.held))
    exchanged, lost = store_client._exchanged, itertools.cycle([True, False])

    async def losing(*arguments: Any) -> list[object]:
        answers = await exchanged(*arguments)
        if next(lost):
            raise ConnectionBroken("the answer was lost")
        return answers

    monkeypatch.setattr(store_client, "_exchanged", losing)
    assert (await alice.ask(system.one, "/meta/disconnect"))["successful"]
    assert await waiting is not None
    assert system.one.local.sessions == {}
    assert system.one.metrics.endings == [(handle_of(alice.client_id), "alice", Ending.DISCONNECTED)]


async def test_a_session_of_a_handshake_that_failed_does_not_count(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = RedisCometdSessions.create

    async def unheard(*arguments: Any, **more: Any) -> None:
        await create(*arguments, **more)
        raise StoreUnavailable("the answer was lost, again and again")

    monkeypatch.setattr(RedisCometdSessions, "create", unheard)
    with pytest.raises(StoreUnavailable):
        await Client().shake(system.one)
    await system.settle()
    assert await system.client.connection.zcard(KEYS.cometd_sessions(UserId("alice"))) == 0


async def test_a_session_that_an_operator_closes_says_farewell(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    waiting = asyncio.create_task(system.one.connects.answers.hold(turn.held))
    await system.one.hub.heed(closing(alice))
    answer = await waiting
    assert answer is not None
    events, reply = answer
    assert (events, reply["successful"], reply["advice"]) == ([FAREWELL], True, NONE)
    assert system.one.metrics.endings == [(handle_of(alice.client_id), "alice", Ending.CLOSED)]
    assert (await alice.poll(system.two))[1]["error"] == errors.UNKNOWN_CLIENT
    await system.one.hub.heed(closing(alice))
    assert len(system.one.metrics.endings) == 1


async def test_a_websocket_gets_nothing_any_more_once_a_newer_one_has_the_session(system: Installation) -> None:
    alice, older, newer = await Client().begin(system.one), Frames(), Frames()
    sockets = [Socket(cast("WebSocket", frames), system.one.hub, Alices(), 30.0) for frames in (older, newer)]
    serving = [asyncio.create_task(socket.run()) for socket in sockets]
    older.come(alice.connecting(connectionType="websocket"))
    await eventually(lambda: bool(sockets[0].held))
    await system.publish(1, by_bus=False)
    newer.come(alice.connecting(connectionType="websocket"))
    await eventually(lambda: bool(older.outgoing or newer.outgoing))
    await system.publish(2)
    await eventually(lambda: len(older.outgoing + newer.outgoing) == 2)
    events = [event for frame in newer.outgoing for event in orjson.loads(frame)]
    assert ([event["data"]["n"] for event in events], older.outgoing) == ([1, 2], [])
    for frames in (older, newer):
        frames.go()
    await asyncio.gather(*serving)


async def end_while_it_connects(
    system: Installation, alice: Client, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> Turn:
    """A connect of a session that ends after the store was asked, and before the connect is held."""
    ends = system.one.connects.ends

    async def end(_: object, session: Session) -> None:
        ends.end(session.client_id, ending)

    monkeypatch.setattr(type(system.one.feeding), "catch_up", end)
    return await alice.connect(system.one)


@pytest.mark.parametrize(
    ("ending", "events", "successful", "advice"),
    [
        (Ending.CLOSED, [FAREWELL], True, NONE),
        (Ending.DISCONNECTED, [], True, NONE),
        (Ending.INACTIVE, [], True, NONE),
        (Ending.LOGIN_ENDED, [], False, HANDSHAKE),
    ],
)
async def test_a_connect_hears_of_an_end_that_comes_while_it_arrives(
    system: Installation,
    monkeypatch: pytest.MonkeyPatch,
    ending: Ending,
    events: list[bytes],
    successful: bool,
    advice: dict[str, object],
) -> None:
    alice = await Client().begin(system.one)
    turn = await end_while_it_connects(system, alice, ending, monkeypatch)
    [reply] = turn.replies
    assert (turn.events, reply["id"], reply["successful"], reply["advice"]) == (events, "8", successful, advice)
    assert not turn.replaced


async def test_a_connect_that_meets_the_sweeper_is_to_come_again(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the store, where the connect was first, the session lives."""
    alice = await Client().begin(system.one)
    with monkeypatch.context() as patched:
        turn = await end_while_it_connects(system, alice, Ending.EXPIRED, patched)
    assert (len(turn.replaced), turn.replies) == (1, [])
    assert (await alice.connect(system.one)).held is not None


@pytest.mark.parametrize("held", [True, False])
async def test_a_websocket_says_farewell_of_itself(system: Installation, held: bool) -> None:
    alice, frames = await Client().begin(system.one), Frames()
    socket = Socket(cast("WebSocket", frames), system.one.hub, Alices(), 30.0)
    serving = asyncio.create_task(socket.run())
    frames.come(alice.connecting(connectionType="websocket", **({} if held else {"advice": {"timeout": 0}})))
    await eventually(lambda: bool(socket.held) if held else len(frames.outgoing) == 1)
    frames.outgoing.clear()
    assert await system.one.connects.store.remove(alice.client_id)
    system.one.connects.ends.end(alice.client_id, Ending.CLOSED)
    # Whatever the socket does first.
    socket._forget_ended()
    await eventually(lambda: bool(frames.outgoing))
    [frame] = [orjson.loads(each) for each in frames.outgoing]
    assert frame[0] == orjson.loads(FAREWELL)
    assert [each["advice"] for each in frame[1:]] == ([NONE] if held else [])
    socket.waker.set()
    await eventually(lambda: not socket.waker.is_set())
    frames.come({"channel": "/service/x", "clientId": alice.client_id})
    await eventually(lambda: len(frames.outgoing) == 2)
    assert [each["error"] for each in orjson.loads(frames.outgoing[1])] == [errors.UNKNOWN_CLIENT]
    frames.go()
    await serving


async def test_who_only_connects_is_disconnected(system: Installation) -> None:
    watch_activity(system.one, system.two)
    alice = await Client().begin(system.one)
    await back_date(system, alice, "active", 21_000)
    turn = await alice.connect(system.two)
    [reply] = turn.replies
    assert (turn.events, reply["successful"], reply["advice"]) == ([FAREWELL], True, NONE)
    await system.settle()
    assert (system.one.local.sessions, system.two.local.sessions) == ({}, {})
    assert system.two.metrics.endings == [(handle_of(alice.client_id), "alice", Ending.INACTIVE)]
    assert await system.registered() == []
    assert (await alice.poll(system.one))[1]["error"] == errors.UNKNOWN_CLIENT


@pytest.mark.parametrize("channel", ["/meta/subscribe", "/meta/unsubscribe", "/service/x"])
async def test_any_other_message_keeps_a_client_active(system: Installation, channel: str) -> None:
    watch_activity(system.one)
    alice = await Client().begin(system.one)
    await back_date(system, alice, "active", 21_000)
    assert (await alice.ask(system.one, channel, subscription="/v2/me/calls", data={}))["successful"]
    assert (await alice.connect(system.one)).held is not None


@pytest.mark.parametrize(("both_sides", "lives"), [(False, False), (True, True)])
@pytest.mark.parametrize("streaming", [False, True])
async def test_events_count_where_both_sides_do(
    system: Installation, both_sides: bool, lives: bool, streaming: bool
) -> None:
    watch_activity(system.one, system.two, both_sides=both_sides)
    alice = await Client().begin(system.one)
    turn = await alice.send(system.one, alice.connecting(), streaming=streaming)
    assert turn.held is not None
    await system.publish(1)
    if streaming:
        assert len(system.one.connects.answers.take(turn.held.session)) == 1
    else:
        assert len((await alice.finish(system.one, turn))[0]) == 1
    await system.settle()
    await back_date(system, alice, "active", 21_000)
    assert ((await alice.connect(system.one)).held is not None) is lives


async def test_activity_costs_connects_no_round_trip(system: Installation) -> None:
    watch_activity(system.one)
    alice = await Client().begin(system.one)
    before = len(system.one.client.exchanges)
    assert (await alice.connect(system.one)).held is not None
    assert len(system.one.client.exchanges) == before + 1


async def test_who_is_no_session_publishes_nothing(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await alice.ask(system.one, "/meta/disconnect")
    assert (await alice.ask(system.one, "/service/x", data={}))["error"] == errors.UNKNOWN_CLIENT


async def test_the_handshakes_own_proof_holds_for_so_long(system: Installation) -> None:
    system.one.hub.bearer_lifetime_ms = 40_000
    alice = await Client(bearer=True).begin(system.one)
    alice.user = None
    await back_date(system, alice, "ends", 39_000)
    held = (await alice.connect(system.one)).held
    assert held is not None
    await back_date(system, alice, "ends", 2_000)
    reply = (await alice.connect(system.two)).replies[0]
    assert (reply["error"], reply["advice"]) == (errors.UNKNOWN_CLIENT, HANDSHAKE)
    await system.settle()
    assert system.two.metrics.endings == [(handle_of(alice.client_id), "alice", Ending.LOGIN_ENDED)]
    assert system.one.local.sessions == {}


async def test_only_sessions_by_their_own_proof_end_so(system: Installation) -> None:
    system.one.hub.bearer_lifetime_ms = 40_000
    alice = await Client(login="mine").begin(system.one)
    assert await system.client.connection.hget(key_of(alice), "ends") is None


async def test_a_session_ends_with_the_login_that_proves_it(system: Installation) -> None:
    alice = await Client(login="mine").begin(system.one)
    alice.user = None
    reply = (await alice.connect(system.two)).replies[0]
    assert (reply["error"], reply["advice"]) == (errors.UNKNOWN_CLIENT, HANDSHAKE)
    await system.settle()
    assert system.two.metrics.endings == [(handle_of(alice.client_id), "alice", Ending.LOGIN_ENDED)]
    assert (system.one.local.sessions, system.two.local.sessions) == ({}, {})
    assert await system.client.connection.exists(key_of(alice)) == 0
    await system.settle()
    assert await system.registered() == []


@pytest.mark.parametrize(
    ("channel", "more"),
    [
        ("/meta/subscribe", {"subscription": "/v2/me/devices"}),
        ("/meta/unsubscribe", {"subscription": "/v2/me/calls"}),
        ("/service/x", {"data": {}}),
    ],
)
@pytest.mark.parametrize("shows_credentials", [False, True])
async def test_a_session_known_by_its_id_ends_with_the_credential_that_began_it(
    system: Installation, channel: str, more: dict[str, object], shows_credentials: bool
) -> None:
    """Also where its user has proven to be one with what is right now: whoever has the id may be another."""
    alice = await Client(bearer=True).begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    system.credentials[UserId("alice")] = "new"
    if not shows_credentials:
        alice.user = None
    assert (await alice.ask(system.two, channel, **more))["error"] == errors.UNKNOWN_CLIENT
    await system.settle()
    assert system.two.metrics.endings == [(handle_of(alice.client_id), "alice", Ending.LOGIN_ENDED)]
    assert await system.client.connection.exists(key_of(alice)) == 0
    assert (system.one.local.sessions, await system.registered()) == ({}, [])
    assert turn.held.session.ended


async def test_a_connect_comes_too_late_for_the_credential_in_its_one_round_trip(system: Installation) -> None:
    alice = await Client(bearer=True).begin(system.one)
    alice.user = None
    before = len(system.one.client.exchanges)
    assert (await alice.connect(system.one)).held is not None
    assert len(system.one.client.exchanges) == before + 1
    system.credentials[UserId("alice")] = "new"
    reply = (await alice.connect(system.one)).replies[0]
    assert (reply["error"], reply["advice"]) == (errors.UNKNOWN_CLIENT, HANDSHAKE)
    assert len(system.one.client.exchanges) == before + 2
    await system.settle()
    assert system.one.metrics.endings == [(handle_of(alice.client_id), "alice", Ending.LOGIN_ENDED)]


async def test_a_session_whose_requests_prove_their_user_needs_no_other_credential(system: Installation) -> None:
    alice = await Client().begin(system.one)
    system.credentials[UserId("alice")] = "new"
    assert (await alice.connect(system.one)).held is not None
    assert await system.client.connection.hget(key_of(alice), "credential") is None


async def test_nobody_elses_login_ends_a_session(system: Installation) -> None:
    alice = await Client(login="mine").begin(system.one)
    thief = Client(None, login="other", client_id=alice.client_id)
    assert (await thief.connect(system.two)).replies[0]["error"] == errors.UNKNOWN_CLIENT
    assert (await alice.connect(system.one)).held is not None
    assert system.two.metrics.endings == []


async def test_a_connect_held_beside_hears_of_the_end_of_the_login(system: Installation) -> None:
    alice = await Client(login="mine").begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    system.one.connects.ends.end(alice.client_id, Ending.LOGIN_ENDED)
    _, reply = await alice.finish(system.one, turn)
    assert (reply["error"], reply["advice"]) == (errors.UNKNOWN_CLIENT, HANDSHAKE)


async def test_a_silent_session_is_told_of_when_the_store_ends_it_too(system: Installation) -> None:
    alice, bob = await Client().begin(system.one), await Client("bob").begin(system.one)
    await system.client.connection.pexpire(key_of(alice), 1_000)
    system.one.ahead_ms = 11_000
    system.one.connects.ends.sweep()
    await system.settle()
    assert system.one.local.sessions == {}
    assert system.one.metrics.endings == [(handle_of(alice.client_id), "alice", Ending.EXPIRED)]
    assert (await bob.connect(system.one)).held is not None


async def test_clients_may_be_told_when_to_handshake_by_themselves(system: Installation) -> None:
    connects = system.one.connects
    connects.engine = replace(connects.engine, handshake_reconnect=True)
    alice = Client()
    assert (await alice.shake(system.one))["advice"]["maxInterval"] == 10_000
    assert (await alice.poll(system.one))[1]["advice"]["maxInterval"] == 10_000


async def test_other_messages_keep_a_session_alive_for_so_long(system: Installation) -> None:
    limits = replace(system.one.connects.engine.limits, max_server_interval_ms=12_000)
    engine = replace(system.one.connects.engine, limits=limits)
    system.one.connects.engine = system.one.connects.answers.engine = engine
    alice = await Client().begin(system.one)
    await system.client.connection.pexpire(key_of(alice), 1_000)
    await back_date(system, alice, "until", 5_000)
    await alice.subscribe(system.one)
    assert 5_000 < await system.client.connection.pttl(key_of(alice)) <= 7_000


def test_an_end_is_logged_as_operators_name_the_session_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, written = Metrics(), LogCapture()
    monkeypatch.setattr(endings, "log", structlog.wrap_logger(None, processors=[written]))
    for listener in (EndingLog(), EndingCounts(metrics)):
        listener.ended("0123456789ab", "alice", Ending.INACTIVE)
    [line] = written.entries
    assert (line["event"], line["reason"], line["session"]) == ("cometd_session_ended", "inactive", "0123456789ab")
    assert 'calltag_cometd_sessions_ended_total{reason="inactive"} 1.0' in metrics.exposition().decode()
