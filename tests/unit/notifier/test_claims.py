"""Claims: a connect that comes to another node waits until the former home has saved the session and let it go."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.store.embedded import embedded_store
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.sessions import SessionRecord, SessionState
from calltag.notifier.session_claims import Flush, Post
from parts.eventually import eventually, turns
from parts.frames import SocketPage
from parts.hubs import Client, Installation, Node
from parts.polls import Poll, cometd_http
from unit.notifier.conftest import Door, Meanwhile, two_polls

HURRY = {"timeout": 0}


@pytest.fixture
async def settled() -> AsyncIterator[Installation]:
    """Nodes where a session that moved does not roam, and where nobody waits long for one that does not answer."""
    async with embedded_store(None, deadline_s=20) as store:
        installation = Installation(store.client, BayeuxLimits(), flush_timeout_s=0.05, roaming_ms=0, lease_ms=60_000)
        await installation.begin()
        yield installation
        await installation.settle()


async def record_of(system: Installation, client: Client) -> SessionRecord:
    record = await system.one.store.load(client.client_id)
    assert record is not None
    return record


# -- the former home is asked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ack", [False, True])
async def test_a_claim_waits_until_the_former_home_has_saved(
    system: Installation, monkeypatch: pytest.MonkeyPatch, *, ack: bool
) -> None:
    alice = await Client().begin(system.one, ack=ack)
    await system.publish(1)
    _, reply = await alice.poll(system.one)
    save = Door(system.one.store, "save", monkeypatch)
    claiming = asyncio.create_task(alice.connect(system.two, ext=reply.get("ext", {}), advice=HURRY))
    await save.began.wait()
    await turns()
    assert not claiming.done()
    assert system.one.registry.residents == {}, "the former home answers nothing any more"
    assert (await record_of(system, alice)).home == system.one.name
    save.may_go_on.set()
    turn = await claiming
    assert [each["successful"] for each in turn.replies] == [True]
    assert (await record_of(system, alice)).home == system.two.name
    assert system.two.count("flushes_total", outcome="answered") == 1
    assert system.two.count("repeated_after_crash_total") == 0


async def test_a_client_without_acknowledgement_that_moved_gets_an_empty_answer_first(system: Installation) -> None:
    """It may have given that connect up while the claim waited, and been answered elsewhere."""
    alice = await Client().begin(system.one)
    await system.publish(1)
    turn = await alice.connect(system.two)
    assert (turn.held, turn.events) == (None, [])
    assert turn.replies[0]["successful"]
    assert turn.replies[0]["advice"] == {"reconnect": "retry", "interval": 0, "timeout": 30_000}
    assert (await alice.poll(system.two))[0] == [1]


async def test_a_client_that_acknowledges_gets_its_events_with_the_first_answer(system: Installation) -> None:
    alice = await Client().begin(system.one, ack=True)
    await system.publish(1)
    assert (await alice.poll(system.two, ext={"ack": 1}))[0] == [1]


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_connect_that_waited_confirms_nothing(settled: Installation, *, is_lost: bool) -> None:
    alice = await Client().begin(settled.one)
    await settled.publish(1)
    assert (await alice.poll(settled.one))[0] == [1]
    if is_lost:
        settled.one.sessions.connection_broke(alice.connection_id)
    assert (await alice.poll(settled.two))[0] == []
    await settled.settle()
    record = await record_of(settled, alice)
    assert record.cursor.confirmed < record.cursor.sent or is_lost
    assert (await alice.poll(settled.two, advice={"timeout": 1}))[0] == ([1] if is_lost else [])


@pytest.mark.parametrize("ack", [False, True])
async def test_a_suspended_connect_is_replaced_when_its_session_is_flushed(system: Installation, *, ack: bool) -> None:
    alice = await Client().begin(system.one, ack=ack)
    turn = await alice.connect(system.one)
    await alice.connect(system.two, advice=HURRY)
    assert turn.line.is_replaced
    assert turn.line.reply is None


async def test_events_that_come_between_the_flush_and_the_take_over_are_not_lost(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    take_over = Door(system.two.store, "take_over", monkeypatch)
    claiming = asyncio.create_task(alice.connect(system.two))
    await take_over.began.wait()
    await system.publish(1)
    take_over.may_go_on.set()
    assert (await claiming).events == []
    await system.settle()
    assert (await alice.poll(system.two))[0] == [1]


# -- answers to a flush that do not count ------------------------------------------------------------------------------


async def test_an_answer_that_is_about_another_cycle_is_ignored(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    save = Door(system.one.store, "save", monkeypatch)
    claiming = asyncio.create_task(alice.connect(system.two))
    await save.began.wait()
    cycle = (await record_of(system, alice)).cycle
    for other in (cycle - 1, cycle + 1):
        late = SessionNotice(kind=NoticeKind.FLUSHED, client_id=alice.client_id, cycle=other)
        system.two.sessions.claims.flushed(late)
    await turns()
    assert not claiming.done()
    assert (await record_of(system, alice)).home == system.one.name
    save.may_go_on.set()
    assert (await claiming).replies[0]["successful"]


async def test_an_answer_that_comes_when_nobody_waits_is_ignored(system: Installation) -> None:
    alice = await Client().begin(system.one)
    late = SessionNotice(kind=NoticeKind.FLUSHED, client_id=alice.client_id, cycle=1)
    for node in system.nodes.values():
        node.sessions.claims.flushed(late)
    assert (await alice.connect(system.one)).held is not None


class Twice(Post):
    """The way to other nodes, where each notice arrives twice."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    async def send_notice(self, node: NodeId, notice: SessionNotice) -> bool:
        await self._installation.send_notice(node, notice)
        return await self._installation.send_notice(node, notice)


