"""A client that connects once more on its WebSocket: its latest connect counts, and every one has its reply."""

import asyncio
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from starlette.websockets import WebSocket

from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.extensions.activity import Activity
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import digest_of
from calltag.notifier.cometd.answers import HeldConnect
from calltag.notifier.cometd.connects import Connects, Replaced
from calltag.notifier.cometd.websocket import Socket
from parts.eventually import eventually, turns
from parts.frames import Alices, Frames
from parts.hubs import KEYS, Client, Installation

RETRY = {"reconnect": "retry", "interval": 0, "timeout": 30_000}


class Page:
    """A client with a WebSocket to the first node, whose connect "c1" is held."""

    def __init__(self, system: Installation, alice: Client) -> None:
        self.system, self.frames, self.alice = system, Frames(), alice
        self.socket = Socket(cast("WebSocket", self.frames), system.one.hub, Alices(), 30.0)
        self.serving = asyncio.create_task(self.socket.run())

    @classmethod
    async def open(cls, system: Installation, *, ack: bool) -> "Page":
        page = cls(system, await Client().begin(system.one, ack=ack))
        page.connect("c1")
        await page.holds("c1")
        return page

    def connect(self, name: str, **more: object) -> None:
        self.frames.come(self.alice.connecting(connectionType="websocket", id=name, **more))

    async def holds(self, name: str) -> None:
        await eventually(lambda: [each.message["id"] for each in self.socket.held.values()] == [name])

    def told(self) -> list[dict[str, Any]]:
        return [message for frame in self.frames.outgoing for message in orjson.loads(frame)]

    def replies(self) -> list[tuple[str, bool, dict[str, Any] | None]]:
        """The replies to connects, with what they say of acknowledgment."""
        return [(each["id"], each["successful"], each.get("ext")) for each in self.told() if "data" not in each]

    def events(self) -> list[int]:
        return [each["data"]["n"] for each in self.told() if "data" in each]

    async def tell(self) -> None:
        """Whatever the socket has to do now and in the next seconds."""
        self.system.one.ahead_ms += 3_000
        self.socket.waker.set()
        await turns()

    async def leave(self) -> None:
        self.frames.go()
        await self.serving


@pytest.mark.parametrize("ack", [True, False])
async def test_the_older_connect_is_answered_at_once_and_once(system: Installation, *, ack: bool) -> None:
    page = await Page.open(system, ack=ack)
    page.connect("c2")
    await page.holds("c2")
    assert page.replies() == [("c1", True, None)]
    assert page.told()[0]["advice"] == RETRY
    page.connect("c3")
    await page.holds("c3")
    await page.tell()
    assert page.replies() == [("c1", True, None), ("c2", True, None)]
    await page.leave()


@pytest.mark.parametrize("ack", [True, False])
async def test_events_go_with_the_newer_connect_alone(system: Installation, *, ack: bool) -> None:
    page = await Page.open(system, ack=ack)
    await system.publish(1, by_bus=False)
    page.connect("c2")
    await eventually(lambda: bool(page.events()) and len(page.replies()) == (2 if ack else 1))
    assert page.events() == [1]
    if ack:
        # The older reply says nothing of the events.
        assert [each.get("id") for each in page.told()] == [None, "c1", "c2"]
        older, newer = page.replies()
        assert (older, newer[1]) == (("c1", True, None), True)
        batch = (newer[2] or {})["ack"]
        page.connect("c3", ext={"ack": batch})
        await page.holds("c3")
        await system.publish(2)
        await eventually(lambda: len(page.replies()) == 3)
    assert page.events() == ([1, 2] if ack else [1])
    await page.leave()


async def test_the_older_connect_is_answered_where_the_newer_one_is_not_held(system: Installation) -> None:
    page = await Page.open(system, ack=False)
    page.connect("c2", advice={"timeout": 0})
    await eventually(lambda: len(page.replies()) == 2)
    await page.tell()
    assert page.replies() == [("c1", True, None), ("c2", True, None)]
    await page.leave()


async def test_the_older_connect_is_answered_once_while_others_are_told(system: Installation) -> None:
    """The socket is about to look at all its connects when a newer one comes."""
    page = await Page.open(system, ack=True)
    other = await Client().begin(system.one, ack=True)
    page.frames.come(other.connecting(connectionType="websocket", id="o1"))
    await eventually(lambda: len(page.socket.held) == 2)
    await page.socket.sending.acquire()
    await system.publish(1)
    await eventually(lambda: len(page.socket.held) == 1)
    [left] = page.socket.held.values()
    assert left.message["id"] == "o1"
    page.frames.come(other.connecting(connectionType="websocket", id="o2", advice={"timeout": 0}))
    await eventually(lambda: not page.socket.held)
    page.socket.sending.release()
    await eventually(lambda: len(page.replies()) == 3)
    await page.tell()
    assert sorted(name for name, _, _ in page.replies()) == ["c1", "o1", "o2"]
    await page.leave()


async def test_the_older_connect_hears_of_the_end_that_the_newer_one_meets(system: Installation) -> None:
    page = await Page.open(system, ack=True)
    engine = system.one.connects.engine
    system.one.connects.engine = replace(engine, extensions=(*engine.extensions, Activity(20_000, False)))
    key = KEYS.cometd_session(UserId("alice"), digest_of(page.alice.client_id))
    await system.client.connection.hincrby(key, "active", -21_000)
    page.connect("c2")
    await eventually(lambda: len(page.told()) == 3)
    assert [each.get("id") for each in page.told()] == [None, "c1", "c2"]
    assert {each["advice"]["reconnect"] for each in page.told()} == {"none"}
    await page.leave()


async def test_a_session_that_the_sweeper_forgot_here_goes_on(system: Installation) -> None:
    """To its client, the sweeper says nothing of an end: the store decides, and there the session lives."""
    page = await Page.open(system, ack=True)
    [older] = page.socket.held.values()
    older.session.ending = Ending.EXPIRED
    assert system.one.connects.answers.superseded(older)[1]["advice"] == RETRY
    await page.leave()


async def test_of_connects_that_others_took_over_all_are_answered(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await Page.open(system, ack=True)
    connect = Connects.connect

    async def replaced(self: Connects, *given: Any, **more: Any) -> object:
        outcome = await connect(self, *given, **more)
        assert isinstance(outcome, HeldConnect)
        raise Replaced(outcome)

    with monkeypatch.context() as patched:
        patched.setattr(Connects, "connect", replaced)
        page.connect("c2")
        await eventually(lambda: [each[0] for each in page.replies()] == ["c1"])
        page.connect("c3")
        await eventually(lambda: [each[0] for each in page.replies()] == ["c1", "c2"])
    await page.tell()
    assert page.replies() == [("c1", True, None), ("c2", True, None), ("c3", True, None)]
    await page.leave()


async def test_a_node_that_goes_asks_to_wait_with_both_replies(system: Installation) -> None:
    page = await Page.open(system, ack=True)
    await page.socket.handling.acquire()
    page.connect("c2")
    await eventually(page.frames.incoming.empty)
    await asyncio.sleep(0)
    system.one.hub.drain()
    page.socket.handling.release()
    await page.serving
    assert page.replies() == [("c1", True, None), ("c2", True, {"ack": page.told()[1]["ext"]["ack"]})]
    assert [each["advice"]["interval"] for each in page.told()] == [2_000, 2_000]
    assert page.frames.closed == 1001
