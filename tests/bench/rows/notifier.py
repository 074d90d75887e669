"""Rows 3, 4, 5, 8 and 11: the notifier against its peers, in deliveries a CPU second and memory of a session; and
sessions that roam against sessions with a home."""

import asyncio
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final, TypeAlias

from bench.cpu import cpu_s, resident_bytes
from bench.figures import Absolute, Bound, Findings, Measure, Progress, Ratio, Sample, in_turns, ratios
from bench.load.subscribers import LONG_POLLING, WEBSOCKET, Expected, Plan
from bench.load.talking import Subscribers, subscribers
from bench.rig import Backends
from bench.servers.bayeux import BayeuxServer, Group
from bench.servers.calltag import notifier
from bench.servers.peers import COMETD, FAYE, peer
from bench.size import FanOut, Size
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer

CALLTAG: Final = "calltag"
_WARM_UP: Final = 5
_SEED: Final = 1
_BURST: Final = 20
"""How many events come together in the row of the real pattern: a small batch of the worker's."""
_UNDER_WAY: Final = 5
"""How many of these are under way at a time."""
_Bounds: TypeAlias = Mapping[int, dict[str, Bound]]
"""By how many events come at once: the bound against each peer."""
_HOMES: Final = "a front that keeps a client at one"
_ROAMING: Final = "a front that spreads requests"
_FRONTS: Final = {_HOMES: "hdr(Cookie)", _ROAMING: "roundrobin"}
_fronts: Final = itertools.count()


@dataclass(frozen=True, slots=True)
class Installation:
    """What calltag's notifier needs, and how much is measured."""

    folder: Path
    broker: RabbitMq
    store: RedisServer
    form: FanOut

    def server(self, name: str, users: int) -> AbstractAsyncContextManager[BayeuxServer]:
        """One of the servers by name, for so many users."""
        return notifier(self.folder, self.broker, self.store, users) if name == CALLTAG else peer(name)


@dataclass(slots=True)
class _Told:
    """Groups of events, and the sessions that are to have each event (None for all)."""

    groups: Sequence[Group]
    sessions: list[list[list[int] | None]]


