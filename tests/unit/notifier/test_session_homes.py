"""What a node may do with a session as its home, and how a session gets another home: a test for each rule of
`parts.session_home_model` that is the notifier's, rather than the store's.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.bayeux.session import UNSAVED_BATCHES
from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.store.client import RedisClient
from calltag.core.store.embedded import embedded_store
from calltag.core.store.sessions import SessionRecord, SessionState
from calltag.notifier.session_registry import Resident
from parts.eventually import eventually, turns
from parts.hubs import Client, Installation, Node

LEASE_MS = 60_000
HURRY = {"advice": {"timeout": 0}}


class Posted(Installation):
    """Notices are on their way for as long as the post is closed."""

    def __init__(self, client: RedisClient, *, roaming_ms: int, flush_timeout_s: float = 5.0) -> None:
        super().__init__(
            client, BayeuxLimits(), flush_timeout_s=flush_timeout_s, roaming_ms=roaming_ms, lease_ms=LEASE_MS
        )
        self.post_is_open = asyncio.Event()
        self.post_is_open.set()
        self._on_their_way: set[asyncio.Task[None]] = set()

    async def send_notice(self, node: NodeId, notice: SessionNotice) -> bool:
        if self.loses_notices:
            return False
        task = asyncio.create_task(self._carry(node, notice))
        self._on_their_way.add(task)
        task.add_done_callback(self._on_their_way.discard)
        return True

    async def _carry(self, node: NodeId, notice: SessionNotice) -> None:
        await self.post_is_open.wait()
        await super().send_notice(node, notice)

    async def record(self, client: Client) -> SessionRecord:
        """The session as it is stored."""
        record = await self.one.store.load(client.client_id)
        assert record is not None
        return record


@pytest.fixture
async def store() -> AsyncIterator[RedisClient]:
    async with embedded_store(None, deadline_s=20) as embedded:
        yield embedded.client


@pytest.fixture
async def nodes(store: RedisClient) -> AsyncIterator[Posted]:
    """Nodes whose sessions never roam."""
    installation = Posted(store, roaming_ms=0)
    await installation.begin()
    yield installation
    installation.post_is_open.set()
    await installation.settle()


@pytest.fixture
async def roaming(store: RedisClient) -> AsyncIterator[Posted]:
    """Nodes whose sessions roam when they move."""
    installation = Posted(store, roaming_ms=LEASE_MS)
    await installation.begin()
    yield installation
    await installation.settle()


def resident_of(node: Node, client: Client) -> Resident:
    return node.registry.residents[client.client_id]


def flush_of(client: Client, cycle: int, *, by: str = "") -> SessionNotice:
    return SessionNotice(kind=NoticeKind.FLUSH, client_id=client.client_id, cycle=cycle, node=NodeId(by))


async def lapse(node: Node) -> None:
    """The lease of a node lapses, and is renewed."""
    node.ahead_ms += LEASE_MS
    await node.lease.renew()


async def get_events(nodes: Installation, alice: Client, node: Node, *numbers: int) -> None:
    """The client gets events at a node, which does not save that."""
    await nodes.publish(*numbers)
    assert (await alice.poll(node, **HURRY))[0] == list(numbers)


# -- the lease --------------------------------------------------------------------------------------------------------


async def test_a_home_answers_nothing_while_its_lease_has_lapsed(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one)
    held = await alice.connect(nodes.one)
    nodes.one.ahead_ms += LEASE_MS
    await nodes.publish(1)
    await turns()
    assert not held.line.answered.is_set()
    await nodes.one.lease.renew()
    nodes.one.registry.mark(resident_of(nodes.one, alice))
    await nodes.one.sessions.sync.save_marked()
    assert (await alice.finish(nodes.one, held))[0] == [1]


async def test_a_copy_from_before_a_lapse_answers_nothing_until_it_is_verified(nodes: Posted) -> None:
    """Another node may be the home since."""
    alice = await Client().begin(nodes.one, ack=True)
    nodes.loses_notices = True
    assert (await alice.poll(nodes.two, ext={"ack": 1}, **HURRY))[1]["successful"]
    await lapse(nodes.one)
    assert (await nodes.record(alice)).home == "n2"
    assert nodes.one.sessions.at_home(alice.client_id) is None
    assert (await alice.poll(nodes.one, ext={"ack": 1}, **HURRY))[1]["successful"]
    assert (await nodes.record(alice)).home == "n1"


async def test_what_verifies_a_copy_refuses_who_saw_the_lapse(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one)
    seen = (await nodes.record(alice)).cycle
    await lapse(nodes.one)
    nodes.one.registry.mark(resident_of(nodes.one, alice))
    await nodes.one.sessions.sync.save_marked()
    assert (await nodes.record(alice)).cycle == seen + 1
    assert nodes.one.sessions.is_verified(resident_of(nodes.one, alice))
    nodes.one.registry.mark(resident_of(nodes.one, alice))
    await nodes.one.sessions.sync.save_marked()
    assert (await nodes.record(alice)).cycle == seen + 1, "once"


async def test_a_take_over_during_which_the_lease_lapsed_is_verified(
    nodes: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(nodes.one)
    take_over = nodes.two.store.take_over

    async def taking_long(state: SessionState, *, saved: int | None, has_moved: bool) -> object:
        taken = await take_over(state, saved=saved, has_moved=has_moved)
        await lapse(nodes.two)
        return taken

    monkeypatch.setattr(nodes.two.store, "take_over", taking_long)
    assert (await alice.poll(nodes.two))[1]["successful"]
    assert not nodes.two.sessions.is_verified(resident_of(nodes.two, alice))


async def test_a_save_during_which_the_lease_lapsed_verifies_nothing(
    nodes: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(nodes.one)
    save = nodes.one.store.save

    async def taking_long(states: list[SessionState]) -> object:
        saved = await save(states)
        await lapse(nodes.one)
        return saved

    monkeypatch.setattr(nodes.one.store, "save", taking_long)
    assert await nodes.one.sessions.sync.save([resident_of(nodes.one, alice)])
    assert not nodes.one.sessions.is_verified(resident_of(nodes.one, alice))


async def test_a_session_that_a_save_verifies_during_a_claim_goes_on(
    nodes: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The take-over fails, as the save has raised the cycle: the connect is answered here, and gets events."""
    alice = await Client().begin(nodes.one)
    take_over = nodes.one.store.take_over

    async def after_a_save(state: SessionState, *, saved: int | None, has_moved: bool) -> object:
        nodes.one.sessions.sync.mark_unverified()
        await nodes.one.sessions.sync.save_marked()
        return await take_over(state, saved=saved, has_moved=has_moved)

    await lapse(nodes.one)
    monkeypatch.setattr(nodes.one.store, "take_over", after_a_save)
    held = await alice.connect(nodes.one)
    await nodes.publish(1)
    assert (await alice.finish(nodes.one, held))[0] == [1]


