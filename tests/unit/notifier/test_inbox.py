"""What comes to a node's inbox, and may be of another version, or damaged."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import structlog
from structlog.testing import LogCapture

from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import BrokerError, BrokerInterrupted, BrokerRefused, BrokerUnavailable, NodeId
from calltag.core.contracts.operations import EVENT, NODE, NodeMessage, NoticeKind, SessionNotice
from calltag.core.domain.events import OperationRefused
from calltag.core.domain.ids import EventId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.identity.directory import demo_directory
from calltag.core.store.ports import StoreUnavailable
from calltag.core.telemetry import conditions
from calltag.core.telemetry.metrics import Metrics
from calltag.notifier.event_views import EventViews
from calltag.notifier.inbox import NodePost, NotifierInbox
from calltag.notifier.metrics import NotifierMetrics
from parts.eventually import eventually, turns
from parts.hubs import Client, Installation

PLACE = {"user": "alice", "event": 0, "position": 2**52, "previous": 0}


class Interruptible(MemoryBroker):
    """A broker whose inbox is interrupted, and away until it is up again."""

    def __init__(self, partitions: int) -> None:
        super().__init__(partitions)
        self.is_up, self.interrupted = True, asyncio.Event()

    @asynccontextmanager
    async def inbox(self, node: NodeId) -> AsyncIterator[Any]:  # noqa: ARG002 - the interface's
        if not self.is_up:
            raise BrokerUnavailable("away")
        yield self

    async def receive(self) -> bytes:
        await self.interrupted.wait()
        self.interrupted.clear()
        raise BrokerInterrupted("cut")


def inbox_message(place: dict[str, object], accepted_at_ms: int = 1) -> bytes:
    refused = OperationRefused(EventId("o1"), UserId("alice"), "Hold", None, StatusCode.INTERNAL, "no", accepted_at_ms)
    return b'{"v":1,"events":[%b],"places":[%b]}' % (EVENT.encode(refused), orjson.dumps(place))


async def heads(system: Installation, body: bytes) -> list[int]:
    """Where the feeds of the node are once it has read the message."""
    await Client().begin(system.one)
    NotifierInbox(system.one.server, EventViews("", demo_directory()), NotifierMetrics(Metrics())).handle(body)
    await system.settle()
    return [feed.head for feed in system.one.registry.feeds.values()]


async def test_an_event_moves_its_users_feed(system: Installation) -> None:
    assert await heads(system, inbox_message(PLACE)) == [2**52]


@pytest.mark.parametrize(
    "wrong", [{"event": -2}, {"event": 1}, {"position": -1}, {"position": 2**53}, {"previous": -1}]
)
async def test_a_place_that_is_none_moves_nothing(system: Installation, wrong: dict[str, object]) -> None:
    assert await heads(system, inbox_message(PLACE | wrong)) == [0]


async def test_a_time_that_no_clock_shows_stops_nothing(system: Installation) -> None:
    assert await heads(system, inbox_message(PLACE, 10**400)) == [2**52]


@pytest.mark.parametrize("kind", [BrokerUnavailable, BrokerRefused, BrokerInterrupted])
async def test_a_notice_that_the_bus_does_not_take_is_left_out(
    monkeypatch: pytest.MonkeyPatch, kind: type[BrokerError]
) -> None:
    async def send(*_: object) -> bool:
        raise kind("no")

    broker, written = MemoryBroker(1), LogCapture()
    monkeypatch.setattr(type(broker), "send", send)
    monkeypatch.setattr(conditions, "log", structlog.wrap_logger(None, processors=[written]))
    assert not await NodePost(broker).send_notice(NodeId("n2"), SessionNotice(kind=NoticeKind.ENDED, client_id="c1"))
    assert written.entries == [{"event": "notice_not_sent", "node": "n2", "reason": "no", "log_level": "info"}]


async def test_the_stream_of_a_user_is_read_whose_events_were_left_out(system: Installation) -> None:
    alice = await Client().begin(system.one)
    await system.publish(1, by_broker=False)
    await system.publish(2, user="bob", by_broker=False)
    await system.one.store.register([UserId("bob")])
    body = NODE.encode(NodeMessage(stale_users=(UserId("alice"), UserId("bob"))))
    NotifierInbox(system.one.server, EventViews("", demo_directory()), NotifierMetrics(Metrics())).handle(body)
    await system.settle()
    assert (await alice.poll(system.one))[0] == [1]
    assert await system.registered("bob") == []


async def test_notices_of_one_session_are_handled_in_order_and_hold_up_no_other(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, handled = asyncio.Event(), list[str]()

    async def handle_notice(_: object, notice: SessionNotice) -> None:
        if notice.client_id == "slow":
            await may_go_on.wait()
        handled.append(f"{notice.client_id} {notice.kind}")

    monkeypatch.setattr(type(system.one.server), "handle_notice", handle_notice)
    inbox = NotifierInbox(system.one.server, EventViews("", demo_directory()), NotifierMetrics(Metrics()))
    of_sessions = [("slow", NoticeKind.FLUSH), ("slow", NoticeKind.ENDED), ("quick", NoticeKind.CHANGED)]
    notices = [SessionNotice(kind=kind, client_id=client_id) for client_id, kind in of_sessions]
    inbox.handle(NODE.encode(NodeMessage(notices=tuple(notices))))
    await eventually(lambda: handled == ["quick changed"])
    may_go_on.set()
    await eventually(lambda: handled == ["quick changed", "slow flush", "slow ended"])
    await eventually(lambda: not inbox._notices)


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ValueError("no")])
async def test_a_notice_that_cannot_be_handled_holds_up_no_later_one(
    system: Installation, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    handled: list[str] = []

    async def handle_notice(_: object, notice: SessionNotice) -> None:
        handled.append(notice.kind)
        raise error

    monkeypatch.setattr(type(system.one.server), "handle_notice", handle_notice)
    inbox = NotifierInbox(system.one.server, EventViews("", demo_directory()), NotifierMetrics(Metrics()))
    for kind in (NoticeKind.CHANGED, NoticeKind.FLUSH):
        inbox.handle(NODE.encode(NodeMessage(notices=(SessionNotice(kind=kind, client_id="c1"),))))
    await eventually(lambda: handled == ["changed", "flush"])


async def test_a_home_that_says_that_it_has_saved_is_heard_at_once(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a claim waits for is not behind what came before for the same session."""
    heard: list[SessionNotice] = []
    monkeypatch.setattr(type(system.one.sessions.claims), "flushed", lambda _, notice: heard.append(notice))
    inbox = NotifierInbox(system.one.server, EventViews("", demo_directory()), NotifierMetrics(Metrics()))
    async with system.one.sessions.turn("c1"):
        flush, flushed = (SessionNotice(kind=kind, client_id="c1") for kind in (NoticeKind.FLUSH, NoticeKind.FLUSHED))
        inbox.handle(NODE.encode(NodeMessage(notices=(flush, flushed))))
        assert heard == [flushed]
    await eventually(lambda: not inbox._notices)


async def test_the_lease_is_renewed_while_the_inbox_receives_and_no_longer(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other nodes have to be able to ask for a session, or to wait until the lease lapses."""
    broker, lease, renewals = Interruptible(1), system.one.lease, 0
    renew_lease = system.one.store.renew_lease

    async def renew(lease_ms: int) -> None:
        nonlocal renewals
        await renew_lease(lease_ms)
        renewals += 1

    monkeypatch.setattr(system.one.store, "renew_lease", renew)
    await system.one.lapse()
    lease.lease_ms = 100
    keeping = asyncio.create_task(lease.keep())
    await turns()
    assert (renewals, lease.is_valid) == (0, False)
    inbox = NotifierInbox(system.one.server, EventViews("", demo_directory()), NotifierMetrics(Metrics()))
    receiving = asyncio.create_task(inbox.run(broker, system.one.name))
    await eventually(lambda: renewals > 2 and lease.is_valid)
    broker.is_up = False
    broker.interrupted.set()
    await eventually(lambda: not lease._receives)
    so_far = renewals
    await eventually(lambda: not lease.is_valid)
    assert renewals == so_far
    broker.is_up = True
    await eventually(lambda: lease.is_valid)
    for task in (keeping, receiving):
        task.cancel()
