"""Pages on WebSockets, two nodes and one store, with everything at random by a seed: no event is lost.

Promised: each event comes to each page; none comes before those that were told earlier; none comes again unless the
page has said that it may lack some (a connect failed, or its link broke), or has a new subscription, for which the
stream is read again while more goes out, or a late connect took its session away from the node that serves it; no page
is told that it missed something.

What may happen: links break, and the node notices it at once, late, or never; pages close them, having read all or
less; the page reads nothing for a while; events come by the broker, or only into the stream; notices between the nodes
are refused, late, or vanish; a node saves sooner or later; leases lapse, and are renewed; the store's answers are
late; time passes. Besides, by mode: subscriptions are added; a connect of a page that is gone comes to a node after
the next page has connected; the store is away for some nodes, or carries out what it is asked and its answers are lost.

What may be lost: without acknowledgment, a connect that does not say that another failed confirms all that was sent
before. If it comes late, from a page that is gone, it confirms what is still under way to the new page, or was lost
with a link, and nobody can know. That much, and no more, is excused.

A seed that failed fails again, as a rule: little here depends on time, above all how long a node waits before it asks
a store again that was away. Settings by environment: CALLTAG_TEST_SIMULATION_SEEDS, how many seeds each mode has.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Final

import pytest

from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.store.embedded import embedded_store
from calltag.core.store.ports import StoreUnavailable
from parts.hubs import Node
from parts.simulated_pages import Fault, Link, Notices, Page, UnsteadyInstallation, turns

SEEDS: Final = int(os.environ.get("CALLTAG_TEST_SIMULATION_SEEDS", "12"))
STEPS: Final = 80
LONG_MS: Final = 100_000_000
"""Nothing is over by itself; the clocks of the nodes are put forward instead."""
OVERTAKEN_MS: Final = 2_000
"""After that time a page is told that another connect has overtaken its own."""
LEASE_MS: Final = 6_000
"""After that time the lease of a node is over."""
PAGE: Final = 4
"""How many events wait for a page, and are read at once. As many are told together often: that is where reading on ends
with nothing."""
LIMITS: Final = BayeuxLimits(
    max_queued_events=PAGE, max_sessions_per_user=1_000, timeout_ms=LONG_MS, max_interval_ms=LONG_MS
)
MOST_TURNS: Final = 40
MOST_SAVES: Final = 3
MOST_FRAMES: Final = 1_000
LATE_TURNS: Final = 80
PATIENCE_S: Final = 10.0
"""How long what has to come may take in the end; a node asks a store that was away every two seconds at least."""


class Mode(StrEnum):
    """What may happen besides."""

    LINKS = "links"
    SUBSCRIPTIONS = "subscriptions"
    LATE_CONNECTS = "late_connects"
    STORE_AWAY = "store_away"
    ANSWERS_LOST = "answers_lost"


FAULTS: Final = {Mode.STORE_AWAY: Fault.AWAY, Mode.ANSWERS_LOST: Fault.ANSWERS_LOST}


class Simulation:
    """What happens, step by step; `published` is the number of events so far."""

    def __init__(self, system: UnsteadyInstallation, mode: Mode, seed: int) -> None:
        self.system, self.mode, self.rng = system, mode, random.Random(f"{mode} {seed}")
        self.steps: list[str] = []
        self.published = 0
        self.subscribing: list[asyncio.Task[None]] = []
        self.pages = [
            Page(f"seed {seed}, mode {mode}: client {number}", self.steps, acknowledges=self.rng.random() < 0.3)
            for number in range(self.rng.randint(1, 3))
        ]
        for client in system.clients():
            client.rng.seed(seed)
            client.lateness[:] = self.rng.choice(([], [LATE_TURNS]))
        steps: list[tuple[Callable[[Page], Awaitable[str]], int]] = [
            (self.publish, 35), (self.connect, 20), (self.receive, 20), (self.let_time_pass, 8), (self.cut, 4),
            (self.hear_of_a_cut, 4), (self.change_pace, 3), (self.change_notices, 4), (self.change_lateness, 4),
            (self.save, 10), (self.renew, 4),
            (self.subscribe, 3 if mode != Mode.LINKS else 0),
            (self.connect_late, 3 if mode == Mode.LATE_CONNECTS else 0),
            (self.change_store, 15 if mode in FAULTS else 0),
        ]  # fmt: skip
        self.kinds, self.weights = zip(*steps, strict=True)

    def any_node(self) -> Node:
        return self.rng.choice(list(self.system.nodes.values()))

    async def run(self) -> None:
        for page in self.pages:
            await page.begin(self.any_node())
            self.open(page)
        for _ in range(STEPS):
            page = self.rng.choice(self.pages)
            [step] = self.rng.choices(self.kinds, self.weights)
            what = await step(page)
            left = self.rng.choice((0, 1, 3, 10, MOST_TURNS))
            self.steps.append(f"client {self.pages.index(page)}: {what}, {left} turns")
            await turns(left)
            self.open_what_was_closed()
        await self.come_to_rest()

    # -- steps ---------------------------------------------------------------------------------------------------

    async def publish(self, _: Page) -> str:
        first, self.published = self.published, self.published + self.rng.choice((1, 2, 3, PAGE, PAGE, 2 * PAGE))
        by_broker = self.rng.random() < 0.85
        await self.system.publish(*range(first, self.published), by_broker=by_broker)
        return f"events {first} to {self.published - 1} {'by the broker' if by_broker else 'into the stream only'}"

    async def connect(self, page: Page) -> str:
        what = f"sends {page.pending}" if page.pending is not None else "has nothing to send"
        page.send()
        return what

    async def receive(self, page: Page) -> str:
        page.receive(self.rng.randint(1, 5))
        return f"reads on, to {page.got[-1:]}"

    async def let_time_pass(self, page: Page) -> str:
        ms = self.rng.choice((OVERTAKEN_MS, LEASE_MS, LONG_MS))
        node = page.link.node
        await self.pass_time(node, ms)
        return f"{ms} ms pass at {node.name}"

    async def save(self, _: Page) -> str:
        node = self.any_node()
        await node.sessions.sync.save_marked()
        return f"{node.name} saves"

    async def renew(self, _: Page) -> str:
        node = self.any_node()
        with suppress(StoreUnavailable):
            await node.lease.renew()
        return f"{node.name} renews its lease"

    async def cut(self, page: Page) -> str:
        former, how = page.link, self.rng.choice(("breaks", "closes", "is given up", "is given up"))
        if how != "is given up":
            former.frames.go(is_clean=how == "closes")
        self.open(page)
        return f"its link to {former.node.name} {how}, the next one is to {page.link.node.name}"

    async def hear_of_a_cut(self, page: Page) -> str:
        for link in page.links[:-1]:
            link.frames.go()
        return "its former links are closed"

    async def change_pace(self, page: Page) -> str:
        page.link.frames.is_slow = not page.link.frames.is_slow
        return f"takes {'nothing' if page.link.frames.is_slow else 'what is sent'}"

    async def change_notices(self, _: Page) -> str:
        self.system.change_notices(self.rng.choice((Notices.ARRIVE, Notices.ARRIVE, *Notices)))
        return f"notices {self.system.notices}"

    async def change_lateness(self, _: Page) -> str:
        client = self.rng.choice(list(self.system.clients()))
        client.lateness[:] = [] if client.lateness else [LATE_TURNS]
        return f"a node's answers of the store are {'late' if client.lateness else 'prompt'}"

    async def subscribe(self, page: Page) -> str:
        """To a channel on which nothing is told, perhaps from the past on: the stream is read again for it."""
        node, since = self.any_node(), self.rng.choice((None, -1, -2))
        self.subscribing.append(asyncio.create_task(self._subscribe(page, node, since)))
        page.returns += 1
        return f"subscribes at {node.name} since {since}"

    async def _subscribe(self, page: Page, node: Node, since: int | None) -> None:
        more = {"ext": {"replay": {"/v2/x": since}}} if since is not None else {}
        with suppress(StoreUnavailable):
            assert (await page.client.subscribe(node, "/v2/x", **more))["successful"]

    async def connect_late(self, page: Page) -> str:
        if page.pending is not None:
            return "has nothing under way"
        node = self.any_node()
        turn = await page.client.send(node, page.connecting(), streaming=True)
        if turn.held is not None:
            node.sessions.abandon(turn.held)
        if not page.acknowledges:
            page.confirms_blindly()
        page.returns += 1
        return f"a late connect comes to {node.name}"

    async def change_store(self, _: Page) -> str:
        client = self.rng.choice(list(self.system.clients()))
        client.cut[:] = [] if client.cut else [FAULTS[self.mode]]
        return f"a node's store: {client.cut or 'well'}"

    # -- what follows --------------------------------------------------------------------------------------------

    def open(self, page: Page) -> None:
        page.open(Link(self.system, self.any_node(), is_slow=self.rng.random() < 0.3))

    def open_what_was_closed(self) -> None:
        for page in self.pages:
            if page.link.frames.code:
                if is_read := self.rng.random() < 0.7:
                    page.receive(MOST_FRAMES)
                page.link.frames.go(is_clean=is_read)
                self.open(page)

    async def pass_time(self, node: Node, ms: int) -> None:
        """The node saves before what it has to save; no time passes while it cannot. Nor does so long a time while it
        asks the store about a session."""
        for _ in range(MOST_SAVES):
            await node.sessions.sync.save_marked()
            is_at_rest = not (node.registry.dirty or (ms == LONG_MS and node.sessions._turns))
            if is_at_rest:
                node.ahead_ms += ms
                self.system.tick(node)
                return

    async def come_to_rest(self) -> None:
        """All is well again, and all that was told comes."""
        await self.make_well()
        ends, quiet = time.monotonic() + PATIENCE_S, 0
        while lacking := [page for page in self.pages if page.lacks(self.published)]:
            for page in self.pages:
                page.send()
            await asyncio.sleep(0.001)
            came = [page.receive(MOST_FRAMES) for page in self.pages]
            self.open_what_was_closed()
            quiet = 0 if any(came) else quiet + 1
            if quiet == MOST_TURNS:
                # What neither the broker nor a notice tells shows when the time of a connect is up.
                quiet = 0
                for node in self.system.nodes.values():
                    await self.pass_time(node, LONG_MS)
                    await node.lease.renew()
            for page in lacking:
                assert time.monotonic() < ends, page.story(f"never got {page.lacks(self.published)}")

    async def make_well(self) -> None:
        self.system.change_notices(Notices.ARRIVE)
        for client in self.system.clients():
            client.cut.clear()
            client.lateness.clear()
        for page in self.pages:
            page.link.frames.is_slow = False
        await asyncio.gather(*self.subscribing)

    async def end(self) -> None:
        """Let everything go."""
        await self.make_well()
        for page in self.pages:
            for link in page.links:
                link.frames.go()
        await self.system.settle()


@asynccontextmanager
async def simulated(mode: Mode, seed: int) -> AsyncIterator[Simulation]:
    async with embedded_store(None, deadline_s=20) as store:
        simulation = Simulation(UnsteadyInstallation(store.client, LIMITS), mode, seed)
        await simulation.system.begin()
        try:
            yield simulation
        finally:
            await simulation.end()


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("mode", Mode)
async def test_no_event_is_lost_on_websockets(mode: Mode, seed: int) -> None:
    async with simulated(mode, seed) as simulation:
        await simulation.run()
