"""A client that connects once more on its WebSocket: its latest connect counts, and every one has its reply."""

from typing import Any

import pytest

from calltag.core.bayeux.extensions import Activity
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import digest_of
from calltag.notifier.authentication import CallerClaim
from calltag.notifier.session_manager import Replaced, SessionManager
from calltag.notifier.session_registry import ConnectRequest
from parts.eventually import eventually
from parts.frames import SocketPage
from parts.hubs import KEYS, Client, Installation
from parts.store_commands import library

RETRY = {"reconnect": "retry", "interval": 0, "timeout": 30_000}


def replies(page: SocketPage) -> list[tuple[str, bool, dict[str, Any] | None]]:
    """The replies to connects, with what they say of acknowledgment."""
    return [(each["id"], each["successful"], each.get("ext")) for each in page.said() if "id" in each]


@pytest.mark.parametrize("ack", [True, False])
async def test_the_older_connect_is_answered_at_once_and_once(system: Installation, *, ack: bool) -> None:
    page = await SocketPage.open(system.one, ack=ack)
    page.connect("c2")
    await page.holds("c2")
    assert replies(page) == [("c1", True, None)]
    assert page.said()[0]["advice"] == RETRY
    page.connect("c3")
    await page.holds("c3")
    await page.let_pass(3_000)
    assert replies(page) == [("c1", True, None), ("c2", True, None)]


@pytest.mark.parametrize("ack", [True, False])
async def test_events_go_with_the_newer_connect_alone(system: Installation, *, ack: bool) -> None:
    page = await SocketPage.open(system.one, ack=ack)
    await system.publish(1, by_broker=False)
    # Whether the session is over the store decides, and has the event.
    page.resident.ends_at_ms = 0
    page.connect("c2")
    await eventually(lambda: bool(page.events()) and len(page.replies()) == (2 if ack else 1))
    assert page.events() == [1]
    if ack:
        # The older reply says nothing of the events.
        assert [each.get("id") for each in page.said()] == [None, "c1", "c2"]
        older, newer = replies(page)
        assert (older, newer[1]) == (("c1", True, None), True)
        page.connect("c3", ext={"ack": (newer[2] or {})["ack"]})
        await page.holds("c3")
    await system.publish(2)
    assert page.events() == [1, 2]
    assert [name for name, _ in page.replies()] == (["c1", "c2", "c3"] if ack else ["c1"])


async def test_the_older_connect_is_answered_where_the_newer_one_is_not_suspended(system: Installation) -> None:
    page = await SocketPage.open(system.one, ack=False)
    page.connect("c2", advice={"timeout": 0})
    await page.is_answered("c2")
    await page.let_pass(3_000)
    assert replies(page) == [("c1", True, None), ("c2", True, None)]


async def test_the_sessions_of_one_websocket_have_their_replies_each_for_itself(system: Installation) -> None:
    page = await SocketPage.open(system.one, ack=True)
    other = SocketPage(system.one, await Client().begin(system.one, ack=True), sockets=page.sockets)
    other.frames = page.frames
    other.connect("o1")
    await other.holds("o1")
    await system.publish(1)
    assert sorted(name for name, _ in page.replies()) == ["c1", "o1"]
    other.connect("o2", advice={"timeout": 0})
    await eventually(lambda: len(page.replies()) == 3)
    await page.let_pass(3_000)
    assert sorted(name for name, _ in page.replies()) == ["c1", "o1", "o2"]
    assert {each["clientId"]: each["id"] for each in page.said() if each.get("id") in ("c1", "o1")} == {
        page.alice.client_id: "c1", other.alice.client_id: "o1",
    }  # fmt: skip


async def test_the_older_connect_hears_of_the_end_that_the_newer_one_meets(system: Installation) -> None:
    page = await SocketPage.open(system.one, ack=True)
    engine = system.one.sessions.engine
    activity = Activity(20_000)
    engine._on_connect.append(activity.connect)
    key = KEYS.cometd_session(UserId("alice"), digest_of(page.alice.client_id))
    await library(system.client).hincrby(key, "active", -21_000)
    page.resident.active_at_ms -= 21_000
    page.connect("c2")
    await eventually(lambda: page.frames.is_idle)
    await system.settle()
    assert [each.get("id") for each in page.said()] == ["c1", None, "c2"]
    assert {each["advice"]["reconnect"] for each in page.said()} == {"none"}


async def test_of_connects_that_others_took_over_all_are_answered(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await SocketPage.open(system.one, ack=True)

    async def replaced(sessions: SessionManager, request: ConnectRequest, _: CallerClaim) -> None:
        resident = sessions.registry.residents.get(request.client_id)
        if resident is not None:
            sessions.endings.release(resident)
        raise Replaced(request)

    # Memory alone does not tell whether the session is over.
    page.resident.ends_at_ms = 0
    with monkeypatch.context() as patched:
        patched.setattr(SessionManager, "connect", replaced)
        page.connect("c2", ext={"ack": 0})
        await eventually(lambda: [each[0] for each in page.replies()] == ["c1"])
        page.connect("c3", ext={"ack": 0})
        await eventually(lambda: [each[0] for each in page.replies()] == ["c1", "c2"])
    await page.let_pass(3_000)
    assert replies(page) == [("c1", True, None), ("c2", True, None), ("c3", True, None)]
