"""A home whose lease has lapsed sends nothing from memory until the store has confirmed that it still is the home."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.sessions import SessionState
from calltag.notifier.node_presence import NodeLease
from calltag.notifier.session_registry import RequestContext
from parts.eventually import eventually, turns
from parts.frames import SocketPage
from parts.hubs import Client, Installation, Line, Node, Turn, numbers
from unit.notifier.conftest import LEASE_MS, Meanwhile, begun_with_wish, two_polls

HURRY = {"timeout": 0}


async def cycle_of(system: Installation, client: Client) -> int:
    record = await system.one.store.load(client.client_id)
    assert record is not None
    return record.cycle


async def renewed(node: Node) -> None:
    """The lease is renewed, and every session here is to be saved."""
    await node.lease.renew()
    node.sessions.sync.mark_unverified()
    await node.sessions.sync.save_marked()


async def test_it_lapses_by_the_clock_and_not_by_a_timer(system: Installation) -> None:
    """A process that was stopped must not answer before its timers have run."""
    alice = await Client().begin(system.one)
    assert system.one.sessions.at_home(alice.client_id) is not None
    system.one.ahead_ms += LEASE_MS
    assert system.one.sessions.at_home(alice.client_id) is None
    # By the store's clock it ends later than here.
    assert await system.one.store.is_alive(system.one.name)


async def test_each_time_that_it_lapsed_a_new_period_begins(system: Installation) -> None:
    lease = NodeLease(system.one.store, LEASE_MS, system.one.now_ms)
    assert (lease.period, lease.is_valid) == (0, False)
    for lapses, period in ((False, 1), (False, 1), (True, 2), (False, 2)):
        if lapses:
            system.one.ahead_ms += LEASE_MS
        await lease.renew()
        assert (lease.period, lease.is_valid) == (period, True)


async def test_a_renewal_that_took_longer_than_the_lease_renews_nothing(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = NodeLease(system.one.store, LEASE_MS, system.one.now_ms)

    async def renew_slowly(_: int) -> None:
        system.one.ahead_ms += LEASE_MS

    monkeypatch.setattr(system.one.store, "renew_lease", renew_slowly)
    await lease.renew()
    assert not lease.is_valid


async def lapsed_before_an_event(system: Installation, *, ack: bool) -> tuple[Client, Turn, int]:
    """A client whose connect waits at a home that has no lease, when an event comes; and the cycle of the session."""
    alice = await Client().begin(system.one, ack=ack)
    turn = await alice.connect(system.one, ext={"ack": 1})
    before = await cycle_of(system, alice)
    await system.one.lapse()
    await system.publish(1)
    return alice, turn, before


# -- what waits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ack", [False, True])
async def test_an_event_answers_no_connect_until_a_save_has_verified_the_session(
    system: Installation, *, ack: bool
) -> None:
    alice, turn, before = await lapsed_before_an_event(system, ack=ack)
    await turns()
    assert not turn.line.answered.is_set()
    await system.one.lease.renew()
    await turns()
    assert not turn.line.answered.is_set(), "a lease alone says nothing of the sessions"
    await renewed(system.one)
    assert (await alice.finish(system.one, turn))[0] == [1]
    assert await cycle_of(system, alice) == before + 1
    assert system.one.registry.residents[alice.client_id].session.cycle == before + 1


@pytest.mark.parametrize("ack", [False, True])
async def test_a_connect_whose_time_is_up_is_answered_when_a_save_has_verified_the_session(
    system: Installation, *, ack: bool
) -> None:
    alice, turn, before = await lapsed_before_an_event(system, ack=ack)
    system.one.ahead_ms += 30_000
    assert (await alice.finish(system.one, turn))[0] == [1]
    assert await cycle_of(system, alice) == before + 1


@pytest.mark.parametrize("ack", [False, True])
async def test_a_connect_whose_time_is_up_while_the_store_is_away_is_to_come_again(
    system: Installation, *, ack: bool
) -> None:
    alice = await Client().begin(system.one, ack=ack)
    turn = await alice.connect(system.one, ext={"ack": 1})
    await system.one.lapse()
    await system.publish(1)
    system.one.client.cut.append("away")
    system.one.ahead_ms += 30_000
    system.one.sessions.tick()
    await turn.line.answered.wait()
    assert (turn.line.is_replaced, turn.line.reply, turn.line.events) == (True, None, [])
    system.one.client.cut.clear()
    assert (await alice.poll(system.one, ext={"ack": 1}))[0] == [1]


@pytest.mark.parametrize("waits", [False, True])
async def test_nothing_is_pushed_until_a_save_has_verified_the_session(system: Installation, *, waits: bool) -> None:
    page = await SocketPage.open(system.one, ack=False)
    if waits:
        # It is slow, and an event waits when the lease lapses.
        page.frames.is_slow = True
        await system.publish(0)
    before = await cycle_of(system, page.alice)
    await system.one.lapse()
    await system.publish(1)
    page.frames.is_slow = False
    assert page.events() == []
    await system.one.lease.renew()
    await system.publish(2)
    assert page.events() == []
    await renewed(system.one)
    assert page.events() == ([0, 1, 2] if waits else [1, 2])
    assert await cycle_of(system, page.alice) == before + 1
    await system.publish(3)
    assert page.events()[-1] == 3


async def test_nothing_goes_with_other_replies_until_a_save_has_verified_the_session(system: Installation) -> None:
    alice = Client()
    await alice.shake(system.one, ext={"calltag": {"metaConnectDeliveryOnly": False}})
    await alice.subscribe(system.one)
    await alice.poll(system.one)
    await system.publish(1)
    sessions = system.one.sessions
    await system.one.lapse()
    await system.one.lease.renew()
    assert await sessions.deliver([alice.client_id], RequestContext(Line(system.one), 77)) == []
    await renewed(system.one)
    assert len(await sessions.deliver([alice.client_id], RequestContext(Line(system.one), 77))) == 1


@pytest.mark.parametrize("is_renewed", [False, True])
async def test_a_connect_asks_the_store(system: Installation, *, is_renewed: bool) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    await system.one.lapse()
    if is_renewed:
        await system.one.lease.renew()
    system.one.client.cut.append("away")
    with pytest.raises(StoreUnavailable):
        await alice.connect(system.one)
    system.one.client.cut.clear()
    before = system.one.count("claims_total")
    assert (await alice.poll(system.one))[0] == [1]
    assert (await alice.connect(system.one)).held is not None
    # A node without a lease has to ask again and again.
    assert system.one.count("claims_total") == before + (1 if is_renewed else 2)


async def test_a_node_without_a_lease_answers_each_connect_that_asks_the_store(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.one.lapse()
    for number in range(3):
        await system.publish(number)
        assert (await alice.poll(system.one))[0] == [number]


# -- the session is elsewhere ------------------------------------------------------------------------------------------


async def test_a_home_that_lost_a_session_while_its_lease_had_lapsed_sends_nothing_any_more(
    system: Installation,
) -> None:
    system.loses_notices = True
    page = await SocketPage.open(system.one, ack=False)
    await system.one.lapse()
    assert (await page.alice.poll(system.two))[0] == []
    await system.publish(1)
    assert (await page.alice.poll(system.two))[0] == [1]
    await renewed(system.one)
    assert page.events() == []
    assert system.one.registry.residents == {}
    # Its client, if there is one, is asked to connect again.
    await page.let_pass(1_000)
    assert page.replies() == [("c1", False)]


async def test_a_claim_that_has_seen_the_lapse_is_refused_once_the_home_has_verified_the_session(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.loses_notices = True
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    await system.one.lapse()
    states: list[SessionState] = []
    take_over = system.two.store.take_over

    async def verify_first(state: SessionState, **more: Any) -> Any:
        states.append(state)
        if len(states) == 1:
            await renewed(system.one)
            await system.publish(1)
            assert (await alice.finish(system.one, turn))[0] == [1]
            # Its client is gone, and the next attempt finds nobody who answers.
            await system.one.lapse()
        return await take_over(state, **more)

    monkeypatch.setattr(system.two.store, "take_over", verify_first)
    late = await alice.connect(system.two)
    assert (late.held, late.events) == (None, [])
    assert [state.cycle for state in states] == [states[0].cycle, states[0].cycle + 1]


async def test_a_save_that_was_asked_for_before_a_lapse_verifies_nothing_after_it(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    save, began, may_go_on = system.one.store.save, asyncio.Event(), asyncio.Event()

    async def save_late(states: Sequence[SessionState]) -> Any:
        saved = await save(states)
        began.set()
        await may_go_on.wait()
        return saved

    with monkeypatch.context() as patched:
        patched.setattr(system.one.store, "save", save_late)
        saving = asyncio.create_task(system.one.sessions.sync.save_marked())
        await began.wait()
        # The answer of the store is on its way.
        await system.one.lapse()
        await system.one.lease.renew()
        may_go_on.set()
        await saving
    assert system.one.sessions.at_home(alice.client_id) is None
    await renewed(system.one)
    assert system.one.sessions.at_home(alice.client_id) is not None


async def test_a_verifying_save_whose_answer_is_lost_is_known_again(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raised the cycle, and the node does not know."""
    alice = await Client().begin(system.one)
    before = await cycle_of(system, alice)
    ask = system.one.store._save

    async def twice(*given: Any) -> Any:
        first = await ask(*given)
        assert await ask(*given) == first
        return first

    await system.one.lapse()
    with monkeypatch.context() as patched:
        patched.setattr(system.one.store, "_save", twice)
        await renewed(system.one)
    assert await cycle_of(system, alice) == before + 1
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]


