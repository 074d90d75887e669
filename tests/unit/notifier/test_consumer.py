"""What comes to a node's inbox, and may be of another version, or damaged."""

import orjson
import pytest
import structlog
from structlog.testing import LogCapture

from calltag.core.bus.memory import MemoryBus
from calltag.core.bus.ports import BusError, BusInterrupted, BusRefused, BusUnavailable, NodeId
from calltag.core.domain.events import OperationRefused
from calltag.core.domain.ids import EventId, UserId
from calltag.core.domain.status import StatusCode
from calltag.core.identity.directory_file import demo_directory
from calltag.core.telemetry import conditions
from calltag.core.telemetry.metrics import Metrics
from calltag.core.wire.messages import EVENT, NoticeKind, SessionNotice
from calltag.notifier.consumer import EventConsumer, NodePost
from calltag.notifier.messages import Translator
from parts.hubs import Client, Installation

PLACE = {"user": "alice", "event": 0, "position": 2**52, "previous": 0}


def inbox_message(place: dict[str, object], accepted_at_ms: int = 1) -> bytes:
    refused = OperationRefused(EventId("o1"), UserId("alice"), "Hold", None, StatusCode.INTERNAL, "no", accepted_at_ms)
    return b'{"v":1,"events":[%b],"places":[%b]}' % (EVENT.encode(refused), orjson.dumps(place))


async def heads(system: Installation, body: bytes) -> list[int]:
    """Where the feeds of the node are once it has read the message."""
    await Client().begin(system.one)
    await EventConsumer(system.one.hub, Translator("", demo_directory()), Metrics()).handle(body)
    await system.settle()
    return [feed.head for feed in system.one.local.feeds.values()]


async def test_an_event_moves_its_users_feed(system: Installation) -> None:
    assert await heads(system, inbox_message(PLACE)) == [2**52]


@pytest.mark.parametrize(
    "wrong", [{"event": -2}, {"event": 1}, {"position": -1}, {"position": 2**53}, {"previous": -1}]
)
async def test_a_place_that_is_none_moves_nothing(system: Installation, wrong: dict[str, object]) -> None:
    assert await heads(system, inbox_message(PLACE | wrong)) == [0]


async def test_a_time_that_no_clock_shows_stops_nothing(system: Installation) -> None:
    assert await heads(system, inbox_message(PLACE, 10**400)) == [2**52]


@pytest.mark.parametrize("kind", [BusUnavailable, BusRefused, BusInterrupted])
async def test_a_notice_that_the_bus_does_not_take_is_left_out(
    monkeypatch: pytest.MonkeyPatch, kind: type[BusError]
) -> None:
    async def send(*_: object) -> bool:
        raise kind("no")

    bus, written = MemoryBus(1), LogCapture()
    monkeypatch.setattr(type(bus), "send", send)
    monkeypatch.setattr(conditions, "log", structlog.wrap_logger(None, processors=[written]))
    await NodePost(bus).tell(NodeId("n2"), SessionNotice(kind=NoticeKind.ENDED, client_id="c1"))
    assert written.entries == [{"event": "notice_not_sent", "node": "n2", "reason": "no", "log_level": "info"}]
