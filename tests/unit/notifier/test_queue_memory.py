"""Memory that clients can make a node hold: bounded, and no event is lost by that."""

from collections.abc import AsyncIterator

import pytest

from calltag.core.bayeux.messages import BayeuxLimit, BayeuxLimits
from calltag.core.store.embedded import embedded_store
from parts.eventually import eventually
from parts.hubs import Client, Installation

MOST_BYTES = 500
EVENTS = list(range(20))


@pytest.fixture
async def small() -> AsyncIterator[Installation]:
    async with embedded_store(None, deadline_s=20) as store:
        installation = Installation(store.client, BayeuxLimits(max_queued_bytes_total=MOST_BYTES), lease_ms=60_000)
        await installation.begin()
        yield installation
        await installation.settle()


async def read(installation: Installation, client: Client) -> list[int]:
    got: list[int] = []
    while got[-1:] != EVENTS[-1:]:
        got += (await client.poll(installation.one))[0]
        await installation.one.background.finish()
    return got


async def test_queues_are_bounded_together_and_all_comes(small: Installation) -> None:
    clients = [await Client(user).begin(small.one) for user in ("alice", "bob", "carol")]
    for client in clients:
        await small.publish(*EVENTS, user=str(client.user))
    sessions = [each.session for each in small.one.registry.residents.values()]
    queued = sum(session.queued_bytes for session in sessions)
    assert small.one.sessions.queue_memory.used_bytes == queued
    assert queued <= MOST_BYTES + len(clients) * max(len(each.queue[0].body) for each in sessions)
    assert small.one.limits().keys() == {BayeuxLimit.QUEUED_BYTES_TOTAL}
    for client in clients:
        assert await read(small, client) == EVENTS
    assert small.one.sessions.queue_memory.used_bytes == 0


async def test_intervals_that_get_shorter_each_time_are_not_all_remembered(small: Installation) -> None:
    alice = Client()
    await alice.shake(small.one)
    for interval in range(300_000, 275_000, -250):
        await alice.connect(small.one, advice={"timeout": 0, "interval": interval})
    assert len(small.one.registry._deadlines) <= 28, "one a second at most"


async def test_what_waits_for_a_session_that_goes_is_not_counted(small: Installation) -> None:
    alice, bob = [await Client(user).begin(small.one) for user in ("alice", "bob")]
    for client in (alice, bob):
        await small.publish(1, 2, user=str(client.user))
    assert small.one.sessions.queue_memory.used_bytes > 0
    await alice.ask(small.one, "/meta/disconnect")
    assert (await bob.connect(small.two)).held is None
    await small.settle()
    await eventually(lambda: not small.one.registry.residents)
    assert small.one.sessions.queue_memory.used_bytes == 0
