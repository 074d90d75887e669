"""Rows 9 and 10: what an operation costs as the installation grows, and how long a start takes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import redis.asyncio

from bench.children import told_by
from bench.cpu import cpu_s
from bench.figures import Absolute, Bound, Findings, Progress, Ratio, Sample
from bench.load.path import PathPlan
from bench.load.posts import Plan
from bench.load.subscribers import WEBSOCKET
from bench.load.subscribers import Plan as SessionsPlan
from bench.load.talking import resuming, subscribers
from bench.rig import PARTITIONS, Backends, NotDone, Rig, calltag_rig, session_of
from bench.servers.calltag import notifier
from bench.size import Size
from calltag.core.broker.ports import partition_of
from calltag.core.http.scope import COMETD_PATHS
from calltag.core.identity.authentication import COOKIE
from calltag.core.store.keys import Keys, StateKeys
from calltag.notifier.event_views import CALLS_CHANNEL
from parts.ports import free_port
from parts.system import System, embedded_system

MOST = Bound(1.15, at_least=False)
_IN_A_PIPELINE = 2_000
_MANY: Final = "100000"
Grown = Callable[[Path, Backends, Size], AbstractAsyncContextManager[Rig]]


async def compare(folder: Path, using: Backends, size: Size, progress: Progress) -> Findings:
    """The cost of an operation in the small and in the large, in turns; all processes, broker and store included."""
    found = Findings()
    for what, (large, small) in _pairs(size).items():
        costs: dict[str, list[float]] = {"large": [], "small": []}
        for number in range(1, size.rounds + 1):
            for name, grown in (("large", large), ("small", small)):
                using.store.clear()
                async with grown(folder / f"{what.replace(' ', '-')}-{name}-{number}", using, size) as rig:
                    sample = await _path(rig, using, size)
                costs[name].append(1 / sample.per_cpu_s)
                progress(
                    f"round {number} of {size.rounds}: {what}, {name}: {1e6 / sample.per_cpu_s:,.0f} us of CPU each"
                )
        values = [more / less for more, less in zip(costs["large"], costs["small"], strict=True)]
        found.ratios.append(Ratio("9", "CPU of an operation", what, values, MOST))
    using.store.clear()
    found.absolutes.append(await _start(folder / "start", size, progress))
    found.absolutes += await _resumed(folder / "resume", using, size, progress)
    return found


def _pairs(size: Size) -> Mapping[str, tuple[Grown, Grown]]:
    """What is compared: the large one and the small one."""
    return {
        f"{size.live_calls:,} live calls against 1,000": (_with_calls(size.live_calls), _with_calls(1_000)),
        f"{size.fan_out.idle:,} sessions against 100": (_with_sessions(size.fan_out.idle), _with_sessions(100)),
        "four notifiers against one": (_with_notifiers(4), _with_notifiers(1)),
        "32 partitions against 1": (_with_partitions(32), _with_partitions(1)),
    }


def _with_calls(count: int) -> Grown:
    @asynccontextmanager
    async def grown(folder: Path, using: Backends, size: Size) -> AsyncIterator[Rig]:
        async with calltag_rig(folder, using, size.calls) as rig:
            await _copy_calls(using.store.url, rig.calls[0], count)
            yield rig

    return grown


def _with_partitions(count: int) -> Grown:
    @asynccontextmanager
    async def grown(folder: Path, using: Backends, size: Size) -> AsyncIterator[Rig]:
        prefix = f"bench{count}"
        async with calltag_rig(folder, using, size.calls, prefix, CALLTAG_PARTITIONS=str(count)) as rig:
            yield rig

    return grown


def _with_sessions(count: int) -> Grown:
    """Sessions of another user, over WebSocket, of which each has a connect held."""

    @asynccontextmanager
    async def grown(folder: Path, using: Backends, size: Size) -> AsyncIterator[Rig]:
        many = {
            "CALLTAG_NOTIFIER__MAX_SESSIONS_PER_USER": _MANY,
            "CALLTAG_NOTIFIER__MAX_SESSIONS": _MANY,
            "CALLTAG_NOTIFIER__HANDSHAKES_PER_S": _MANY,
            "CALLTAG_NOTIFIER__HANDSHAKE_BURST": _MANY,
            "CALLTAG_NOTIFIER__HANDSHAKES_PER_S_PER_ADDRESS": "0",
            # All clients are at one address.
            "CALLTAG_HTTP__MAX_CONNECTIONS_PER_ADDRESS": _MANY,
            # What a connect costs, and how often there is one, is no matter of operations.
            "CALLTAG_NOTIFIER__TIMEOUT_S": "600",
        }
        async with calltag_rig(folder, using, size.calls, **many) as rig:
            cookie = f"{COOKIE}={await session_of(rig.port, 'bob')}"
            plan = SessionsPlan(rig.notifier_port, COMETD_PATHS[0], WEBSOCKET, [(CALLS_CHANNEL, cookie)] * count)
            async with subscribers(plan):
                yield rig

    return grown


def _with_notifiers(count: int) -> Grown:
    @asynccontextmanager
    async def grown(folder: Path, using: Backends, size: Size) -> AsyncIterator[Rig]:
        async with calltag_rig(folder, using, size.calls) as rig, AsyncExitStack() as stack:
            for number in range(2, count + 1):
                program = await asyncio.to_thread(_start_notifier, rig.system, f"notifier-{number}")
                stack.callback(program)
            yield rig

    return grown


def _start_notifier(system: System, name: str) -> Callable[[], object]:
    return system.start(name, "notifier", port_of="NOTIFIER", port=free_port()).kill


async def _copy_calls(url: str, call: str, count: int) -> None:
    """Other live calls, which are as one that is there, in their partitions and under their own names."""
    names = _names(call)
    store = redis.asyncio.Redis.from_url(url)
    async with store:
        state, data = await store.dump(names.state), await store.dump(names.data)
        assert state is not None, f"there is no call {call}"
        assert data is not None, f"call {call} has no user data"
        for first in range(0, count, _IN_A_PIPELINE):
            pipeline = store.pipeline(transaction=False)
            for number in range(first, min(first + _IN_A_PIPELINE, count)):
                other = f"OTHER{number}"
                copy = _names(other)
                pipeline.restore(copy.state, 0, state, replace=True)
                pipeline.restore(copy.data, 0, data, replace=True)
                live = Keys().live(partition_of(other, PARTITIONS))
                pipeline.zadd(live, {f"call:{other}": time.time_ns() // 1_000_000})
            await pipeline.execute()


def _names(call: str) -> StateKeys:
    return Keys().state(partition_of(call, PARTITIONS), f"call:{call}")


async def _path(rig: Rig, using: Backends, size: Size) -> Sample:
    """The whole path at saturation; the CPU of everything but the one who sends."""
    plan = Plan(rig.port, list(rig.calls), size.path_operations, size.connections, [f"Cookie: JSESSIONID={rig.token}"])
    given = asdict(PathPlan("calltag", plan, rig.notifier_port, rig.token, None))
    await told_by("bench.load.path", plan=given)
    before = _cpu_s(rig, using)
    told = await told_by("bench.load.path", plan=given)
    if told["missing"] or told["statuses"] != {"200": size.path_operations}:
        raise NotDone(f"{told['statuses']}, {told['missing']} messages did not come")
    return Sample(size.path_operations, told["seconds"], _cpu_s(rig, using) - before)


def _cpu_s(rig: Rig, using: Backends) -> float:
    programs = [*rig.system.programs.values(), using.broker.process, using.store.process]
    return sum(cpu_s(program.pid) for program in programs if program.running)


async def _start(folder: Path, size: Size, progress: Progress) -> Absolute:
    values = []
    for number in range(1, size.rounds + 1):
        began = time.monotonic()
        values.append(await asyncio.to_thread(_started_s, folder / str(number), began))
        progress(f"round {number} of {size.rounds}: calltag serve --embedded is ready after {values[-1]:.2f} s")
    return Absolute("10", "calltag serve --embedded, until it is ready", values, "s")


def _started_s(folder: Path, began: float) -> float:
    with embedded_system(folder):
        return time.monotonic() - began


async def _resumed(folder: Path, using: Backends, size: Size, progress: Progress) -> list[Absolute]:
    """One notifier of two dies with all sessions: until each has been taken up by the other one."""
    count = size.fan_out.idle
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    seconds, costs_us = [], []
    for number in range(1, size.rounds + 1):
        async with notifier(folder, using.broker, using.store, count) as dying, dying.another() as (port, pid):
            sessions = [(dying.channel_of(user), dying.cookie_of(user)) for user in range(count)]
            async with resuming(SessionsPlan(dying.port, dying.path, WEBSOCKET, sessions), port) as resumers:
                before = cpu_s(pid)
                dying.die()
                seconds.append(await resumers.resumed())
                costs_us.append(1e6 * (cpu_s(pid) - before) / count)
        progress(
            f"round {number} of {size.rounds}: {count:,} sessions of a notifier that died went on after "
            f"{seconds[-1]:.1f} s, {costs_us[-1]:,.0f} us of CPU each"
        )
    what = f"{count:,} sessions of a notifier that died, until another one has all of them"
    return [
        Absolute("10", what, seconds, "s"),
        Absolute("10", f"{what}: its CPU for each", costs_us, "us"),
    ]
