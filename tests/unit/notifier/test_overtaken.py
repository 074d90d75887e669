"""A connect that comes late, from a page that is gone, takes the session from the page that is there: it comes back."""

import asyncio
from typing import Any, cast

import orjson
import pytest
from starlette.websockets import WebSocket

from calltag.core.bayeux.session import Session
from calltag.core.wire.messages import NoticeKind, SessionNotice
from calltag.notifier.cometd.websocket import Socket
from parts.eventually import eventually, turns
from parts.frames import Alices, Frames
from parts.hubs import Client, Installation

PATIENCE_MS = 1_000
RETRY = {"reconnect": "retry", "interval": 0, "timeout": 30_000}


class Page:
    """A client with a WebSocket to the first node."""

    def __init__(self, system: Installation, alice: Client) -> None:
        self.frames, self.alice = Frames(), alice
        self.socket = Socket(cast("WebSocket", self.frames), system.one.hub, Alices(), 30.0)
        self.serving = asyncio.create_task(self.socket.run())
        self.connect()

    def connect(self, **more: object) -> None:
        self.frames.come(self.alice.connecting(connectionType="websocket", **more))

    def told(self) -> list[dict[str, Any]]:
        return [message for frame in self.frames.outgoing for message in orjson.loads(frame)]

    async def leave(self) -> None:
        self.frames.go()
        await self.serving


async def waiting(system: Installation, *, ack: bool) -> Page:
    """A page whose connect is held."""
    page = Page(system, await Client().begin(system.one, ack=ack))
    await eventually(lambda: bool(page.socket.held))
    return page


async def overtake(system: Installation, page: Page) -> None:
    """The former page's connect comes to the other node, and nobody is there any more to be told anything."""
    turn = await page.alice.send(system.two, page.alice.connecting(connectionType="websocket"), streaming=True)
    assert turn.held is not None
    await system.settle()
    await eventually(lambda: not page.socket.held)
    system.two.connects.answers.abandon(turn.held)


async def let_pass(system: Installation, page: Page, ms: int) -> None:
    system.one.ahead_ms += ms
    page.socket.waker.set()
    await turns()


@pytest.mark.parametrize("ack", [True, False])
async def test_who_still_waits_is_asked_to_connect_again_and_misses_nothing(system: Installation, *, ack: bool) -> None:
    page = await waiting(system, ack=ack)
    await overtake(system, page)
    await system.publish(1)
    await let_pass(system, page, PATIENCE_MS // 2)
    assert page.told() == []
    await let_pass(system, page, PATIENCE_MS)
    [reply] = page.told()
    assert (reply["channel"], reply["id"], reply["advice"]) == ("/meta/connect", "8", RETRY)
    assert (reply["successful"], reply.get("error")) == ((True, None) if ack else (False, "408::connect_replaced"))
    # What has failed makes the client ask for an answer at once.
    page.connect(**({} if ack else {"advice": {"timeout": 0}}))
    await eventually(lambda: len(page.told()) == 3)
    assert [each["data"]["n"] for each in page.told() if "data" in each] == [1]
    await page.leave()


@pytest.mark.parametrize("ack", [True, False])
async def test_a_client_that_connects_again_by_itself_is_asked_nothing_more(system: Installation, *, ack: bool) -> None:
    page = await waiting(system, ack=ack)
    await overtake(system, page)
    page.connect(id="9")
    await eventually(lambda: bool(page.socket.held))
    [reply] = page.told()
    assert (reply["id"], reply["successful"], "ext" in reply) == ("8", True, False)
    await let_pass(system, page, 2 * PATIENCE_MS)
    assert len(page.told()) == 1
    await page.leave()


async def test_who_still_waits_while_the_node_goes_is_answered(system: Installation) -> None:
    page = await waiting(system, ack=True)
    await overtake(system, page)
    system.one.hub.drain()
    await page.serving
    [reply] = page.told()
    assert (reply["successful"], reply["advice"]["interval"], page.frames.closed) == (True, 2_000, 1001)


async def test_who_is_overtaken_while_events_are_read_is_asked_too(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await Client().begin(system.one, ack=True)

    async def overtaken(session: Session) -> None:
        moved = SessionNotice(kind=NoticeKind.MOVED, client_id=session.client_id, cycle=session.cycle + 1)
        await system.one.hub.heed(moved)

    with monkeypatch.context() as patched:
        patched.setattr(type(system.one.feeding), "catch_up", lambda _, session: overtaken(session))
        page = Page(system, alice)
        await eventually(lambda: bool(page.socket.overtaken))
    await let_pass(system, page, PATIENCE_MS)
    assert [each["successful"] for each in page.told()] == [True]
    await page.leave()


async def test_a_client_that_comes_back_while_another_is_asked_is_told_once(system: Installation) -> None:
    page = await waiting(system, ack=True)
    other = await Client().begin(system.one, ack=True)
    page.frames.come(other.connecting(connectionType="websocket"))
    await eventually(lambda: len(page.socket.held) == 2)
    for connect in list(page.socket.held.values()):
        moved = SessionNotice(kind=NoticeKind.MOVED, client_id=connect.session.client_id, cycle=99)
        await system.one.hub.heed(moved)
    await eventually(lambda: len(page.socket.overtaken) == 2)
    # The first answer takes its time on the way out.
    await page.socket.sending.acquire()
    await let_pass(system, page, PATIENCE_MS)
    assert list(page.socket.overtaken) == [other.client_id]
    page.frames.come(other.connecting(connectionType="websocket", id="9"))
    await eventually(lambda: not page.socket.overtaken)
    page.socket.sending.release()
    await eventually(lambda: len(page.told()) == 2)
    await turns()
    assert [(each["clientId"], each["id"]) for each in page.told()] == [
        (page.alice.client_id, "8"), (other.client_id, "8"),
    ]  # fmt: skip
    await page.leave()
