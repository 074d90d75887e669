"""While the store is asked for a newer connect, the answer to the held one takes nothing from the queue.

The client of the held one may be gone: what was written to it would count as sent, and not be sent again.
"""

import asyncio
from typing import Any

import pytest

from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.session_records import Attached
from calltag.notifier.cometd.answers import HeldConnect
from parts.hubs import Client, Installation


class Gate:
    """Holds back what connects ask of the store, once it is closed."""

    def __init__(self) -> None:
        self.asked, self.is_open, self.fails = asyncio.Event(), asyncio.Event(), False
        self.is_open.set()

    async def pass_through(self) -> None:
        self.asked.set()
        await self.is_open.wait()
        if self.fails:
            raise StoreUnavailable("cut")

    async def closed(self) -> None:
        """Wait until somebody is at the closed gate."""
        self.asked.clear()
        self.is_open.clear()
        await self.asked.wait()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate, attach = Gate(), RedisCometdSessions.attach

    async def gated(store: RedisCometdSessions, *args: Any, **more: Any) -> Attached | None:
        await gate.pass_through()
        return await attach(store, *args, **more)

    monkeypatch.setattr(RedisCometdSessions, "attach", gated)
    return gate


async def held_with_an_event(system: Installation, alice: Client) -> HeldConnect:
    """A connect that is held, and whose transport was just woken by an event."""
    turn = await alice.connect(system.one)
    assert turn.held is not None
    await system.publish(1)
    assert system.one.connects.answers.is_due(turn.held)
    return turn.held


@pytest.mark.parametrize("ack", [True, False])
async def test_the_queue_is_for_the_newest_connect(system: Installation, gate: Gate, *, ack: bool) -> None:
    alice = await Client().begin(system.one, ack=ack)
    held = await held_with_an_event(system, alice)
    closed = asyncio.create_task(gate.closed())
    await asyncio.sleep(0)
    newer = asyncio.create_task(alice.poll(system.one, ext={"ack": 0}, advice={"timeout": 0}))
    await closed
    answer = system.one.connects.answers.finish(held)
    assert answer is not None
    assert answer[0] == []
    gate.is_open.set()
    assert (await newer)[0] == [1]


async def test_the_held_connect_gets_the_queue_where_the_newest_one_failed(system: Installation, gate: Gate) -> None:
    alice = await Client().begin(system.one, ack=True)
    held = await held_with_an_event(system, alice)
    closed = asyncio.create_task(gate.closed())
    await asyncio.sleep(0)
    gate.fails = True
    newer = asyncio.create_task(alice.poll(system.one, ext={"ack": 0}))
    await closed
    waiting = asyncio.create_task(system.one.connects.answers.hold(held))
    gate.is_open.set()
    with pytest.raises(StoreUnavailable):
        await newer
    answer = await waiting
    assert answer is not None
    assert len(answer[0]) == 1
