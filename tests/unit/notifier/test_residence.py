"""A user's arrival at a node and departure from it do not cross."""

import asyncio

from calltag.core.domain.ids import UserId
from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.residence import Residence
from calltag.notifier.cometd.side_tasks import SideTasks
from parts.eventually import turns


class SlowStore(RedisCometdSessions):
    """A store that forgets a user when it is told to go on."""

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self.done: list[str] = []

    async def leave(self, user: UserId) -> None:
        self.asked.set()
        await self.go_on.wait()
        self.done.append(f"{user} left")


async def test_who_arrives_waits_until_the_departure_is_over() -> None:
    store, side_tasks = SlowStore(), SideTasks()
    residence = Residence(store, Local(), side_tasks)

    async def arrive(user: str) -> None:
        async with residence.arrival(user):
            store.done.append(f"{user} arrived")

    residence.leave("alice")
    residence.leave("alice")
    await store.asked.wait()
    arriving = asyncio.create_task(arrive("alice"))
    await arrive("bob")
    store.go_on.set()
    await arriving
    await side_tasks.finish()
    assert store.done == ["bob arrived", "alice left", "alice arrived"]


async def test_nobody_departs_while_another_session_arrives() -> None:
    store, side_tasks = SlowStore(), SideTasks()
    store.go_on.set()
    residence = Residence(store, Local(), side_tasks)
    async with residence.arrival("alice"), residence.arrival("alice"):
        residence.leave("alice")
        await side_tasks.finish()
        assert store.done == []
    await side_tasks.finish()
    assert store.done == ["alice left"]


class Leaving(RedisCometdSessions):
    """A store that takes a while to forget a user."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def leave(self, user: UserId) -> None:
        await turns()
        self.done.append(f"{user} left")


async def test_who_arrives_waits_for_a_departure_that_begins_when_another_ends() -> None:
    store, side_tasks = Leaving(), SideTasks()
    residence = Residence(store, Local(), side_tasks)

    async def arrive() -> None:
        async with residence.arrival("alice"):
            await asyncio.sleep(0)
            store.done.append("alice arrived")

    residence.leave("alice")
    [first] = residence._leaving.values()
    # An event comes for her, by mistake, in just that moment.
    first.add_done_callback(lambda _: residence.overlook("alice"))
    await asyncio.create_task(arrive())
    await side_tasks.finish()
    assert store.done == ["alice left", "alice left", "alice arrived"]
