"""Sessions that move between nodes, and events that come late, twice or not at all: nothing is lost."""

import asyncio
import contextlib
from typing import Any

import orjson
import pytest

from calltag.core.bayeux.events import Position
from calltag.core.bayeux.messages import BayeuxLimit
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.store.event_log import PER_MS
from calltag.core.store.lua_script import LuaScript
from calltag.core.store.ports import StoreUnavailable
from calltag.notifier.authentication import Caller
from calltag.notifier.metrics import wall_ms
from calltag.notifier.session_registry import Suspended
from parts.eventually import eventually, turns
from parts.hubs import CALLS, KEYS, Client, Installation, Node, Turn, numbers
from parts.store_commands import library

HURRY = {"timeout": 0}
ALICE = UserId("alice")


def suspended(turn: Turn) -> Suspended:
    assert turn.held is not None
    return turn.held


# -- sessions move -----------------------------------------------------------------------------------------------------


async def test_a_newer_connect_on_another_node_takes_the_place_of_the_older(system: Installation) -> None:
    alice = await Client().begin(system.one)
    older = await alice.connect(system.one)
    assert (await alice.poll(system.two))[0] == []
    assert older.line.is_replaced
    turn = await alice.connect(system.two)
    await system.settle()
    assert (system.one.registry.residents, system.two.count("sessions_resumed_total")) == ({}, 1)
    assert await system.registered() == [system.two.name]
    await system.publish(1)
    assert (await alice.finish(system.two, turn))[0] == [1]


async def test_a_notice_that_comes_late_takes_nothing_away(system: Installation) -> None:
    alice = await Client().begin(system.one)
    resident = suspended(await alice.connect(system.one)).resident
    late = SessionNotice(kind=NoticeKind.FLUSH, client_id=alice.client_id, cycle=resident.session.cycle - 1)
    for node in ("", system.two.name):
        await system.one.server.handle_notice(late.model_copy(update={"node": node}))
        assert system.one.registry.has(resident)
    await system.one.server.handle_notice(late.model_copy(update={"client_id": "other"}))


async def test_a_node_that_was_not_told_sends_nothing_that_the_client_has(system: Installation) -> None:
    """The node holds on to a copy, and events gather there while another node serves the client."""
    system.loses_notices = True
    alice = await Client().begin(system.one)
    await system.one.lapse()
    assert (await alice.poll(system.two))[0] == []
    await system.publish(1, 2)
    assert (await alice.poll(system.two))[0] == [1, 2]
    await system.two.sessions.sync.save_marked()
    assert system.one.registry.residents[alice.client_id].session.has_news
    await system.one.lease.renew()
    assert (await alice.connect(system.one)).held is not None


async def test_another_node_than_the_home_subscribes(system: Installation) -> None:
    alice = Client()
    await alice.shake(system.one)
    await alice.connect(system.one)
    turn = await alice.connect(system.one)
    assert (await alice.subscribe(system.two))["successful"]
    await system.publish(1)
    assert (await alice.finish(system.one, turn))[0] == [1]


async def test_an_event_between_subscription_and_notice_comes(system: Installation) -> None:
    alice = Client()
    await alice.shake(system.one)
    await alice.connect(system.one)
    turn = await alice.connect(system.one)
    system.loses_notices = True
    await alice.subscribe(system.two)
    await system.publish(1)
    assert not suspended(turn).resident.session.has_news
    await system.one.server.handle_notice(SessionNotice(kind=NoticeKind.CHANGED, client_id=alice.client_id))
    assert (await alice.finish(system.one, turn))[0] == [1]