async def test_a_node_without_a_lease_that_takes_a_session_over_has_to_verify_it_after_the_renewal(
    system: Installation,
) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1)
    await system.two.lapse()
    assert (await alice.poll(system.two))[0] == []
    assert system.two.sessions.at_home(alice.client_id) is None
    await system.two.lease.renew()
    assert system.two.sessions.at_home(alice.client_id) is None
    await renewed(system.two)
    assert system.two.sessions.at_home(alice.client_id) is not None
    assert (await alice.poll(system.two))[0] == [1]


# -- a node that is frozen ---------------------------------------------------------------------------------------------


class Frozen:
    """The node stops behind its next look at the stream. Its lease lapses meanwhile, and its client goes elsewhere."""

    def __init__(self, system: Installation, alice: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.got_elsewhere: list[int] = []

        async def pass_by() -> None:
            await system.one.lapse()
            system.loses_notices = True
            self.got_elsewhere += await two_polls(system.two, Client(client_id=alice.client_id, connection_id=9))

        Meanwhile(system.one.dispatcher.streams, "read", pass_by, monkeypatch, after=True)


async def fall_behind(system: Installation, client: Client) -> None:
    """The home has to read the next event from the stream."""
    await system.settle()
    await system.publish(1, by_broker=False)
    system.one.registry.residents[client.client_id].session.fall_behind()


async def test_a_node_that_was_frozen_in_a_connect_does_not_answer_it(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    await fall_behind(system, alice)
    frozen = Frozen(system, alice, monkeypatch)
    turn = await alice.connect(system.one, advice=HURRY)
    assert frozen.got_elsewhere == [1]
    assert turn.events == []


async def test_a_node_that_was_frozen_sends_no_events_with_other_replies(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await begun_with_wish(system.one, connects_only=False)
    await fall_behind(system, alice)
    frozen = Frozen(system, alice, monkeypatch)
    taken = await system.one.sessions.deliver([alice.client_id], RequestContext(Line(system.one), 77))
    assert frozen.got_elsewhere == [1]
    assert numbers(taken) == []


async def test_a_connect_that_waits_is_not_answered_by_a_node_that_lost_the_session_while_it_read(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    assert turn.held is not None
    await fall_behind(system, alice)
    await system.one.lapse()
    frozen = Frozen(system, alice, monkeypatch)
    turn.held.deadline_ms = 0
    system.one.sessions.answer(turn.held)
    await asyncio.wait_for(turn.line.answered.wait(), 15)
    assert frozen.got_elsewhere == [1]
    assert turn.line.events == []


async def test_a_connect_during_which_the_lease_lapses_is_answered_when_the_store_has_confirmed_the_home(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1, by_broker=False)
    resident = system.one.registry.residents[alice.client_id]
    resident.session.fall_behind()
    cycle = resident.session.cycle
    meanwhile = Meanwhile(system.one.dispatcher.streams, "read", system.one.lapse, monkeypatch, after=True)
    events, reply = await alice.poll(system.one)
    assert (meanwhile.has_happened, events, reply["successful"]) == (True, [1], True)
    assert resident.session.cycle == cycle + 1, "who saw the lapse is refused from now on"


async def test_two_saves_that_verify_a_session_at_once_do_not_cost_its_connect_the_answer(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    await system.one.lapse()
    await system.publish(1)
    await system.one.lease.renew()
    sessions = system.one.sessions
    sessions.sync.mark_unverified()
    saving = asyncio.create_task(sessions.sync.save_marked())
    assert turn.held is not None
    sessions.answer(turn.held)
    await saving
    await eventually(turn.line.answered.is_set)
    assert turn.line.reply is not None, "it was replaced"
    assert numbers(turn.line.events) == [1]