async def test_notices_that_arrive_twice_change_nothing(system: Installation) -> None:
    alice = await Client().begin(system.one)
    for node in system.nodes.values():
        node.sessions.claims.post = Twice(system)
    assert (await alice.connect(system.two)).replies[0]["successful"]
    await system.settle()
    assert system.two.registry.residents.keys() == {alice.client_id}


# -- a former home that does not answer --------------------------------------------------------------------------------


async def test_without_acknowledgement_a_claim_waits_until_the_lease_of_the_former_home_lapses(
    settled: Installation,
) -> None:
    settled.loses_notices = True
    alice = await Client().begin(settled.one)
    await settled.publish(1)
    assert (await alice.poll(settled.one))[0] == [1]
    claiming = asyncio.create_task(alice.connect(settled.two))
    await eventually(lambda: settled.two.sessions.claims.is_flushing(alice.client_id))
    looked = len(settled.two.client.exchanges)
    await eventually(lambda: len(settled.two.client.exchanges) > looked + 1)
    assert not claiming.done()
    assert (await record_of(settled, alice)).home == settled.one.name
    await settled.one.lapse()
    assert (await claiming).events == []
    # What the former home had not saved is sent once more.
    assert (await alice.poll(settled.two))[0] == [1]
    assert settled.two.count("flushes_total", outcome="answered") == 0
    assert settled.two.count("flushes_total", outcome="asked") >= 1
    assert settled.two.count("repeated_after_crash_total") == 1


class Silent(Post):
    """The way to nodes that receive what they are told and say nothing."""

    async def send_notice(self, node: NodeId, notice: SessionNotice) -> bool:  # noqa: ARG002 - the interface's
        return True


@pytest.mark.parametrize(("is_saved", "comes"), [(True, [2]), (False, [1, 2])])
async def test_with_acknowledgement_a_claim_waits_for_the_flush_timeout_alone(
    settled: Installation, *, is_saved: bool, comes: list[int]
) -> None:
    """The client says itself what it has; what the former home had not saved comes once more."""
    alice = await Client().begin(settled.one, ack=True)
    await settled.publish(1)
    _, reply = await alice.poll(settled.one, ext={"ack": 1})
    if is_saved:
        await settled.settle()
    settled.two.sessions.claims.post = Silent()
    await settled.publish(2)
    assert (await alice.poll(settled.two, ext=reply["ext"]))[0] == comes
    assert settled.one.lease.is_valid
    assert settled.two.count("flushes_total", outcome="answered") == 0


