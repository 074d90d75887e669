"""The users whose events come to a node: arrivals and departures do not cross, and nothing is lost meanwhile."""

import asyncio
from typing import Any, cast

from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.domain.ids import UserId
from calltag.core.store.sessions import SessionStore
from calltag.notifier.node_presence import Background, Registrations, boot_ms
from calltag.notifier.session_registry import SessionRegistry
from parts.eventually import turns
from parts.hubs import Client, Installation


def registrations(store: SessionStore, background: Background) -> Registrations:
    """Those of a node without sessions."""
    return Registrations(store, SessionRegistry(BayeuxLimits(), boot_ms), background)


class SlowStore(SessionStore):
    """A store that forgets a user when it is told to go on."""

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self.done: list[str] = []

    async def unregister(self, user: UserId) -> None:
        self.asked.set()
        await self.go_on.wait()
        self.done.append(f"{user} left")


async def test_who_arrives_waits_until_the_departure_is_over() -> None:
    store, background = SlowStore(), Background()
    users = registrations(store, background)

    async def arrive(user: str) -> None:
        async with users.arrival(user):
            store.done.append(f"{user} arrived")

    users.leave("alice")
    users.leave("alice")
    await store.asked.wait()
    arriving = asyncio.create_task(arrive("alice"))
    await arrive("bob")
    store.go_on.set()
    await arriving
    await background.finish()
    assert store.done == ["bob arrived", "alice left", "alice arrived"]


async def test_nobody_departs_while_another_session_arrives() -> None:
    store, background = SlowStore(), Background()
    store.go_on.set()
    users = registrations(store, background)
    async with users.arrival("alice"), users.arrival("alice"):
        users.leave("alice")
        await background.finish()
        assert store.done == []
    await background.finish()
    assert store.done == ["alice left"]


class Leaving(SessionStore):
    """A store that takes a while to forget a user."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def unregister(self, user: UserId) -> None:
        await turns()
        self.done.append(f"{user} left")


async def test_who_arrives_waits_for_a_departure_that_begins_when_another_ends() -> None:
    store, background = Leaving(), Background()
    users = registrations(store, background)

    async def arrive() -> None:
        async with users.arrival("alice"):
            await asyncio.sleep(0)
            store.done.append("alice arrived")

    users.leave("alice")
    [first] = users._leaving.values()
    # An event comes for her, by mistake, in just that moment.
    first.add_done_callback(lambda _: users.note_unrouted_event("alice"))
    await asyncio.create_task(arrive())
    await background.finish()
    assert store.done == ["alice left", "alice left", "alice arrived"]


def without_store() -> Registrations:
    """Those whose store is not asked for anything."""
    return registrations(cast("SessionStore", None), Background())


async def test_an_event_that_comes_before_the_session_is_noticed() -> None:
    users = without_store()
    async with users.arrival("alice"):
        users.note_unrouted_event("alice")
        assert users.has_unrouted_event("alice")
        assert not users.has_unrouted_event("bob")


async def test_what_was_overlooked_is_forgotten_when_the_last_session_has_arrived() -> None:
    users = without_store()
    async with users.arrival("alice"):
        async with users.arrival("alice"):
            users.note_unrouted_event("alice")
        assert users.has_unrouted_event("alice")
    assert not users.has_unrouted_event("alice")


async def test_an_event_for_a_user_who_does_not_arrive_ends_the_registration() -> None:
    store, background = SlowStore(), Background()
    store.go_on.set()
    users = registrations(store, background)
    users.note_unrouted_event("alice")
    await background.finish()
    assert store.done == ["alice left"]
    async with users.arrival("alice"):
        assert not users.has_unrouted_event("alice")


async def test_an_event_that_comes_while_its_session_arrives_is_read_afterwards(system: Installation) -> None:
    alice = Client()
    await alice.shake(system.one)
    await alice.subscribe(system.one)
    node, take_over = system.one, system.one.store.take_over

    async def take_over_late(*given: Any, **more: Any) -> Any:
        answer = await take_over(*given, **more)
        # It came over the broker when the node did not know the user yet.
        await system.publish(1, by_broker=False)
        node.sessions.registrations.note_unrouted_event("alice")
        return answer

    node.store.take_over = take_over_late  # type: ignore[method-assign]
    assert (await alice.poll(node))[0] == [1]
