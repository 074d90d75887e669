"""Rows 6, 7 and 15: the whole path, at saturation and at a fixed rate, against the naive system."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.children import told_by
from bench.cpu import cpu_s
from bench.figures import Absolute, Bound, Findings, Progress, Ratio
from bench.load.path import PathPlan
from bench.load.posts import Plan
from bench.rig import Backends, NotDone, Rig, calltag_rig, naive_rig
from bench.size import Size


@dataclass(slots=True)
class Taken:
    """What was measured of one system, once in each round."""

    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """CPU of one operation at the fixed rate, of gateway, worker and notifier together."""


async def compare(folder: Path, using: Backends, size: Size, progress: Progress) -> Findings:
    """Both systems, in turns."""
    taken = {"calltag": Taken(), "naive": Taken()}
    async with (
        calltag_rig(folder / "calltag", using, size.calls) as ours,
        naive_rig(folder / "naive", using, size.calls) as naive,
    ):
        for number in range(1, size.rounds + 1):
            for kind, rig in (("calltag", ours), ("naive", naive)):
                flat_out = await _told(kind, rig, size.path_operations, size.connections, None)
                count, before = round(size.rate * size.seconds), _cpu_s(rig)
                steady = await _told(kind, rig, count, size.connections, size.rate)
                used = {name: (now - before[name]) / count * 1e6 for name, now in _cpu_s(rig).items()}
                mine = taken[kind]
                mine.per_s.append(size.path_operations / flat_out["seconds"])
                mine.p50_ms.append(steady["p50"])
                mine.p99_ms.append(steady["p99"])
                mine.cpu_us.append(sum(used.values()))
                parts = ", ".join(f"{name} {each:,.0f}" for name, each in used.items())
                progress(
                    f"round {number} of {size.rounds}: {kind}: {mine.per_s[-1]:,.0f} operations a second at "
                    f"saturation; at {size.rate:g} a second p50 {steady['p50']:.1f} ms, p99 {steady['p99']:.1f} ms, "
                    f"CPU of an operation {mine.cpu_us[-1]:,.0f} us ({parts})"
                )
    mine, other = taken["calltag"], taken["naive"]
    rate = f"POST to message, {size.rate:g} operations a second"
    return Findings(
        [
            Ratio(
                "6",
                "whole path at saturation: operations a second",
                "naive system",
                _by(mine.per_s, other.per_s),
                Bound(3.0),
            ),
            Ratio("7", f"{rate}: p50", "naive system", _by(mine.p50_ms, other.p50_ms), Bound(0.7, at_least=False)),
            Ratio("7", f"{rate}: p99", "naive system", _by(mine.p99_ms, other.p99_ms), Bound(0.5, at_least=False)),
            Ratio(
                "15",
                f"{rate}: CPU of gateway, worker and notifier",
                "naive system",
                _by(mine.cpu_us, other.cpu_us),
                Bound(1.0, at_least=False),
            ),
        ],
        [
            absolute
            for name, each in taken.items()
            for absolute in (
                Absolute("6", f"{name}, whole path", each.per_s, "a s"),
                Absolute("7", f"{name}, p50", each.p50_ms, "ms"),
                Absolute("7", f"{name}, p99", each.p99_ms, "ms"),
                Absolute("15", f"{name}, CPU of an operation", each.cpu_us, "us"),
            )
        ],
    )


def _cpu_s(rig: Rig) -> dict[str, float]:
    return {"gateway": cpu_s(rig.gateway.pid), "worker": cpu_s(rig.worker.pid), "notifier": cpu_s(rig.notifier.pid)}


def _by(ours: list[float], others: list[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, others, strict=True)]


async def _told(kind: str, rig: Rig, count: int, connections: int, rate: float | None) -> dict[str, Any]:
    plan = Plan(rig.port, list(rig.calls), count, connections, [f"Cookie: JSESSIONID={rig.token}"])
    told: dict[str, Any] = await told_by(
        "bench.load.path", plan=asdict(PathPlan(kind, plan, rig.notifier_port, rig.token, rate))
    )
    if told["missing"] or told["statuses"] != {"200": count}:
        raise NotDone(f"{kind}: {told['statuses']}, {told['missing']} messages did not come")
    return told
