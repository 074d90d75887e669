"""The state of the services: each client knows it, whenever its session began and whatever node it is on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from calltag.core.broker.memory import MemoryBroker
from calltag.notifier import inbox
from calltag.notifier.event_views import SERVICES_CHANNEL, services_event
from parts.eventually import turns
from parts.hubs import Client, Installation, Node


class Broker(MemoryBroker):
    """A broker that is connected or not, as the test says."""

    is_up = True

    def connected(self) -> bool:
        return self.is_up


@asynccontextmanager
async def watched(broker: Broker, node: Node, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The node looks at the broker with each turn of the loop."""
    monkeypatch.setattr(inbox, "_WATCH_S", 0.0)
    watching = asyncio.create_task(inbox.publish_services(broker, node.server))
    yield
    watching.cancel()


def tell(node: Node, *, active: bool) -> None:
    node.dispatcher.publish_services(services_event(available=active), active=active)


async def subscriber(node: Node, user: str = "alice") -> Client:
    """A session that wants to know the state of the services, after its first connect."""
    client = Client(user)
    await client.shake(node)
    await client.subscribe(node, SERVICES_CHANNEL)
    assert states((await client.connect(node)).events) == []
    return client


def states(events: Sequence[bytes]) -> list[str]:
    messages: list[dict[str, Any]] = [orjson.loads(event) for event in events]
    return [service["state"] for message in messages for service in message["data"]["services"]]


async def told(client: Client, node: Node) -> list[str]:
    """What a connect that is not held brings."""
    turn = await client.connect(node, advice={"timeout": 0})
    await node.background.finish()
    return states(turn.events)


async def test_a_session_that_begins_while_the_services_are_away_is_told_so(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(1)
    async with watched(broker, system.one, monkeypatch):
        broker.is_up = False
        await turns()
        alice = await subscriber(system.one)
        await turns()
        assert await told(alice, system.one) == ["Inactive"]
        broker.is_up = True
        await turns()
        assert await told(alice, system.one) == ["Active"]


async def test_two_outages_that_look_like_one_are_told_to_a_session_that_began_between(
    system: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a notifier starts before its connection stands, and the broker stops soon afterwards."""
    tell(system.one, active=False)
    alice = await subscriber(system.one)
    tell(system.one, active=False)
    assert await told(alice, system.one) == ["Inactive"]


async def test_the_same_state_is_told_once(system: Installation) -> None:
    alice = await subscriber(system.one)
    for active in (True, False, False):
        tell(system.one, active=active)
    assert await told(alice, system.one) == ["Inactive"]
    tell(system.one, active=False)
    assert await told(alice, system.one) == []


async def test_only_subscribers_are_told(system: Installation) -> None:
    bob = await Client("bob").begin(system.one)
    tell(system.one, active=False)
    assert await told(bob, system.one) == []
    await bob.subscribe(system.one, "/notifications/*")
    tell(system.one, active=False)
    assert await told(bob, system.one) == ["Inactive"]


async def test_a_session_that_moves_is_told_the_next_change_by_its_new_node(system: Installation) -> None:
    alice = await subscriber(system.one)
    for node in (system.one, system.two):
        tell(node, active=False)
    assert await told(alice, system.one) == ["Inactive"]
    assert await told(alice, system.two) == []
    tell(system.two, active=False)
    assert await told(alice, system.two) == [], "it was told by the other node"
    tell(system.two, active=True)
    assert await told(alice, system.two) == ["Active"]


@pytest.mark.parametrize("notice", ["arrives", "lost"])
async def test_what_another_node_told_meanwhile_counts(system: Installation, notice: str) -> None:
    system.loses_notices = notice == "lost"
    alice = await subscriber(system.one)
    if system.loses_notices:
        await system.one.lapse()
    assert await told(alice, system.two) == []
    await system.one.lease.renew()
    assert (alice.client_id in system.one.registry.residents) is system.loses_notices
    tell(system.one, active=False)
    await system.settle()
    tell(system.two, active=False)
    assert await told(alice, system.two) == ["Inactive"]
    tell(system.two, active=True)
    assert await told(alice, system.two) == ["Active"]
    assert await told(alice, system.one) == []
    tell(system.one, active=True)
    assert await told(alice, system.one) == []