# -- claims -----------------------------------------------------------------------------------------------------------


async def test_a_claim_waits_until_the_home_has_saved_the_session(nodes: Posted) -> None:
    """What the home alone knew is known then: no number is skipped, and nothing that was confirmed comes again."""
    alice = await Client().begin(nodes.one, ack=True)
    await get_events(nodes, alice, nodes.one, 1, 2)
    batch = resident_of(nodes.one, alice).session.batch
    nodes.post_is_open.clear()
    await nodes.publish(3)
    polling = asyncio.create_task(alice.poll(nodes.two, ext={"ack": batch}, **HURRY))
    await eventually(lambda: nodes.two.count("flushes_total", outcome="asked") == 1)
    await turns(100)
    assert (await nodes.record(alice)).home == "n1"
    assert nodes.one.sessions.at_home(alice.client_id) is not None, "it is the home until it is asked"
    nodes.post_is_open.set()
    events, reply = await polling
    assert (events, reply["ext"]["ack"]) == ([3], batch + 1)
    assert (await nodes.record(alice)).home == "n2"


async def test_a_flush_drops_the_copy_and_its_connect(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one)
    held = await alice.connect(nodes.one)
    cycle = resident_of(nodes.one, alice).session.cycle
    await nodes.one.server.handle_notice(flush_of(alice, cycle))
    assert alice.client_id not in nodes.one.registry.residents
    assert held.line.is_replaced


async def test_a_flush_saves_what_the_copy_knew(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one)
    await get_events(nodes, alice, nodes.one, 1)
    sent = resident_of(nodes.one, alice).session.sent
    await nodes.one.server.handle_notice(flush_of(alice, resident_of(nodes.one, alice).session.cycle, by="n2"))
    record = await nodes.record(alice)
    assert (record.cursor.sent, record.is_exact) == (sent, True)


