"""Deadlines are looked at when one passes, and a node without any rests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from calltag.notifier.session_manager import SessionManager
from parts.eventually import eventually
from parts.hubs import Client, Installation


@asynccontextmanager
async def ticking(sessions: SessionManager, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[int]]:
    """The ticks of a node, as they come while the context is open."""
    ticks: list[int] = []
    tick = SessionManager.tick

    def counted(of: SessionManager) -> None:
        ticks.append(of.registry.clock_ms())
        tick(of)

    monkeypatch.setattr(SessionManager, "tick", counted)
    task = asyncio.create_task(sessions.keep_ticking())
    try:
        yield ticks
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_connect_is_answered_in_time_though_the_node_had_nothing_to_wait_for(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = system.one
    async with ticking(node.sessions, monkeypatch) as ticks:
        await eventually(lambda: len(ticks) == 1)
        # It waits for a deadline by now.
        await asyncio.sleep(0.2)
        alice = Client()
        await alice.shake(node)
        await alice.poll(node)
        before = len(ticks)
        turn = await alice.connect(node, advice={"timeout": 200})
        async with asyncio.timeout(20):
            await turn.line.answered.wait()
        # Once or twice for the deadline, and not every 50 ms.
        assert before < len(ticks) <= before + 3


async def test_a_node_without_sessions_does_not_look(system: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ticking(system.one.sessions, monkeypatch) as ticks:
        await asyncio.sleep(0.4)
        assert len(ticks) == 1