async def test_another_node_than_the_home_unsubscribes(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert (await alice.ask(system.two, "/meta/unsubscribe", subscription=CALLS))["successful"]
    await system.settle()
    await system.publish(1)
    assert not suspended(turn).resident.session.has_news


async def test_a_disconnect_on_another_node_ends_the_suspended_connect_for_good(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert (await alice.ask(system.two, "/meta/disconnect"))["successful"]
    events, reply = await alice.finish(system.one, turn)
    assert (events, reply["advice"]["reconnect"]) == ([], "none")
    await system.settle()
    assert system.one.registry.residents == {}


async def test_a_save_finds_the_end_of_a_session_before_the_notice_of_it(system: Installation) -> None:
    system.loses_notices = True
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert (await alice.ask(system.two, "/meta/disconnect"))["successful"]
    await system.one.sessions.sync.save_marked()
    events, reply = await alice.finish(system.one, turn)
    assert (events, reply["advice"]["reconnect"]) == ([], "none")
    assert (turn.line.is_replaced, system.one.registry.residents) == (False, {})


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_connect_that_a_disconnect_has_overtaken_is_refused_after_that_was_answered(
    system: Installation, *, streaming: bool
) -> None:
    system.two.server.parting_s = 3_600.0
    alice = await Client().begin(system.one)
    assert (await alice.ask(system.one, "/meta/disconnect"))["successful"]
    if streaming:
        # On one WebSocket it cannot have been overtaken.
        [reply] = (await alice.send(system.two, alice.connecting(), streaming=True)).replies
        assert reply["error"] == "402::Unknown client"
        return
    before = system.two.batcher.round_trips
    connecting = asyncio.create_task(alice.connect(system.two))
    await eventually(lambda: system.two.batcher.round_trips > before)
    await turns()
    assert not connecting.done()
    connecting.cancel()


async def test_a_node_does_not_change_what_another_is_the_home_of(system: Installation) -> None:
    system.loses_notices = True
    alice = await Client().begin(system.one)
    await system.one.lapse()
    await alice.connect(system.two)
    before = dict(system.one.registry.residents[alice.client_id].session.subscriptions)
    await alice.subscribe(system.two, "/v2/x")
    await system.one.server.handle_notice(SessionNotice(kind=NoticeKind.CHANGED, client_id=alice.client_id))
    assert system.one.registry.residents[alice.client_id].session.subscriptions == before
    # It looks what has become of it, and lets it go.
    await system.one.sessions.sync.save_marked()
    assert system.one.registry.residents == {}
    await system.one.server.handle_notice(SessionNotice(kind=NoticeKind.CHANGED, client_id="other"))


async def test_a_user_stays_registered_while_a_session_is_left(system: Installation) -> None:
    first, second = await Client().begin(system.one), await Client().begin(system.one)
    await first.ask(system.one, "/meta/disconnect")
    await system.settle()
    assert await system.registered() == [system.one.name]
    await second.ask(system.one, "/meta/disconnect")
    await system.settle()
    assert await system.registered() == []


async def test_a_session_that_comes_while_the_last_one_goes_is_registered(system: Installation) -> None:
    first, second = await Client().begin(system.one), Client()
    await second.shake(system.one)
    await asyncio.gather(first.ask(system.one, "/meta/disconnect"), second.connect(system.one))
    await system.settle()
    assert await system.registered() == [system.one.name]


async def test_a_session_that_goes_while_another_fails_to_come_is_not_registered(system: Installation) -> None:
    alice = await Client().begin(system.one)
    unknown = Client(client_id="c" + "a" * 32 + alice.client_id[33:])
    leaving, arriving = asyncio.create_task(alice.ask(system.one, "/meta/disconnect")), []
    while system.one.registry.residents:
        arriving.append(asyncio.create_task(unknown.connect(system.one)))
        await asyncio.sleep(0)
    await asyncio.gather(leaving, *arriving)
    await system.settle()
    assert await system.registered() == []


# -- what was sent, and what is sent again -----------------------------------------------------------------------------


async def test_another_node_sends_again_what_was_not_acknowledged(system: Installation) -> None:
    alice = await Client().begin(system.one, ack=True)
    await system.publish(1, 2)
    events, reply = await alice.poll(system.one)
    assert events == [1, 2]
    events, _ = await alice.poll(system.two, ext={"ack": 0})
    assert events == [1, 2]
    await system.publish(3)
    events, reply = await alice.poll(system.one, ext=reply["ext"])
    assert events == [3]
    assert (await alice.connect(system.two, ext=reply["ext"])).held is not None


async def test_a_client_in_a_hurry_gets_what_was_sent_last_once_more(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]
    alice.connection_id += 1
    assert (await alice.poll(system.one, advice=HURRY))[0] == [1]
    # The connection breaks, and the client comes to another node.
    system.one.sessions.connection_broke(alice.connection_id)
    alice.connection_id += 1
    assert (await alice.poll(system.two, advice=HURRY))[0] == []
    assert (await alice.poll(system.two))[0] == [1]
    assert (await alice.connect(system.two)).held is not None


async def test_what_was_sent_last_comes_again_even_before_the_store_knows(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    system.one.client.cut.append("away")
    assert (await alice.poll(system.one))[0] == [1]
    await system.settle()
    alice.connection_id += 1
    with pytest.raises(StoreUnavailable):
        # It would have to know first that the event is to be sent again.
        await alice.connect(system.one, advice=HURRY)
    system.one.client.cut.clear()
    alice.connection_id += 1
    assert (await alice.poll(system.one, advice=HURRY))[0] == [1]


@pytest.mark.parametrize("ack", [False, True])
async def test_a_client_that_goes_on_gets_nothing_twice(system: Installation, *, ack: bool) -> None:
    alice, ext = await Client().begin(system.one, ack=ack), {"ack": 0}
    got = []
    for number, node in enumerate((system.one, system.two, system.two, system.one)):
        await system.publish(number)
        if (ack, number) == (False, 1):
            assert (await alice.poll(node))[0] == []
        events, reply = await alice.poll(node, **({"ext": ext} if ack else {}))
        got += events
        ext = reply.get("ext", {})
    assert got == [0, 1, 2, 3]


# -- replay ------------------------------------------------------------------------------------------------------------


async def replayed(alice: Client, node: Node, replay_id: int) -> list[int]:
    """What a new session gets that subscribes from an id on."""
    await alice.shake(node)
    assert (await alice.subscribe(node, ext={"replay": {CALLS: replay_id}}))["successful"]
    return (await alice.poll(node))[0]


async def test_a_new_session_reads_on_from_any_event(system: Installation) -> None:
    first, _, _ = await system.publish(1, 2, 3)
    assert await replayed(Client(), system.one, -2) == [1, 2, 3]
    assert await replayed(Client(), system.one, -1) == []
    assert await replayed(Client(), system.two, first) == [2, 3]


async def test_an_id_that_is_not_kept_refuses_the_subscription(system: Installation) -> None:
    alice = Client()
    first, *_ = await system.publish(1, 2, 3)
    await library(system.client).xtrim(KEYS.stream_of(ALICE), maxlen=1, approximate=False)
    await alice.shake(system.one)
    reply = await alice.subscribe(system.one, ext={"replay": {CALLS: first}})
    assert reply["error"].startswith(f"400::The replayId {{{first}}} you provided was invalid.")
    assert reply["subscription"] == CALLS


async def test_a_subscription_from_the_past_takes_nothing_from_the_others(system: Installation) -> None:
    """Events wait for an older subscription while a newer one has the stream read again."""
    alice = await Client().begin(system.one)
    [first] = await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]
    await system.settle()
    await system.publish(2)
    for number, node in enumerate((system.one, system.two)):
        await alice.subscribe(node, f"/v2/other{number}", ext={"replay": {f"/v2/other{number}": first}})
        await alice.ask(node, "/meta/unsubscribe", subscription=f"/v2/other{number}")
    assert (await alice.poll(system.one))[0] == [2]


async def test_a_subscription_from_the_past_loses_no_answer_that_was_lost(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    await alice.connect(system.one)
    for _ in range(2):
        await alice.subscribe(system.one, "/v2/x", ext={"replay": {"/v2/x": -2}})
    await system.settle()
    for _ in range(2):
        system.one.sessions.connection_broke(alice.connection_id)
        alice.connection_id += 1
        assert (await alice.poll(system.one, advice=HURRY))[0] == [1]
    await system.settle()
    assert (await alice.connect(system.one)).held is not None


async def test_a_subscription_later_than_what_waits_takes_nothing_from_the_others(system: Installation) -> None:
    alice = await Client().begin(system.one)
    system.loses_notices = True
    _, second, _ = await system.publish(1, 2, 3)
    await alice.subscribe(system.two, "/v2/other", ext={"replay": {"/v2/other": second}})
    assert (await alice.poll(system.one))[0] == [1, 2, 3]


async def test_what_was_not_acknowledged_is_sent_again_after_a_subscription_from_the_past(system: Installation) -> None:
    alice = await Client().begin(system.one, ack=True)
    first, _ = await system.publish(1, 2)
    assert (await alice.poll(system.one))[0] == [1, 2]
    await alice.subscribe(system.one, "/v2/other", ext={"replay": {"/v2/other": first}})
    assert (await alice.poll(system.one, ext={"ack": 0}))[0] == [1, 2]


async def test_a_long_past_is_sent_bit_by_bit(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(*range(4))
    assert (await alice.poll(system.one))[0] == [0, 1, 2, 3]
    await system.publish(*range(4, 8))
    assert (await alice.poll(system.one))[0] == [4, 5, 6, 7]
    await system.settle()
    await alice.subscribe(system.one, ext={"replay": {CALLS: -2}})
    got = []
    for _ in range(2):
        got += (await alice.poll(system.one))[0]
    assert got == list(range(8))
    await system.settle()
    assert (await alice.connect(system.one)).held is not None


# -- events that do not come by the broker ---------------------------------------------------------------------------


async def test_the_next_event_shows_what_did_not_come(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    await system.publish(1, by_broker=False)
    await system.publish(2)
    assert system.one.count("gaps_filled_total") == 1
    await system.settle()
    assert (await alice.finish(system.one, turn))[0] == [1, 2]


async def test_a_look_at_all_streams_finds_what_did_not_come(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    await system.publish(1, by_broker=False)
    system.one.dispatcher.look_at_all()
    system.one.dispatcher.look_at_all()
    assert (await alice.finish(system.one, turn))[0] == [1]


async def test_the_next_save_finds_what_did_not_come(system: Installation) -> None:
    alice, other = await Client().begin(system.one), await Client().begin(system.one)
    turns_of = [await each.connect(system.one) for each in (alice, other)]
    await system.publish(1, by_broker=False)
    assert not any(turn.line.answered.is_set() for turn in turns_of)
    await system.settle()
    for client, turn in zip((alice, other), turns_of, strict=True):
        assert (await client.finish(system.one, turn))[0] == [1]


async def test_a_claim_finds_what_did_not_come(system: Installation) -> None:
    alice, other = await Client().begin(system.one), await Client().begin(system.one)
    turn = await other.connect(system.one)
    await system.publish(1, by_broker=False)
    # Whether the session is over the store decides.
    system.one.registry.residents[alice.client_id].ends_at_ms = 0
    assert (await alice.poll(system.one))[0] == [1]
    assert (await other.finish(system.one, turn))[0] == [1], "what one session finds the user's others get too"


async def test_an_event_that_comes_twice_is_told_once(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    entries = (await system.streams.read(ALICE, Position(0), 9)).entries
    system.one.dispatcher.publish(ALICE, system.one.dispatcher.translate(ALICE, entries[0]))
    assert (await alice.poll(system.one))[0] == [1]
    system.one.dispatcher.publish(ALICE, system.one.dispatcher.translate(ALICE, entries[0]))
    assert (await alice.connect(system.one)).held is not None


async def test_an_event_for_a_user_without_sessions_here_is_nobodys(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    [entry] = (await system.streams.read(ALICE, Position(0), 9)).entries
    system.two.dispatcher.publish(ALICE, system.two.dispatcher.translate(ALICE, entry))
    assert system.two.registry.feeds == {}
    assert (await alice.poll(system.one))[0] == [1]


async def test_more_events_than_a_queue_holds_come_in_order(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(*range(11))
    got = []
    for _ in range(3):
        got += (await alice.poll(system.one))[0]
        await system.settle()
    assert got == list(range(11))
    assert (await alice.connect(system.one)).held is not None


@pytest.mark.parametrize(("streaming", "ack"), [(False, False), (False, True), (True, True)])
async def test_a_slow_client_is_told_that_it_is_behind_and_comes_back_at_once(
    system: Installation, streaming: bool, ack: bool
) -> None:
    alice = await Client().begin(system.one, ack=ack)
    ext: dict[str, int] = {}
    await system.publish(*range(11))
    session = system.one.registry.residents[alice.client_id].session
    assert (len(session.queue), session.queued_bytes) == (4, sum(len(each.body) for each in session.queue))
    got, told = [], []
    for _ in range(3):
        turn = await alice.send(system.one, alice.connecting(ext=ext, advice={"interval": 70}), streaming=streaming)
        events, reply = await alice.finish(system.one, turn)
        got.append(events)
        told.append(reply.get("ext", {}).get("calltag"))
        ext = {"ack": reply["ext"]["ack"]} if ack else {}
        await system.settle()
    assert got == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert told == [{"behind": True}, {"behind": True}, None]
    assert system.one.limits() == {BayeuxLimit.QUEUED_EVENTS: 1}


@pytest.mark.parametrize("ack", [False, True])
def deliveries(node: Node) -> tuple[float, float]:
    """How many events went out, and how long they took together, in seconds."""
    node.metrics.flush()
    told = node.all_metrics.registry.get_sample_value
    return told("calltag_delivery_seconds_count") or 0, told("calltag_delivery_seconds_sum") or 0


async def test_what_is_sent_again_is_counted_and_does_not_count_as_late(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1, 2)
    assert (await alice.poll(system.one))[0] == [1, 2]
    alice.connection_id += 1
    assert (await alice.poll(system.one, advice=HURRY))[0] == [1, 2]
    assert (await alice.poll(system.one, advice=HURRY))[0] == []
    await system.publish(3)
    assert (await alice.poll(system.one))[0] == [3]
    alice.connection_id += 1
    assert (await alice.poll(system.two, advice=HURRY))[0] == []
    await system.publish(4)
    assert (await alice.poll(system.two))[0] == [3, 4]
    assert [node.count("redelivered_total") for node in system.nodes.values()] == [2, 1]
    assert [deliveries(node)[0] for node in system.nodes.values()] == [3, 1]


async def test_what_was_not_acknowledged_is_counted_when_it_is_sent_again(system: Installation) -> None:
    alice = await Client().begin(system.one, ack=True)
    await system.publish(1, 2)
    for node in (system.one, system.one, system.two):
        assert (await alice.poll(node, ext={"ack": 0}))[0] == [1, 2]
    await system.publish(3)
    assert (await alice.poll(system.two, ext={"ack": 0}))[0] == [1, 2, 3]
    assert [node.count("redelivered_total") for node in system.nodes.values()] == [2, 4]
    assert [deliveries(node)[0] for node in system.nodes.values()] == [2, 1]


async def test_how_late_an_event_is_shows_when_it_goes_out(system: Installation) -> None:
    alice = await Client().begin(system.one)
    [position] = await system.publish(1)
    assert deliveries(system.one) == (0, 0)
    accepted_at_ms = position // PER_MS
    await eventually(lambda: wall_ms() >= accepted_at_ms + 50)
    await alice.poll(system.one)
    count, sum_s = deliveries(system.one)
    assert count == 1
    assert 0.05 <= sum_s < 5


async def test_a_stream_that_lost_what_a_session_needs_says_so(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(*range(6))
    await library(system.client).delete(KEYS.stream_of(ALICE))
    assert (await alice.poll(system.one))[0] == [0, 1, 2, 3]
    await system.settle()
    events, reply = await alice.poll(system.one)
    assert (events, reply["ext"]) == ([], {"calltag": {"missed": True}})
    await system.settle()
    assert (await alice.connect(system.one)).held is not None


async def test_what_is_wanted_is_found_behind_a_page_of_what_is_not(system: Installation) -> None:
    alice = Client()
    await alice.shake(system.one)
    await alice.connect(system.one)
    await system.publish(*range(4), by_broker=False)
    system.loses_notices = True
    await alice.subscribe(system.two)
    await system.publish(4, by_broker=False)
    await system.one.lapse()
    assert (await alice.move(system.two, advice={"timeout": 100}))[0] == [4]


async def test_many_events_that_did_not_come_are_read_page_by_page(system: Installation) -> None:
    alice = await Client().begin(system.one)
    bob = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    positions = await system.publish(*range(9), by_broker=False)
    system.one.dispatcher.look_at_all()
    await system.settle()
    assert system.one.registry.feeds[ALICE].head == positions[-1]
    assert (await alice.finish(system.one, turn))[0] == [0, 1, 2, 3]
    assert (await bob.poll(system.one))[0] == [0, 1, 2, 3]


# -- round trips -------------------------------------------------------------------------------------------------------


async def trips(node: Node, client: Client, **more: object) -> tuple[int, int]:
    """Pipelines and exchanges that a connect costs, and leave what is done in the background to be done after."""
    pipelines, exchanges = node.batcher.round_trips, len(node.client.exchanges)
    turn = await client.connect(node, **more)
    assert turn.held is not None or [each["successful"] for each in turn.replies] == [True]
    spent = node.batcher.round_trips - pipelines, len(node.client.exchanges) - exchanges
    await node.background.finish()
    return spent


async def know_scripts(system: Installation) -> None:
    """Redis knows all scripts: the first use of each takes one round trip more."""
    carol = await Client("carol").begin(system.one)
    for node in (system.two, system.one):
        await carol.connect(node)
        await system.settle()
    for node in system.nodes.values():
        await (await Client("dave").begin(node)).ask(node, "/meta/disconnect")
        await node.dispatcher.streams.read(ALICE, Position(0), 1)
        await system.settle()


async def test_a_connect_at_home_costs_no_round_trip(system: Installation) -> None:
    alice = await Client().begin(system.one)
    assert await trips(system.one, alice) == (0, 0)
    await system.publish(1)
    assert await trips(system.one, alice) == (0, 0)
    assert await trips(system.one, alice, advice=HURRY) == (0, 0)
    assert system.one.count("fast_connects_total") == 3


async def test_all_connects_between_two_saves_cost_one_round_trip(system: Installation) -> None:
    clients = [await Client(f"u{number}").begin(system.one) for number in range(5)]
    await system.settle()
    for client in clients:
        for _ in range(2):
            await client.connect(system.one)
    before = system.one.batcher.round_trips
    await system.one.sessions.sync.save_marked()
    assert system.one.batcher.round_trips == before + 1
    await system.one.sessions.sync.save_marked()
    assert system.one.batcher.round_trips == before + 1


async def test_a_first_connect_costs_two_round_trips(system: Installation) -> None:
    """It reads the session, and takes it over."""
    await know_scripts(system)
    alice = Client()
    await alice.shake(system.one)
    assert await trips(system.one, alice) == (2, 2)
    bob = Client("bob")
    await bob.shake(system.one)
    assert await trips(system.two, bob) == (3, 3), "it roams, and is saved before its answer leaves"


async def test_a_connect_that_comes_to_another_node_costs_three_round_trips(system: Installation) -> None:
    """It reads once more what the former home has saved, for which that takes one."""
    await know_scripts(system)
    bob = await Client("bob").begin(system.one, ack=True)
    assert await trips(system.two, bob, ext={"ack": 0}) == (3, 3)
    alice = await Client().begin(system.one)
    await system.publish(1)
    before = system.one.batcher.round_trips
    # Without acknowledgement it also looks, now and then, whether the former home's lease has lapsed.
    assert (await trips(system.two, alice))[0] == 3
    assert system.one.batcher.round_trips == before + 1


async def test_a_connect_of_a_session_that_roams_costs_no_flush(system: Installation) -> None:
    await know_scripts(system)
    alice = await Client().begin(system.one)
    await alice.poll(system.two)
    asked = system.one.count("flushes_total", outcome="asked")
    for node in (system.one, system.two):
        await system.publish(1)
        # It is read, taken over, and saved before its answer leaves.
        assert await trips(node, alice) == (3, 3)
    assert system.one.count("flushes_total", outcome="asked") == asked


async def test_a_connect_costs_one_round_trip_more_where_events_did_not_fit_a_queue(system: Installation) -> None:
    await know_scripts(system)
    alice = await Client().begin(system.one)
    await system.publish(*range(7))
    assert (await alice.poll(system.one))[0] == [0, 1, 2, 3]
    pipelines, exchanges = system.one.batcher.round_trips, len(system.one.client.exchanges)
    turn = await alice.connect(system.one)
    assert (system.one.batcher.round_trips - pipelines, len(system.one.client.exchanges) - exchanges) == (0, 1)
    assert numbers(turn.events) == [4, 5, 6]


async def test_a_login_is_looked_at_in_the_same_round_trip(system: Installation) -> None:
    class LooksUp(Client):
        async def look(self) -> Caller:
            if self.client_id:
                assert await ask([], []) == b"alice"
            return await Client.look(self)

    await know_scripts(system)
    ask = system.one.batcher.calls(LuaScript("return 'alice'", idempotent=True))
    await ask([], [])
    alice = LooksUp(login="mine")
    await alice.shake(system.one)
    assert await trips(system.one, alice) == (2, 2)
    assert await trips(system.one, alice) == (0, 0), "it was looked at a moment ago"
    alice.login = "new"
    assert await trips(system.one, alice) == (1, 1), "a login that is new to the session is looked at"
    assert await trips(system.one, alice) == (0, 0)


async def test_a_session_that_nobody_knows_costs_one_round_trip(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await alice.ask(system.one, "/meta/disconnect")
    await system.settle()
    before = system.one.batcher.round_trips
    assert (await alice.connect(system.one)).replies[0]["successful"] is False
    assert system.one.batcher.round_trips - before == 1


@pytest.mark.parametrize("ack", [False, True])
async def test_what_waits_in_a_session_that_is_let_go_while_its_connect_arrives_is_sent(
    system: Installation, monkeypatch: pytest.MonkeyPatch, *, ack: bool
) -> None:
    alice = await Client().begin(system.one, ack=ack)
    await system.publish(1, 2)
    sessions, read = system.one.sessions, system.one.store.read

    async def read_slowly(*given: Any, **more: Any) -> Any:
        found = await read(*given, **more)
        resident = system.one.registry.residents.get(alice.client_id)
        if resident is not None:
            sessions.endings.release(resident)
        return found

    monkeypatch.setattr(system.one.store, "read", read_slowly)
    # Whether the session is over the store decides.
    system.one.registry.residents[alice.client_id].ends_at_ms = 0
    assert (await alice.poll(system.one))[0] == [1, 2]


async def test_a_gap_is_filled_as_soon_as_the_store_is_back(system: Installation) -> None:
    """Though neither an event nor a connect comes meanwhile."""
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    await system.publish(1, by_broker=False)
    system.one.client.cut.append("away")
    system.one.dispatcher.look_at_all()
    await eventually(lambda: any(feed.look_again for feed in system.one.registry.feeds.values()))
    system.one.client.cut.clear()
    await turn.line.answered.wait()
    assert [orjson.loads(each)["data"] for each in turn.line.events] == [{"n": 1}]


@pytest.mark.parametrize("waits", [(), (1,)], ids=["nothing waits", "an event waits"])
async def test_an_event_comes_while_the_home_hears_of_a_subscription(
    system: Installation, monkeypatch: pytest.MonkeyPatch, waits: tuple[int, ...]
) -> None:
    """The event is after the subscription, and comes when the home does not know of that yet."""
    alice = Client()
    await alice.shake(system.one)
    await alice.subscribe(system.one)
    await alice.connect(system.one)
    turn = await alice.connect(system.one)
    await system.publish(*waits)
    await alice.ask(system.one, "/meta/unsubscribe", subscription=CALLS)
    assert not suspended(turn).resident.session.subscriptions
    publish_after(system.one.store, "subscribe", system, 2, monkeypatch)
    await alice.subscribe(system.one)
    seen, _ = await alice.finish(system.one, turn)
    if waits:
        assert seen == [1]
        seen += (await alice.poll(system.one))[0]
    assert seen == [*waits, 2]


@pytest.mark.parametrize("ack", [False, True])
async def test_an_event_comes_while_a_connect_hears_of_a_subscription(
    system: Installation, monkeypatch: pytest.MonkeyPatch, ack: bool
) -> None:
    system.loses_notices = True
    alice = Client()
    await alice.shake(system.one, ext={"ack": ack})
    await alice.connect(system.one)
    await alice.subscribe(system.two)
    publish_after(system.one.store, "read", system, 1, monkeypatch)
    # Whether the session is over the store decides.
    system.one.registry.residents[alice.client_id].ends_at_ms = 0
    assert (await alice.poll(system.one))[0] == [1]


def publish_after(store: object, what: str, system: Installation, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event comes, once, when the store has done something and its answer is on the way."""
    do = getattr(store, what)

    async def do_and_publish(*arguments: Any, **more: Any) -> Any:
        done = await do(*arguments, **more)
        monkeypatch.setattr(store, what, do)
        await system.publish(number)
        return done

    monkeypatch.setattr(store, what, do_and_publish)


LOOKS = ["answered", "repeated by the library", "without an answer", "not made"]


@pytest.mark.parametrize("ack", [False, True])
@pytest.mark.parametrize("look", LOOKS)
async def test_nothing_is_lost_where_a_look_at_a_subscription_fails(
    system: Installation, monkeypatch: pytest.MonkeyPatch, look: str, ack: bool
) -> None:
    """An event comes to the home before it knows of the subscription, and another one while it asks."""
    alice = Client()
    await alice.shake(system.one, ext={"ack": ack})
    await alice.connect(system.one)
    turn = await alice.connect(system.one)
    system.loses_notices = True
    await alice.subscribe(system.two)
    await system.publish(1)
    store, ask = system.one.store, system.one.store.load

    async def fail(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(store, "load", ask)
        answer = await ask(*arguments, **more) if look != "not made" else None
        await system.publish(2)
        if look == "repeated by the library":
            answer = await ask(*arguments, **more)
        if look in ("without an answer", "not made"):
            raise StoreUnavailable("Redis did not answer within 1 s")
        return answer

    monkeypatch.setattr(store, "load", fail)
    with contextlib.suppress(StoreUnavailable):
        await system.one.server.handle_notice(SessionNotice(kind=NoticeKind.CHANGED, client_id=alice.client_id))
    # A save shows what was missed.
    await system.settle()
    seen, reply = await alice.finish(system.one, turn)
    while len(seen) < 2:
        more, reply = await alice.poll(system.one, **({"ext": {"ack": reply["ext"]["ack"]}} if ack else {}))
        seen += more
    assert seen == [1, 2]