async def test_numbers_of_a_home_that_did_not_answer_are_given_to_nothing_else(settled: Installation) -> None:
    alice = await Client().begin(settled.one, ack=True)
    settled.loses_notices = True
    await settled.publish(1)
    _, unsaved = await alice.poll(settled.one, ext={"ack": 1})
    events, reply = await alice.poll(settled.two, ext={"ack": 1})
    assert events == [1]
    assert reply["ext"]["ack"] > unsaved["ext"]["ack"] + 1_000


async def test_claims_that_come_at_once_share_a_look_at_the_lease_of_their_home(
    settled: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each asks the home first: it may live, and save what it alone knows before the take-over."""
    clients = [await Client(f"u{number}").begin(settled.one) for number in range(9)]
    await settled.one.lapse()
    looks, is_alive = [], settled.two.store.is_alive

    async def counted(node: NodeId) -> bool:
        looks.append(node)
        return await is_alive(node)

    monkeypatch.setattr(settled.two.store, "is_alive", counted)
    await asyncio.gather(*(client.connect(settled.two) for client in clients))
    assert settled.two.registry.residents.keys() == {client.client_id for client in clients}
    assert settled.two.count("flushes_total", outcome="asked") == len(clients)
    assert 0 < len(looks) < len(clients)


async def test_a_home_that_lives_though_its_lease_has_lapsed_saves_what_it_alone_knows(settled: Installation) -> None:
    """Else an answer that a broken connection took is lost to a client that does not acknowledge."""
    alice = await Client().begin(settled.one)
    await settled.publish(1)
    assert (await alice.poll(settled.one))[0] == [1]
    await settled.settle()
    settled.one.sessions.connection_broke(alice.connection_id)
    await settled.one.lapse()
    alice.connection_id += 1
    assert await two_polls(settled.two, alice) == [1]


async def test_a_look_at_a_lease_from_before_a_session_was_read_shows_no_lapse(
    settled: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the home may have renewed its lease, and verified the session as it was read then."""
    alice, bob = await Client().begin(settled.one), await Client("bob").begin(settled.one)
    settled.loses_notices = True
    await settled.one.lapse()
    look = Door(settled.two.store, "is_alive", monkeypatch, after=True)
    first = asyncio.create_task(alice.connect(settled.two))
    await look.began.wait()
    await settled.one.lease.renew()
    second = asyncio.create_task(bob.connect(settled.two))
    await eventually(lambda: settled.two.sessions.claims.is_flushing(bob.client_id))
    looked = len(settled.two.client.exchanges)
    look.may_go_on.set()
    assert (await first).replies[0]["successful"]
    await eventually(lambda: len(settled.two.client.exchanges) > looked + 3)
    assert not second.done()
    await settled.one.lapse()
    assert (await second).replies[0]["successful"]


async def test_a_look_at_a_lease_that_fails_unexpectedly_fails_the_claim_and_is_no_lapse(
    settled: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(settled.one)
    settled.loses_notices = True

    async def fail(_: NodeId) -> bool:
        raise ValueError("unexpected")

    with monkeypatch.context() as patched:
        patched.setattr(settled.two.store, "is_alive", fail)
        with pytest.raises(ValueError, match="unexpected"):
            await alice.connect(settled.two)
    assert (await record_of(settled, alice)).home == settled.one.name
    assert settled.two.registry.residents == {}


async def test_a_home_that_has_no_copy_answers_at_once(settled: Installation) -> None:
    """It was started again under its name, or has let the session go for another claim."""
    alice = await Client().begin(settled.one)
    await settled.publish(1)
    settled.one.registry.residents.clear()
    settled.one.registry.feeds.clear()
    assert (await alice.poll(settled.two))[0] == []
    assert (await alice.poll(settled.two))[0] == [1]
    assert settled.one.lease.is_valid


# -- claims that meet --------------------------------------------------------------------------------------------------


async def test_two_nodes_that_claim_a_session_from_each_other_at_once_do_not_wait_for_each_other(
    system: Installation,
) -> None:
    alice = await Client().begin(system.one)
    record = await record_of(system, alice)
    claims = {node.name: node.sessions.claims for node in system.nodes.values()}
    homes = {system.one.name: system.two.name, system.two.name: system.one.name}
    records = {name: _at_home(record, homes[name]) for name in homes}

    async def claim(node: Node) -> Flush:
        async with node.sessions.turn(alice.client_id):
            return await claims[node.name].flush(records[node.name])

    assert await asyncio.gather(*map(claim, system.nodes.values())) == [Flush.SAVED, Flush.SAVED]


def _at_home(record: SessionRecord, home: NodeId) -> SessionRecord:
    return SessionRecord(
        record.client_id, record.user, home, record.cycle, record.saved, record.cursor, record.acknowledges
    )


@pytest.mark.parametrize("ack", [False, True])
async def test_of_two_claims_at_once_one_is_the_home_and_nothing_is_lost(system: Installation, *, ack: bool) -> None:
    alice = await Client().begin(system.one, ack=ack)
    await system.publish(1)
    # The home has to ask the store as well.
    await system.one.lapse()
    await system.one.lease.renew()
    ext = {"ack": 1} if ack else {}
    given = [asyncio.create_task(alice.connect(node, ext=ext, advice=HURRY)) for node in (system.one, system.two)]
    await asyncio.wait(given)
    homes = [node for node in system.nodes.values() if alice.client_id in node.registry.residents]
    record = await record_of(system, alice)
    assert record.home in [home.name for home in homes]
    await system.settle()
    [home] = [node for node in system.nodes.values() if alice.client_id in node.registry.residents]
    assert record.home == home.name
    got = [each for task in given for each in task.result().events]
    if not got:
        alice.connection_id += 1
        assert (await alice.poll(home, ext=ext, advice=HURRY))[0] == [1]


@pytest.mark.parametrize("ack", [False, True])
async def test_a_take_over_whose_answer_is_lost_is_made_once(
    system: Installation, monkeypatch: pytest.MonkeyPatch, *, ack: bool
) -> None:
    """The library asks again: the store knows the request."""
    alice = await Client().begin(system.one, ack=ack)
    await system.publish(1)
    take_over = system.two.store._take_over

    async def twice(*given: Any) -> Any:
        first = await take_over(*given)
        assert await take_over(*given) == first
        return first

    monkeypatch.setattr(system.two.store, "_take_over", twice)
    before = (await record_of(system, alice)).cycle
    ext = {"ack": 1} if ack else {}
    if not ack:
        assert (await alice.poll(system.two))[0] == []
    assert (await alice.poll(system.two, ext=ext))[0] == [1]
    assert (await record_of(system, alice)).cycle == before + 1
    assert system.two.registry.residents[alice.client_id].session.cycle == before + 1


@pytest.mark.parametrize("ack", [False, True])
async def test_after_a_take_over_whose_answer_never_came_the_next_connect_goes_on(
    system: Installation, monkeypatch: pytest.MonkeyPatch, *, ack: bool
) -> None:
    """The store says that this node is the home, and the node does not know."""
    alice = await Client().begin(system.one, ack=ack)
    await system.publish(1)
    take_over, ext = system.two.store.take_over, {"ack": 1} if ack else {}

    async def lose(*given: Any, **more: Any) -> Any:
        await take_over(*given, **more)
        raise StoreUnavailable("the answer was lost, again and again")

    with monkeypatch.context() as patched:
        patched.setattr(system.two.store, "take_over", lose)
        with pytest.raises(StoreUnavailable):
            await alice.connect(system.two, ext=ext)
    assert (await record_of(system, alice)).home == system.two.name
    assert (await alice.poll(system.two, ext=ext, advice=HURRY))[0] == [1]


async def test_a_node_that_awaits_its_take_over_answers_a_flush_when_it_has_the_session(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one, ack=True)
    await system.publish(1)
    answer = Door(system.two.store, "take_over", monkeypatch, after=True)
    claiming = asyncio.create_task(alice.poll(system.two, ext={"ack": 1}, advice=HURRY))
    await answer.began.wait()
    cycle = (await record_of(system, alice)).cycle
    asked = SessionNotice(kind=NoticeKind.FLUSH, client_id=alice.client_id, cycle=cycle, node=system.one.name)
    flushing = asyncio.create_task(system.two.server.handle_notice(asked))
    await turns()
    assert not flushing.done()
    answer.may_go_on.set()
    await flushing
    assert (await claiming)[0] == [1]
    assert system.two.registry.residents == {}
    record = await record_of(system, alice)
    assert (record.home, record.is_exact) == (system.two.name, True)


async def test_a_connect_that_was_overtaken_while_its_answer_was_saved_takes_nothing_back(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client has given it up, and lacks the answer to the newer one as well."""
    alice = await Client().begin(system.one)
    await alice.poll(system.two)
    assert system.two.registry.residents[alice.client_id].is_roaming
    await system.publish(1)
    saved, save = 0, system.two.store.save
    late, may_go_on = asyncio.Event(), asyncio.Event()

    async def save_late(states: Sequence[SessionState]) -> Any:
        nonlocal saved
        saved += 1
        if saved == 2:
            # The one before the answer leaves.
            late.set()
            await may_go_on.wait()
        return await save(states)

    monkeypatch.setattr(system.two.store, "save", save_late)
    given_up = asyncio.create_task(alice.connect(system.two))
    await late.wait()
    alice.connection_id += 1
    assert (await alice.poll(system.one, advice=HURRY))[0] == [1]
    may_go_on.set()
    turn = await given_up
    assert (turn.events, len(turn.replaced)) == ([], 1)
    assert (await record_of(system, alice)).home == system.one.name
    system.one.sessions.connection_broke(alice.connection_id)
    alice.connection_id += 1
    assert (await alice.poll(system.one))[0] == [1]


async def test_a_connect_whose_claim_was_refused_confirms_nothing(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited meanwhile: its client may have given it up, and lack what was sent since."""
    alice = await Client().begin(system.one)
    assert (await alice.poll(system.two))[0] == []
    await system.publish(1)
    take_over, refused = system.one.store.take_over, 0

    async def refuse_once(state: SessionState, **more: Any) -> Any:
        nonlocal refused
        refused += 1
        if refused == 1:
            # The client gives the connect up, and is answered by its home; the answer gets lost.
            assert (await alice.poll(system.two))[0] == [1]
        return await take_over(state, **more)

    monkeypatch.setattr(system.one.store, "take_over", refuse_once)
    turn = await alice.connect(system.one)
    assert (refused, turn.held, turn.events) == (2, None, [])
    assert (await record_of(system, alice)).home == system.one.name
    alice.connection_id += 1
    assert (await alice.poll(system.one, advice=HURRY))[0] == [1]


# -- claims of the home itself -----------------------------------------------------------------------------------------


async def claim_at_home(system: Installation) -> Client:
    """A session whose next connect its home claims from itself; other sessions have other addresses."""
    alice = await Client(address="192.0.2.9").begin(system.one)
    await Client(address="192.0.2.7").begin(system.one)
    await system.settle()
    system.one.registry.residents[alice.client_id].ends_at_ms = 0
    return alice


async def test_a_save_that_is_refused_during_the_claim_of_the_home_does_not_drop_the_session(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The take-over has raised the cycle, and its answer is on its way."""
    alice = await claim_at_home(system)
    resident = system.one.registry.residents[alice.client_id]

    async def save() -> None:
        system.one.registry.mark(resident)
        await system.one.sessions.sync.save_marked()

    saving = Meanwhile(system.one.store, "take_over", save, monkeypatch, after=True)
    assert (await alice.poll(system.one, advice=HURRY))[1]["successful"]
    assert saving.has_happened
    assert system.one.registry.has(resident)
    assert system.one.registry._of_addresses["192.0.2.9"] == 1


async def test_a_session_that_is_let_go_during_the_claim_of_its_home_comes_back_once(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await claim_at_home(system)
    resident = system.one.registry.residents[alice.client_id]

    async def release() -> None:
        system.one.sessions.endings.release(resident)

    Meanwhile(system.one.store, "take_over", release, monkeypatch, after=True)
    assert (await alice.poll(system.one, advice=HURRY))[1]["successful"]
    assert not system.one.registry.has(resident)
    assert system.one.registry._of_addresses["192.0.2.9"] == 1
    await system.publish(1)
    assert await two_polls(system.one, alice) == [1]


async def test_a_session_that_ends_during_the_claim_of_its_home_is_answered_so(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await claim_at_home(system)

    async def end() -> None:
        system.one.sessions.endings.end(alice.client_id)

    ending = Meanwhile(system.one.store, "take_over", end, monkeypatch, after=True)
    [reply] = await Poll(cometd_http(system.one.server), alice.connecting()).messages()
    assert ending.has_happened
    assert (reply["id"], reply["advice"]["reconnect"]) == ("8", "none")
    assert alice.client_id not in system.one.registry.residents


# -- sessions that roam ------------------------------------------------------------------------------------------------


async def test_a_session_that_moves_again_soon_needs_no_flush(system: Installation) -> None:
    alice = await Client().begin(system.one)
    assert (await alice.poll(system.two))[0] == []
    asked = [node.count("flushes_total", outcome="asked") for node in system.nodes.values()]
    system.loses_notices = True
    for number, node in enumerate((system.one, system.two, system.one)):
        await system.publish(number)
        assert (await alice.poll(node))[0] == [number]
        assert (await record_of(system, alice)).is_exact
    assert [node.count("flushes_total", outcome="asked") for node in system.nodes.values()] == asked


async def test_a_session_that_stays_roams_no_longer(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await alice.poll(system.two)
    resident = system.two.registry.residents[alice.client_id]
    for is_roaming in (True, True, False):
        await alice.poll(system.two, advice=HURRY)
        await system.two.background.finish()
        assert resident.is_roaming is is_roaming
    assert not (await record_of(system, alice)).is_exact
    before = len(system.two.client.exchanges)
    await alice.poll(system.two, advice=HURRY)
    assert len(system.two.client.exchanges) == before


async def test_a_session_roams_on_where_the_last_save_said_so(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what the store has would count as exact, while answers leave that it does not know of."""
    alice = await Client().begin(system.one)
    await alice.poll(system.two)
    resident, save = system.two.registry.residents[alice.client_id], system.two.store.save
    late, may_go_on = asyncio.Event(), asyncio.Event()

    async def save_late(states: Sequence[SessionState]) -> Any:
        saved = await save(states)
        if not states[0].is_exact:
            late.set()
            await may_go_on.wait()
        return saved

    monkeypatch.setattr(system.two.store, "save", save_late)
    for _ in range(3):
        await alice.poll(system.two, advice=HURRY)
    await late.wait()
    await system.two.sessions.sync.save([resident])
    may_go_on.set()
    await system.two.background.finish()
    assert (resident.is_roaming, (await record_of(system, alice)).is_exact) == (True, True)


async def test_a_session_that_moves_rarely_does_not_roam(settled: Installation) -> None:
    alice = await Client().begin(settled.one)
    await alice.poll(settled.two)
    assert not settled.two.registry.residents[alice.client_id].is_roaming
    assert not (await record_of(settled, alice)).is_exact


async def test_a_session_that_moves_to_a_websocket_does_not_roam(system: Installation) -> None:
    """What is pushed is not saved first: the store must not count as exact."""
    page = await SocketPage.open(system.one, ack=False)
    elsewhere = await page.move(system.two)
    assert not elsewhere.resident.is_roaming
    assert not (await record_of(system, page.alice)).is_exact
    await system.publish(1)
    assert elsewhere.events() == [1]


async def test_a_session_that_roams_stops_with_its_first_connect_over_a_websocket(system: Installation) -> None:
    alice = await Client().begin(system.one)
    assert (await alice.poll(system.two))[0] == []
    assert system.two.registry.residents[alice.client_id].is_roaming
    assert (await record_of(system, alice)).is_exact
    page = SocketPage(system.two, alice)
    page.connect("c1")
    await page.holds("c1")
    assert not page.resident.is_roaming
    assert not (await record_of(system, alice)).is_exact
    await system.publish(1)
    assert page.events() == [1]


async def test_the_answer_to_a_connect_that_waited_is_saved_before_it_leaves_where_the_session_roams(
    system: Installation,
) -> None:
    alice = await Client().begin(system.one)
    await alice.poll(system.two)
    turn = await alice.connect(system.two)
    assert turn.held is not None
    await system.publish(1)
    assert (await alice.finish(system.two, turn))[0] == [1]
    record = await record_of(system, alice)
    assert record.is_exact
    assert record.cursor.sent > record.cursor.confirmed


async def test_an_answer_that_the_store_does_not_know_of_does_not_leave_where_the_session_roams(
    system: Installation,
) -> None:
    alice = await Client().begin(system.one)
    await alice.poll(system.two)
    turn = await alice.connect(system.two)
    system.two.client.cut.append("away")
    await system.publish(1)
    await turn.line.answered.wait()
    assert (turn.line.is_replaced, turn.line.events) == (True, [])
    system.two.client.cut.clear()
    assert (await alice.poll(system.two))[0] == [1]


async def test_an_answer_at_once_that_could_not_be_saved_comes_again(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    await alice.poll(system.two)
    await system.publish(1)
    save, saved = system.two.store.save, 0

    async def fail_once(states: Sequence[SessionState]) -> Any:
        nonlocal saved
        saved += 1
        if saved == 2:
            raise StoreUnavailable("away")
        return await save(states)

    monkeypatch.setattr(system.two.store, "save", fail_once)
    turn = await alice.connect(system.two)
    assert (turn.events, len(turn.replaced)) == ([], 1)
    assert (await alice.poll(system.two))[0] == [1]


# -- a node that goes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ack", [False, True])
async def test_what_a_node_that_goes_leaves_is_exact_and_needs_no_flush(settled: Installation, *, ack: bool) -> None:
    alice = await Client().begin(settled.one, ack=ack)
    await settled.publish(1)
    events, reply = await alice.poll(settled.one, **({"ext": {"ack": 1}} if ack else {}))
    assert events == [1]
    await settled.one.sessions.leave()
    assert (settled.one.registry.residents, await settled.registered()) == ({}, [])
    assert not await settled.one.store.is_alive(settled.one.name)
    record = await record_of(settled, alice)
    assert (record.home, record.is_exact) == (settled.one.name, True)
    settled.loses_notices = True
    await settled.publish(2)
    events, _ = await alice.poll(settled.two, **({"ext": reply["ext"]} if ack else {}))
    assert events == [2]
    assert settled.two.count("flushes_total", outcome="asked") == 0


async def test_a_node_that_goes_answers_who_claims_its_sessions_when_they_are_saved(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one)
    await system.settle()
    await system.publish(1)
    assert (await alice.poll(system.one))[0] == [1]
    save = Door(system.one.store, "save", monkeypatch)
    leaving = asyncio.create_task(system.one.sessions.leave())
    await save.began.wait()
    polls = asyncio.create_task(two_polls(system.two, alice))
    await eventually(lambda: system.two.count("flushes_total", outcome="asked") == 1)
    await turns()
    assert system.two.sessions.claims.is_flushing(alice.client_id)
    save.may_go_on.set()
    await leaving
    assert await polls == [], "the client has the event, and the store knows"


async def test_what_may_not_have_arrived_when_a_node_goes_is_sent_again(settled: Installation) -> None:
    page = await SocketPage.open(settled.one, ack=False)
    await settled.publish(1)
    assert page.events() == [1]
    page.frames.go()
    await settled.one.sessions.leave()
    assert (await page.alice.poll(settled.two))[0] == [1]


async def test_a_former_home_gets_no_events_of_the_user_any_more(settled: Installation) -> None:
    """Its last save, which registers the user there, ends before that."""
    alice = await Client().begin(settled.one)
    await alice.poll(settled.two)
    await settled.settle()
    assert await settled.registered() == [settled.two.name]