async def test_a_flush_for_an_earlier_cycle_than_the_copy_takes_nothing_away(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one)
    cycle = resident_of(nodes.one, alice).session.cycle
    await nodes.one.server.handle_notice(flush_of(alice, cycle - 1))
    assert nodes.one.sessions.at_home(alice.client_id) is not None


async def test_a_flush_waits_for_a_take_over_that_is_under_way(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one)
    cycle = resident_of(nodes.one, alice).session.cycle
    async with nodes.one.sessions.turn(alice.client_id):
        heeding = asyncio.create_task(nodes.one.server.handle_notice(flush_of(alice, cycle)))
        await turns()
        assert alice.client_id in nodes.one.registry.residents
    await heeding
    assert alice.client_id not in nodes.one.registry.residents


async def test_an_answer_to_another_flush_is_ignored(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one)
    cycle = resident_of(nodes.one, alice).session.cycle
    nodes.post_is_open.clear()
    polling = asyncio.create_task(alice.poll(nodes.two))
    await eventually(lambda: nodes.two.sessions.claims.is_flushing(alice.client_id))
    for other in (cycle - 1, cycle + 1):
        late = SessionNotice(kind=NoticeKind.FLUSHED, client_id=alice.client_id, cycle=other)
        nodes.two.sessions.claims.flushed(late)
    await turns(100)
    assert (await nodes.record(alice)).home == "n1"
    nodes.post_is_open.set()
    assert (await polling)[1]["successful"]


async def test_a_claim_of_a_client_that_does_not_acknowledge_waits_for_the_lapse(store: RedisClient) -> None:
    nodes = Posted(store, roaming_ms=0, flush_timeout_s=0.001)
    await nodes.begin()
    nodes.post_is_open.clear()
    alice = await Client().begin(nodes.one)
    patient = asyncio.create_task(alice.poll(nodes.two))
    await eventually(lambda: nodes.two.count("flushes_total", outcome="asked") >= 2)
    assert (await nodes.record(alice)).home == "n1"
    bob = await Client(user="bob").begin(nodes.one, ack=True)
    assert (await bob.poll(nodes.two, ext={"ack": 1}, **HURRY))[1]["successful"]
    assert (await nodes.record(bob)).home == "n2", "one that acknowledges says itself what it has"
    await nodes.one.store.end_lease()
    assert (await patient)[1]["successful"]
    assert (await nodes.record(alice)).home == "n2"
    await nodes.settle()


async def test_numbers_that_the_home_may_have_given_are_skipped(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one, ack=True)
    await nodes.settle()
    batch = (await nodes.record(alice)).cursor.batch
    nodes.loses_notices = True
    _, reply = await alice.poll(nodes.two, ext={"ack": batch}, **HURRY)
    assert reply["ext"]["ack"] == batch + UNSAVED_BATCHES + 1


async def test_a_connect_that_waited_for_a_flush_confirms_nothing_and_brings_nothing(nodes: Posted) -> None:
    """The client may have given it up, and been answered elsewhere."""
    alice = await Client().begin(nodes.one)
    await get_events(nodes, alice, nodes.one, 1)
    confirmed = resident_of(nodes.one, alice).session.confirmed
    await nodes.publish(2)
    events, reply = await alice.poll(nodes.two)
    assert (events, reply["successful"]) == ([], True)
    cursor = (await nodes.record(alice)).cursor
    assert (cursor.confirmed, cursor.sent > confirmed) == (confirmed, True)
    assert (await alice.poll(nodes.two))[0] == [2]


async def test_what_a_client_lacks_comes_again_where_it_goes(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one)
    await nodes.publish(1)
    assert (await alice.poll(nodes.one))[0] == [1]
    alice.connection_id += 1
    assert (await alice.poll(nodes.two, **HURRY))[0] == []
    assert (await alice.poll(nodes.two))[0] == [1]


# -- saves ------------------------------------------------------------------------------------------------------------


async def test_a_connect_that_only_confirms_is_saved(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one)
    await get_events(nodes, alice, nodes.one, 1)
    await nodes.settle()
    before = (await nodes.record(alice)).cursor
    assert before.confirmed < before.sent
    assert (await alice.connect(nodes.one)).held is not None
    await nodes.settle()
    assert (await nodes.record(alice)).cursor.confirmed == before.sent