async def delivered(installation: Installation, name: str, transport: str, sessions: int, together: int) -> Sample:
    """So many sessions of one user are told of events, so many at a time; the work is a delivery."""
    most = installation.form.deliveries // (2 if transport == LONG_POLLING else 1)
    # Of many at once more are needed for as much CPU.
    count = _WARM_UP + max(5, most // (sessions * max(1, together // 3)))
    events = _Told([[[0]] * together] * count, [[None] * together] * count)
    async with installation.server(name, 1) as server:
        sample = await _sample_of(server, transport, [0] * sessions, events)
    return Sample(sample.work * sessions, sample.seconds, sample.cpu_s)


async def told(installation: Installation, name: str, transport: str) -> Sample:
    """Each user has a session; events come in bursts, each for one or two users. The work is an event."""
    form = installation.form
    async with installation.server(name, form.users) as server:
        return await _sample_of(server, transport, range(form.users), _bursts(form), _UNDER_WAY)


async def told_behind_a_front(installation: Installation, balance: str) -> Sample:
    """The same by long-polling at three notifiers behind a front; their CPU and that of Redis count."""
    form, folder = installation.form, installation.folder / f"front-{next(_fronts)}"
    async with (
        notifier(installation.folder, installation.broker, installation.store, form.users) as one,
        one.behind_a_front(folder, installation.store, balance) as server,
    ):
        return await _sample_of(server, LONG_POLLING, range(form.users), _bursts(form), _UNDER_WAY)


def _bursts(form: FanOut) -> "_Told":
    chance = random.Random(_SEED)
    bursts = [
        [sorted(chance.sample(range(form.users), 1 + number % 2)) for number in range(_BURST)]
        for _ in range(_WARM_UP + form.bursts)
    ]
    return _Told(bursts, [[list(users) for users in burst] for burst in bursts])


async def _sample_of(
    server: BayeuxServer, transport: str, users: Sequence[int], told: _Told, under_way: int = 1
) -> Sample:
    """Publish each group when only so many before it have not come yet; the first groups do not count."""
    plan = Plan(server.port, server.path, transport, _sessions(server, users))
    async with subscribers(plan) as subscribed:
        await subscribed.expect(Expected(0, told.sessions))
        await _publish(server, subscribed, told.groups[:_WARM_UP], 0, under_way)
        first = sum(map(len, told.groups[:_WARM_UP]))
        began, used = time.monotonic(), sum(map(cpu_s, server.pids))
        count = await _publish(server, subscribed, told.groups[_WARM_UP:], first, under_way)
        return Sample(count, time.monotonic() - began, sum(map(cpu_s, server.pids)) - used)


async def _publish(
    server: BayeuxServer, subscribed: Subscribers, groups: Sequence[Group], first: int, under_way: int
) -> int:
    """Returns how many events there were, once all have come."""
    number = first
    for index, group in enumerate(groups):
        if index >= under_way:
            await subscribed.came()
        await server.publish(number, group)
        number += len(group)
    for _ in groups[-under_way:]:
        await subscribed.came()
    return number - first


def _sessions(server: BayeuxServer, users: Sequence[int]) -> list[tuple[str, str]]:
    return [(server.channel_of(user), server.cookie_of(user)) for user in users]


async def session_bytes(installation: Installation, name: str, transport: str) -> float:
    """What each of many idle sessions takes, one of each user: the growth of the server's memory in use."""
    count = installation.form.idle
    first, settled_s = max(10, count // 100), installation.form.settled_s
    async with installation.server(name, first + count) as server:

        def plan(users: Sequence[int]) -> Plan:
            return Plan(server.port, server.path, transport, _sessions(server, users))

        # The first sessions bring with them what is there once.
        async with subscribers(plan(range(first))):
            before = await _settled(server, settled_s)
            async with subscribers(plan(range(first, first + count))):
                return (await _settled(server, settled_s) - before) / count


async def _settled(server: BayeuxServer, after_s: float) -> int:
    await asyncio.sleep(after_s)
    await server.collect()
    return resident_bytes(server.pid)


# -- the rows ----------------------------------------------------------------------------------------------------------


async def compare(folder: Path, using: Backends, size: Size, progress: Progress) -> Findings:
    """Rows 3, 4, 5, 8 and 11."""
    installation = Installation(folder, using.broker, using.store, size.fan_out)
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    found = Findings()
    for row in (_websocket, _long_polling, _real_pattern, _memory, _roaming):
        found.add(await row(installation, size.rounds, progress))
    return found


async def _websocket(installation: Installation, rounds: int, progress: Progress) -> Findings:
    bounds = {1: {FAYE: Bound(2.5)}, 10: {FAYE: Bound(12)}}
    return await _fan_out(installation, rounds, progress, row="3", transport=WEBSOCKET, bounds=bounds)


async def _long_polling(installation: Installation, rounds: int, progress: Progress) -> Findings:
    bounds = {1: {FAYE: Bound(1.5), COMETD: Bound(1.25)}, 10: {FAYE: Bound(2.5), COMETD: Bound(1.5)}}
    return await _fan_out(installation, rounds, progress, row="4", transport=LONG_POLLING, bounds=bounds)


async def _fan_out(
    installation: Installation, rounds: int, progress: Progress, *, row: str, transport: str, bounds: _Bounds
) -> Findings:
    found = Findings()
    for sessions, together in product(installation.form.subscribers, installation.form.together):
        against = bounds[together]
        measures: dict[str, Measure] = {
            name: partial(delivered, installation, name, transport, sessions, together) for name in (CALLTAG, *against)
        }
        at_once = f", {together} events at once" if together > 1 else ""
        what = f"deliveries, {transport}, {sessions:,} subscribers{at_once}"
        found.add(await _against(measures, against, rounds, progress, row=row, what=what))
    return found


async def _real_pattern(installation: Installation, rounds: int, progress: Progress) -> Findings:
    found = Findings()
    for transport, bounds in ((WEBSOCKET, {FAYE: Bound(2)}), (LONG_POLLING, {FAYE: Bound(1.5)})):
        measures: dict[str, Measure] = {
            name: partial(told, installation, name, transport) for name in (CALLTAG, *bounds)
        }
        what = f"events for one or two of {installation.form.users:,} users, {transport}"
        found.add(await _against(measures, bounds, rounds, progress, row="5", what=what))
    return found


async def _roaming(installation: Installation, rounds: int, progress: Progress) -> Findings:
    what = f"long-polling of {installation.form.users:,} users at three notifiers, events a CPU second with Redis"
    progress(f"row 11: {what}")
    measures: dict[str, Measure] = {
        name: partial(told_behind_a_front, installation, balance) for name, balance in _FRONTS.items()
    }
    taken = await in_turns(measures, rounds, progress)
    return Findings(
        [Ratio("11", what, _HOMES, ratios(taken[_ROAMING], taken[_HOMES]))],
        [
            Absolute("11", f"{what}: {name}", [each.per_cpu_s for each in samples], "a CPU second")
            for name, samples in taken.items()
        ],
    )


async def _against(
    measures: dict[str, Measure], bounds: dict[str, Bound], rounds: int, progress: Progress, *, row: str, what: str
) -> Findings:
    progress(f"row {row}: {what}")
    taken = await in_turns(measures, rounds, progress)
    return Findings(
        [Ratio(row, what, name, ratios(taken[CALLTAG], taken[name]), bound) for name, bound in bounds.items()],
        [
            Absolute(row, f"{what}: {name}", [each.per_cpu_s for each in samples], "a CPU second")
            for name, samples in taken.items()
        ],
    )


async def _memory(installation: Installation, rounds: int, progress: Progress) -> Findings:
    found = Findings()
    for transport in (WEBSOCKET, LONG_POLLING):
        what = f"memory of an idle session of {installation.form.idle:,}, {transport}"
        progress(f"row 8: {what}")
        taken: dict[str, list[float]] = {CALLTAG: [], FAYE: []}
        for number in range(1, rounds + 1):
            for name, sizes in taken.items():
                sizes.append(await session_bytes(installation, name, transport))
                progress(f"round {number} of {rounds}: {name}: {sizes[-1]:,.0f} bytes")
        values = [mine / other for mine, other in zip(taken[CALLTAG], taken[FAYE], strict=True)]
        found.ratios.append(Ratio("8", what, FAYE, values, Bound(0.5, at_least=False)))
        found.absolutes += [Absolute("8", f"{what}: {name}", sizes, "bytes") for name, sizes in taken.items()]
    return found
