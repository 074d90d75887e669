"""Sessions that the server ends: what their clients are told, and what the application is told."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionBroken
from structlog.testing import LogCapture

from calltag.core.bayeux import errors
from calltag.core.bayeux.engine import Engine
from calltag.core.bayeux.extensions import Activity, Extension
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.bayeux.session import Ending
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.store import connection as store_client
from calltag.core.store.client_ids import digest_of, handle_of
from calltag.core.store.connection import Request
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.sessions import SessionStore
from calltag.core.telemetry.metrics import Metrics
from calltag.notifier import metrics
from calltag.notifier.metrics import NotifierMetrics
from calltag.notifier.session_registry import Resident
from parts.eventually import eventually
from parts.frames import SocketPage
from parts.hubs import KEYS, Client, Installation, Node, Turn
from parts.store_commands import library

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
    await library(system.client).hincrby(key_of(client), name, -by_ms)


def use_engine(
    node: Node,
    *more: Extension,
    limits: BayeuxLimits | None = None,
    handshake_reconnect: bool = False,
) -> None:
    """The node's engine has more extensions, or other limits."""
    sessions = node.sessions
    engine = sessions.engine
    sessions.engine = sessions.replies.engine = sessions.claims.engine = sessions.endings.engine = Engine(
        limits or engine.limits,
        lambda *_: True,
        lambda *_: True,
        (*engine._extensions, *more),
        handshake_reconnect=handshake_reconnect,
    )
    sessions.sync.limits = sessions.engine.limits


def watch_activity(*nodes: Node, both_sides: bool = False) -> None:
    for node in nodes:
        use_engine(node, Activity(20_000, both_sides))


def pass_time(node: Node, ms: int) -> None:
    """What was done before is so much longer ago, as far as the node knows by itself."""
    for resident in node.registry.residents.values():
        resident.active_at_ms -= ms


async def be_silent(system: Installation, client: Client, ms: int) -> None:
    """The client has sent nothing but connects for so long, as the store and its home know."""
    await back_date(system, client, "active", ms)
    for node in system.nodes.values():
        pass_time(node, ms)


async def test_a_client_that_leaves_is_told_of_once(system: Installation) -> None:
    alice = await Client().begin(system.one)
    assert (await alice.ask(system.two, "/meta/disconnect"))["successful"]
    await system.settle()
    assert system.two.endings == [(handle_of(alice.client_id), "alice", Ending.DISCONNECTED)]
    assert system.one.endings == []


