"""Row 1: accepted operations for each CPU second of the gateway, against the naive one and against its bare parts."""

from pathlib import Path

from bench.children import posted, serving, worked
from bench.cpu import cpu_s
from bench.figures import Absolute, Bound, Findings, Measure, Progress, Ratio, Sample, harmonic, in_turns, ratios
from bench.load.posts import Plan
from bench.rig import Backends, NotDone, Rig, calltag_rig, naive_rig
from bench.size import Size
from parts.ports import free_port
from parts.processes import Program

WHAT = "gateway: operations a CPU second"
BYTES = 250
"""Of a published operation, about."""


async def compare(folder: Path, using: Backends, size: Size, progress: Progress) -> Findings:
    """Both gateways and the bare parts, in turns. The workers are stopped: nothing else of the systems is at work."""
    port = free_port()
    async with (
        calltag_rig(folder / "calltag", using, size.calls) as ours,
        naive_rig(folder / "naive", using, size.calls) as naive,
    ):
        for rig in (ours, naive):
            rig.worker.stop()
        with serving(folder / "fastapi", "bench.bare.post", str(port), "fastapi", port=port) as bare:
            taken = await in_turns(
                {
                    "calltag's gateway": _accepting(ours, size),
                    "naive gateway": _accepting(naive, size),
                    "bare FastAPI POST": _posting(bare, port, size),
                    "bare confirmed publish": _part("bench.bare.publish", using.broker.url, size.operations, BYTES),
                    "bare pipelined read": _part("bench.bare.reading", using.store.url, size.operations),
                },
                size.rounds,
                progress,
            )
    parts = harmonic(taken["bare FastAPI POST"], taken["bare confirmed publish"], taken["bare pipelined read"])
    mine = taken["calltag's gateway"]
    composed = [sample.per_cpu_s / bare for sample, bare in zip(mine, parts, strict=True)]
    return Findings(
        [
            Ratio("1", WHAT, "naive gateway", ratios(mine, taken["naive gateway"]), Bound(2.0)),
            Ratio("1", WHAT, "its bare parts together", composed, Bound(0.9)),
        ],
        [Absolute("1", name, [each.per_cpu_s for each in samples], "a CPU s") for name, samples in taken.items()],
    )


def _accepting(rig: Rig, size: Size) -> Measure:
    plan = Plan(rig.port, list(rig.calls), size.operations, size.connections, [f"Cookie: JSESSIONID={rig.token}"])

    async def measure() -> Sample:
        sample = await _served(rig.gateway, plan)
        await rig.purge()
        return sample

    return measure


def _posting(server: Program, port: int, size: Size) -> Measure:
    plan = Plan(port, ["BENCH0"], size.operations, size.connections, [])

    async def measure() -> Sample:
        return await _served(server, plan)

    return measure


async def _served(server: Program, plan: Plan) -> Sample:
    before = cpu_s(server.pid)
    outcome = await posted(plan)
    if outcome.statuses != {"200": plan.count}:
        raise NotDone(f"not all operations were accepted: {outcome.statuses}\n{server.text()[-2000:]}")
    return Sample(plan.count, outcome.seconds, cpu_s(server.pid) - before)


def _part(module: str, *arguments: object) -> Measure:
    async def measure() -> Sample:
        return await worked(module, *map(str, arguments))

    return measure
