"""The installation that the tests of the notifier run on, and what several of them do with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.store.embedded import embedded_store
from parts.hubs import Client, Installation, Node

LIMITS = BayeuxLimits(max_sessions=5, max_sessions_per_user=3, max_subscriptions=2, max_queued_events=4)
LEASE_MS = 60_000
"""Longer than a test takes on a slow machine."""


@pytest.fixture
async def system() -> AsyncIterator[Installation]:
    async with embedded_store(None, deadline_s=20) as store:
        installation = Installation(store.client, LIMITS, lease_ms=LEASE_MS)
        await installation.begin()
        yield installation
        await installation.settle()


class Door:
    """Something of a node that waits until it may go on."""

    def __init__(self, owner: object, name: str, monkeypatch: pytest.MonkeyPatch, *, after: bool = False) -> None:
        self.began, self.may_go_on = asyncio.Event(), asyncio.Event()
        do = getattr(owner, name)

        async def late(*given: Any, **more: Any) -> Any:
            done = await do(*given, **more) if after else None
            self.began.set()
            await self.may_go_on.wait()
            return done if after else await do(*given, **more)

        monkeypatch.setattr(owner, name, late)


class Meanwhile:
    """Something happens once: before a node does something, or before it has the result."""

    def __init__(
        self,
        owner: object,
        name: str,
        happens: Callable[[], Awaitable[object]],
        monkeypatch: pytest.MonkeyPatch,
        *,
        after: bool = False,
    ) -> None:
        self.has_happened = False
        do = getattr(owner, name)

        async def late(*given: Any, **more: Any) -> Any:
            is_first, self.has_happened = not self.has_happened, True
            if is_first and not after:
                await happens()
            done = await do(*given, **more)
            if is_first and after:
                await happens()
            return done

        monkeypatch.setattr(owner, name, late)


async def two_polls(node: Node, client: Client) -> list[int]:
    """What the next two connects bring, whose client waits for a moment; the first may be answered empty."""
    return [each for _ in range(2) for each in (await client.poll(node, advice={"timeout": 50}))[0]]


async def begun_with_wish(node: Node, *, connects_only: bool) -> Client:
    """A session that gets its events with connects only, or with the reply to any message."""
    alice = Client()
    assert (await alice.shake(node, ext={"calltag": {"metaConnectDeliveryOnly": connects_only}}))["successful"]
    assert (await alice.subscribe(node))["successful"]
    assert (await alice.poll(node))[0] == []
    await node.background.finish()
    return alice