async def test_who_is_refused_a_save_drops_its_copy(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one, ack=True)
    nodes.loses_notices = True
    assert (await alice.poll(nodes.two, ext={"ack": 1}, **HURRY))[1]["successful"]
    assert alice.client_id in nodes.one.registry.residents
    nodes.one.registry.mark(resident_of(nodes.one, alice))
    await nodes.one.sessions.sync.save_marked()
    assert alice.client_id not in nodes.one.registry.residents
    assert (await nodes.record(alice)).home == "n2"


async def test_a_save_finds_the_events_of_which_no_notice_came(nodes: Posted) -> None:
    alice = await Client().begin(nodes.one)
    held = await alice.connect(nodes.one)
    await nodes.publish(1, by_broker=False)
    assert not held.line.answered.is_set()
    await nodes.settle()
    assert (await alice.finish(nodes.one, held))[0] == [1]


# -- sessions that roam -----------------------------------------------------------------------------------------------


async def roam(nodes: Posted, *, ack: bool) -> Client:
    """A client whose session has just come from one node to two."""
    alice = await Client().begin(nodes.one, ack=ack)
    assert (await alice.poll(nodes.two, **HURRY, **({"ext": {"ack": 1}} if ack else {})))[1]["successful"]
    await nodes.settle()
    assert resident_of(nodes.two, alice).is_roaming
    assert (await nodes.record(alice)).is_exact
    return alice


async def test_a_connect_of_a_session_that_roams_is_saved_when_it_comes(roaming: Posted) -> None:
    """So its node learns that it is the home no longer."""
    alice = await roam(roaming, ack=True)
    roaming.loses_notices = True
    batch = resident_of(roaming.two, alice).session.batch
    assert (await alice.poll(roaming.one, ext={"ack": batch}, **HURRY))[1]["successful"]
    assert (await roaming.record(alice)).home == "n1"
    assert alice.client_id in roaming.two.registry.residents
    assert (await alice.connect(roaming.two, ext={"ack": batch})).held is not None
    assert (await roaming.record(alice)).home == "n2"


@pytest.mark.parametrize("is_suspended", [True, False])
async def test_an_answer_of_a_session_that_roams_is_saved_before_it_leaves(roaming: Posted, is_suspended: bool) -> None:
    alice = await roam(roaming, ack=True)
    batch = resident_of(roaming.two, alice).session.batch
    if is_suspended:
        turn = await alice.connect(roaming.two, ext={"ack": batch})
        [position] = await roaming.publish(1)
    else:
        [position] = await roaming.publish(1)
        turn = await alice.connect(roaming.two, ext={"ack": batch})
    assert (await alice.finish(roaming.two, turn))[0] == [1]
    record = await roaming.record(alice)
    assert (record.cursor.sent, record.cursor.batch, record.is_exact) == (position, batch + 1, True)


async def test_an_answer_of_a_session_that_roams_and_is_elsewhere_does_not_leave(roaming: Posted) -> None:
    alice = await roam(roaming, ack=True)
    batch = resident_of(roaming.two, alice).session.batch
    held = await alice.connect(roaming.two, ext={"ack": batch})
    roaming.loses_notices = True
    await alice.poll(roaming.one, ext={"ack": batch}, **HURRY)
    await roaming.publish(1)
    await roaming.settle()
    assert (held.line.is_replaced, held.line.events) == (True, [])


@pytest.mark.parametrize("is_hurried", [True, False])
async def test_a_session_that_settles_is_answered_from_memory_when_the_store_knows(
    roaming: Posted, is_hurried: bool
) -> None:
    alice = await roam(roaming, ack=False)
    for number in range(4):
        turn = await alice.connect(roaming.two, **(HURRY if is_hurried else {}))
        await roaming.two.background.finish()
        assert resident_of(roaming.two, alice).is_roaming is (await roaming.record(alice)).is_exact
        await roaming.publish(number)
        await alice.finish(roaming.two, turn)
        await roaming.two.background.finish()
        assert resident_of(roaming.two, alice).is_roaming is (await roaming.record(alice)).is_exact
    assert not resident_of(roaming.two, alice).is_roaming