async def test_a_client_that_leaves_is_answered_though_the_answer_of_the_store_is_lost(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    exchanged, lost = store_client._exchanged, itertools.cycle([True, False])

    async def losing(connection: AbstractConnection, requests: Sequence[Request]) -> None:
        await exchanged(connection, requests)
        if next(lost):
            for each in requests:
                each.replies.clear()
            raise ConnectionBroken("the answer was lost")

    monkeypatch.setattr(store_client, "_exchanged", losing)
    assert (await alice.ask(system.one, "/meta/disconnect"))["successful"]
    assert turn.line.reply is not None
    assert system.one.registry.residents == {}
    assert system.one.endings == [(handle_of(alice.client_id), "alice", Ending.DISCONNECTED)]


async def test_a_session_of_a_handshake_that_failed_does_not_count(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = SessionStore.create

    async def unheard(*arguments: Any, **more: Any) -> None:
        await create(*arguments, **more)
        raise StoreUnavailable("the answer was lost, again and again")

    monkeypatch.setattr(SessionStore, "create", unheard)
    with pytest.raises(StoreUnavailable):
        await Client().shake(system.one)
    await system.settle()
    assert await library(system.client).zcard(KEYS.cometd_sessions(UserId("alice"))) == 0


async def test_a_session_that_an_operator_closes_says_farewell(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    await system.one.server.handle_notice(closing(alice))
    assert turn.line.reply is not None
    reply = turn.line.reply
    assert (turn.line.events, reply["successful"], reply["advice"]) == ([FAREWELL], True, NONE)
    assert system.one.endings == [(handle_of(alice.client_id), "alice", Ending.CLOSED)]
    assert (await alice.poll(system.two))[1]["error"] == errors.UNKNOWN_CLIENT
    await system.one.server.handle_notice(closing(alice))
    assert len(system.one.endings) == 1


async def test_a_websocket_gets_nothing_any_more_once_a_newer_one_has_the_session(system: Installation) -> None:
    older = await SocketPage.open(system.one, ack=False)
    newer = SocketPage(system.one, older.alice)
    await system.publish(1, by_broker=False)
    newer.connect("c2")
    await newer.holds("c2")
    await system.publish(2)
    await system.settle()
    assert (older.events(), newer.events()) == ([], [1, 2])


async def end_while_it_connects(
    system: Installation, alice: Client, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> Turn:
    """A connect of a session that ends after the store was asked, and before the connect is suspended."""
    sessions = system.one.sessions

    async def end(_: object, resident: Resident) -> None:
        sessions.endings.end(resident.client_id, ending)

    monkeypatch.setattr(type(system.one.dispatcher), "catch_up", end)
    # Its credentials are to be looked at again.
    system.one.ahead_ms += 5_000
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


async def test_a_session_does_not_expire_while_its_connect_arrives(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the store, where the connect was first, the session lives."""
    alice = await Client().begin(system.one)
    take_over = system.one.store.take_over

    async def take_over_late(*given: Any, **more: Any) -> Any:
        system.one.sessions.tick()
        return await take_over(*given, **more)

    monkeypatch.setattr(system.one.store, "take_over", take_over_late)
    # It is late, and its lease has lapsed: it asks the store.
    system.one.ahead_ms += 15_000
    await system.one.lapse()
    assert (await alice.connect(system.one)).held is not None
    assert system.one.registry.residents.keys() == {alice.client_id}
    assert system.one.endings == []


@pytest.mark.parametrize("is_suspended", [True, False])
async def test_a_websocket_says_farewell_of_itself(system: Installation, *, is_suspended: bool) -> None:
    alice = await Client().begin(system.one)
    page = SocketPage(system.one, alice)
    page.connect("c1", **({} if is_suspended else {"advice": {"timeout": 0}}))
    await (page.holds("c1") if is_suspended else page.is_answered("c1"))
    page.frames.outgoing.clear()
    await system.one.server.handle_notice(closing(alice))
    said = page.said()
    assert said[0] == orjson.loads(FAREWELL)
    assert [each["advice"] for each in said[1:]] == ([NONE] if is_suspended else [])
    page.frames.outgoing.clear()
    await page.let_pass(10_000)
    page.frames.come({"channel": "/service/x", "clientId": alice.client_id})
    await eventually(lambda: [each["error"] for each in page.said()] == [errors.UNKNOWN_CLIENT])


async def test_who_only_connects_is_disconnected(system: Installation) -> None:
    watch_activity(system.one, system.two)
    alice = await Client().begin(system.one)
    await be_silent(system, alice, 21_000)
    turn = await alice.connect(system.two)
    [reply] = turn.replies
    assert (turn.events, reply["successful"], reply["advice"]) == ([FAREWELL], True, NONE)
    await system.settle()
    assert (system.one.registry.residents, system.two.registry.residents) == ({}, {})
    assert system.two.endings == [(handle_of(alice.client_id), "alice", Ending.INACTIVE)]
    assert await system.registered() == []
    assert (await alice.poll(system.one))[1]["error"] == errors.UNKNOWN_CLIENT


@pytest.mark.parametrize("channel", ["/meta/subscribe", "/meta/unsubscribe", "/service/x"])
async def test_any_other_message_keeps_a_client_active(system: Installation, channel: str) -> None:
    watch_activity(system.one)
    alice = await Client().begin(system.one)
    await be_silent(system, alice, 21_000)
    assert (await alice.ask(system.one, channel, subscription="/v2/me/calls", data={}))["successful"]
    assert (await alice.connect(system.one)).held is not None


@pytest.mark.parametrize(("both_sides", "lives"), [(False, False), (True, True)])
@pytest.mark.parametrize("streaming", [False, True])
async def test_events_count_where_both_sides_do(
    system: Installation, both_sides: bool, lives: bool, streaming: bool
) -> None:
    watch_activity(system.one, system.two, both_sides=both_sides)
    if streaming:
        page = await SocketPage.open(system.one, ack=False)
        alice = page.alice
        await system.publish(1)
        assert page.events() == [1]
    else:
        alice = await Client().begin(system.one)
        turn = await alice.connect(system.one)
        await system.publish(1)
        assert (await alice.finish(system.one, turn))[0] == [1]
    await system.settle()
    await be_silent(system, alice, 21_000)
    assert ((await alice.connect(system.one)).held is not None) is lives


async def test_activity_costs_connects_no_round_trip(system: Installation) -> None:
    watch_activity(system.one)
    alice = await Client().begin(system.one)
    before = len(system.one.client.exchanges)
    assert (await alice.connect(system.one)).held is not None
    assert len(system.one.client.exchanges) == before


async def test_the_store_decides_whether_a_client_was_inactive(system: Installation) -> None:
    """Other nodes may have had messages of which its home knows nothing."""
    watch_activity(system.one)
    alice = await Client().begin(system.one)
    pass_time(system.one, 21_000)
    before = system.one.count("claims_total")
    assert (await alice.connect(system.one)).held is not None
    assert system.one.count("claims_total") == before + 1
    assert (await alice.connect(system.one)).held is not None
    assert system.one.count("claims_total") == before + 1


async def test_who_is_no_session_publishes_nothing(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await alice.ask(system.one, "/meta/disconnect")
    assert (await alice.ask(system.one, "/service/x", data={}))["error"] == errors.UNKNOWN_CLIENT


async def test_the_handshakes_own_proof_holds_for_so_long(system: Installation) -> None:
    system.one.sessions.bearer_lifetime_ms = 40_000
    alice = await Client(bearer=True).begin(system.one)
    alice.user = None
    await back_date(system, alice, "ends", 39_000)
    assert (await alice.connect(system.one)).held is not None
    await back_date(system, alice, "ends", 2_000)
    reply = (await alice.connect(system.two)).replies[0]
    assert (reply["error"], reply["advice"]) == (errors.UNKNOWN_CLIENT, HANDSHAKE)
    await system.settle()
    assert system.two.endings == [(handle_of(alice.client_id), "alice", Ending.LOGIN_ENDED)]
    assert system.one.registry.residents == {}


async def test_only_sessions_by_their_own_proof_end_so(system: Installation) -> None:
    system.one.sessions.bearer_lifetime_ms = 40_000
    alice = await Client(login="mine").begin(system.one)
    assert await library(system.client).hget(key_of(alice), "ends") is None


async def test_a_session_ends_with_the_login_that_proves_it(system: Installation) -> None:
    alice = await Client(login="mine").begin(system.one)
    alice.user = None
    reply = (await alice.connect(system.two)).replies[0]
    assert (reply["error"], reply["advice"]) == (errors.UNKNOWN_CLIENT, HANDSHAKE)
    await system.settle()
    assert system.two.endings == [(handle_of(alice.client_id), "alice", Ending.LOGIN_ENDED)]
    assert (system.one.registry.residents, system.two.registry.residents) == ({}, {})
    assert await library(system.client).exists(key_of(alice)) == 0
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
    assert system.two.endings == [(handle_of(alice.client_id), "alice", Ending.LOGIN_ENDED)]
    assert await library(system.client).exists(key_of(alice)) == 0
    assert (system.one.registry.residents, await system.registered()) == ({}, [])
    assert turn.line.reply is not None
    assert turn.held.resident.session.is_over


async def test_a_home_knows_by_itself_that_a_connect_comes_too_late_for_the_credential(system: Installation) -> None:
    alice = await Client(bearer=True).begin(system.one)
    alice.user = None
    before = len(system.one.client.exchanges)
    assert (await alice.connect(system.one)).held is not None
    assert len(system.one.client.exchanges) == before
    system.credentials[UserId("alice")] = "new"
    reply = (await alice.connect(system.one)).replies[0]
    assert (reply["error"], reply["advice"]) == (errors.UNKNOWN_CLIENT, HANDSHAKE)
    await system.settle()
    assert system.one.endings == [(handle_of(alice.client_id), "alice", Ending.LOGIN_ENDED)]


async def test_activity_does_not_keep_a_session_whose_password_was_changed(system: Installation) -> None:
    watch_activity(system.one, both_sides=True)
    alice = await Client(bearer=True).begin(system.one)
    alice.user = None
    system.credentials[UserId("alice")] = "new"
    reply = (await alice.connect(system.one)).replies[0]
    assert (reply["error"], reply["advice"]) == (errors.UNKNOWN_CLIENT, HANDSHAKE)
    await system.settle()
    assert system.one.endings == [(handle_of(alice.client_id), "alice", Ending.LOGIN_ENDED)]


async def test_a_home_knows_by_itself_when_the_time_of_the_handshakes_proof_is_up(system: Installation) -> None:
    system.one.sessions.bearer_lifetime_ms = 40_000
    alice = await Client(bearer=True).begin(system.one)
    resident = system.one.registry.residents[alice.client_id]
    assert resident.ends_at_ms is not None
    assert 39_000 < resident.ends_at_ms - system.one.now_ms() <= 40_000
    await back_date(system, alice, "ends", 40_000)
    # The store decides, and is asked when the home's own clock says so.
    resident.ends_at_ms -= 40_000
    reply = (await alice.connect(system.one)).replies[0]
    assert (reply["error"], reply["advice"]) == (errors.UNKNOWN_CLIENT, HANDSHAKE)
    assert system.one.registry.residents == {}


async def test_a_session_whose_requests_prove_their_user_needs_no_other_credential(system: Installation) -> None:
    alice = await Client().begin(system.one)
    system.credentials[UserId("alice")] = "new"
    assert (await alice.connect(system.one)).held is not None
    assert await library(system.client).hget(key_of(alice), "credential") is None


async def test_nobody_elses_login_ends_a_session(system: Installation) -> None:
    alice = await Client(login="mine").begin(system.one)
    thief = Client(None, login="other", client_id=alice.client_id)
    assert (await thief.connect(system.two)).replies[0]["error"] == errors.UNKNOWN_CLIENT
    assert (await alice.connect(system.one)).held is not None
    assert system.two.endings == []


async def test_a_connect_that_waits_hears_of_the_end_of_the_login(system: Installation) -> None:
    alice = await Client(login="mine").begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    system.one.sessions.endings.end(alice.client_id, Ending.LOGIN_ENDED)
    _, reply = await alice.finish(system.one, turn)
    assert (reply["error"], reply["advice"]) == (errors.UNKNOWN_CLIENT, HANDSHAKE)


async def test_a_logout_ends_the_sessions_of_the_login_while_their_connects_wait(system: Installation) -> None:
    alice, other = await Client(login="mine").begin(system.one), await Client(login="other").begin(system.one)
    turns = [await each.connect(system.one) for each in (alice, other)]
    login = system.one.registry.residents[alice.client_id].login
    system.one.sessions.endings.login_ended(UserId("alice"), login)
    await system.settle()
    await system.publish(1)
    events, reply = await alice.finish(system.one, turns[0])
    assert (events, reply["error"], reply["advice"]) == ([], errors.UNKNOWN_CLIENT, HANDSHAKE)
    assert system.one.endings == [(handle_of(alice.client_id), "alice", Ending.LOGIN_ENDED)]
    assert await library(system.client).exists(key_of(alice)) == 0
    assert (await other.finish(system.one, turns[1]))[0] == [1]


async def test_a_silent_session_is_told_of_when_the_store_ends_it_too(system: Installation) -> None:
    alice, bob = await Client().begin(system.one), await Client("bob").begin(system.one)
    await library(system.client).pexpire(key_of(alice), 1_000)
    system.one.ahead_ms = 11_000
    system.one.sessions.tick()
    await system.settle()
    assert system.one.registry.residents == {}
    assert system.one.endings == [(handle_of(alice.client_id), "alice", Ending.EXPIRED)]
    assert (await bob.connect(system.one)).held is not None


async def test_clients_may_be_told_when_to_handshake_by_themselves(system: Installation) -> None:
    use_engine(system.one, handshake_reconnect=True)
    alice = Client()
    assert (await alice.shake(system.one))["advice"]["maxInterval"] == 10_000
    assert (await alice.poll(system.one))[1]["advice"]["maxInterval"] == 10_000


async def test_other_messages_keep_a_session_alive_for_so_long(system: Installation) -> None:
    use_engine(system.one, limits=replace(system.one.sessions.engine.limits, max_server_interval_ms=12_000))
    alice = await Client().begin(system.one)
    await system.settle()
    await library(system.client).pexpire(key_of(alice), 1_000)
    await back_date(system, alice, "until", 5_000)
    await alice.subscribe(system.one)
    assert 5_000 < await library(system.client).pttl(key_of(alice)) <= 7_000


def test_an_end_is_logged_as_operators_name_the_session_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, written = Metrics(), LogCapture()
    monkeypatch.setattr(metrics, "log", structlog.wrap_logger(None, processors=[written]))
    NotifierMetrics(counted).ended("0123456789ab", "alice", Ending.INACTIVE)
    [line] = written.entries
    assert (line["event"], line["reason"], line["session"]) == ("cometd_session_ended", "inactive", "0123456789ab")
    assert 'calltag_cometd_sessions_ended_total{reason="inactive"} 1.0' in counted.exposition().decode()
