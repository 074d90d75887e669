"""While the store is asked for a newer connect, the answer to the one that waits takes nothing from the queue.

The client of the one that waits may be gone: what was written to it would count as sent, and not be sent again.
"""

import asyncio
from typing import Any

import pytest

from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.sessions import Found, SessionStore
from parts.hubs import Client, Installation, Turn


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

    def close(self) -> None:
        self.asked.clear()
        self.is_open.clear()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate, read = Gate(), SessionStore.read

    async def gated(store: SessionStore, *args: Any, **more: Any) -> Found | None:
        await gate.pass_through()
        return await read(store, *args, **more)

    monkeypatch.setattr(SessionStore, "read", gated)
    return gate


async def suspended(system: Installation, alice: Client) -> Turn:
    """A connect that waits, in a session of which the store alone knows whether it is over."""
    turn = await alice.connect(system.one)
    assert turn.held is not None
    turn.held.resident.ends_at_ms = 0
    return turn


@pytest.mark.parametrize("ack", [True, False])
async def test_the_queue_is_for_the_newest_connect(system: Installation, gate: Gate, *, ack: bool) -> None:
    alice = await Client().begin(system.one, ack=ack)
    older = await suspended(system, alice)
    gate.close()
    newer = asyncio.create_task(alice.poll(system.one, ext={"ack": 0}, advice={"timeout": 0}))
    await gate.asked.wait()
    await system.publish(1)
    assert not older.line.answered.is_set()
    system.one.ahead_ms += 30_000
    system.one.sessions.tick()
    assert (older.line.answered.is_set(), older.line.events) == (True, [])
    gate.is_open.set()
    assert (await newer)[0] == [1]


async def test_the_connect_that_waits_gets_the_queue_where_the_newest_one_failed(
    system: Installation, gate: Gate
) -> None:
    alice = await Client().begin(system.one, ack=True)
    older = await suspended(system, alice)
    gate.close()
    gate.fails = True
    newer = asyncio.create_task(alice.poll(system.one, ext={"ack": 0}))
    await gate.asked.wait()
    await system.publish(1)
    gate.is_open.set()
    with pytest.raises(StoreUnavailable):
        await newer
    await older.line.answered.wait()
    assert (await alice.finish(system.one, older))[0] == [1]


async def test_the_connect_that_waits_is_answered_though_the_home_is_not_sure_of_the_session(
    system: Installation, gate: Gate
) -> None:
    """An event comes while a claim is under way that fails: nothing is forgotten when the store is back."""
    alice = await Client().begin(system.one)
    older = await alice.connect(system.one)
    await system.one.lapse()
    gate.close()
    gate.fails = True
    newer = asyncio.create_task(alice.connect(system.one))
    await gate.asked.wait()
    await system.publish(1)
    system.one.client.cut.append("away")
    gate.is_open.set()
    with pytest.raises(StoreUnavailable):
        await newer
    assert not older.line.answered.is_set()
    system.one.client.cut.clear()
    await system.one.lease.renew()
    await older.line.answered.wait()
    assert (await alice.finish(system.one, older))[0] == [1]
