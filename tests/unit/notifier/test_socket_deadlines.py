"""Deadlines of WebSockets: only connections with a deadline that has passed are looked at."""

import pytest

from calltag.notifier.websocket import SocketConnection
from parts.frames import SocketPage, opened, web_sockets
from parts.hubs import Installation

POLICY_VIOLATION = 1008
DEADLINE_S = 10.0


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[SocketConnection]:
    """The connections that were looked at."""
    looks: list[SocketConnection] = []
    tick = SocketConnection.tick

    def counted(connection: SocketConnection, now_ms: int) -> None:
        looks.append(connection)
        tick(connection, now_ms)

    monkeypatch.setattr(SocketConnection, "tick", counted)
    return looks


async def test_an_idle_connection_is_looked_at_once_in_its_deadline(
    system: Installation, looks: list[SocketConnection]
) -> None:
    page = await SocketPage.open(system.one, ack=False, sockets=web_sockets(system.one.server, deadline_s=DEADLINE_S))
    for _ in range(20):
        await page.let_pass(500)
    assert len(looks) == 1
    assert page.frames.is_open


async def test_a_connection_without_a_session_is_closed_at_its_deadline(system: Installation) -> None:
    sockets = web_sockets(system.one.server, deadline_s=DEADLINE_S)
    frames = opened(sockets)
    system.one.ahead_ms += 9_000
    sockets.tick()
    assert frames.is_open
    system.one.ahead_ms += 1_500
    sockets.tick()
    assert frames.code == POLICY_VIOLATION


async def test_the_deadline_of_a_connection_begins_when_its_session_has_ended(system: Installation) -> None:
    sockets = web_sockets(system.one.server, deadline_s=DEADLINE_S)
    page = await SocketPage.open(system.one, ack=False, sockets=sockets)
    system.one.ahead_ms += 5_000
    system.one.sessions.endings.end(page.alice.client_id)
    sockets.tick()
    system.one.ahead_ms += 9_000
    sockets.tick()
    assert page.frames.is_open
    system.one.ahead_ms += 1_500
    sockets.tick()
    assert page.frames.code == POLICY_VIOLATION
