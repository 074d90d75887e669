"""Row 2: operations for each CPU second of the worker, against the naive one and against bare consuming."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from picows import ws_connect

from bench.children import told_by, worked
from bench.cpu import cpu_s
from bench.figures import Absolute, Bound, Findings, Measure, Progress, Ratio, Sample, in_turns, ratios
from bench.load.path import Arrivals, BayeuxSocket
from bench.rig import PARTITIONS, Backends, Rig, calltag_rig, naive_rig
from bench.size import Size

WHAT = "worker: operations a CPU second"
BYTES = 250


async def compare(folder: Path, using: Backends, size: Size, progress: Progress) -> Findings:
    """Both workers, each with all its work waiting when it begins, and bare consuming, in turns."""
    async with (
        calltag_rig(folder / "calltag", using, size.calls) as ours,
        naive_rig(folder / "naive", using, size.calls) as naive,
        # With nobody to tell of an event, calltag sends none.
        listening(ours),
    ):
        taken = await in_turns(
            {
                "calltag's worker": _working(ours, "calltag", size),
                "naive worker": _working(naive, "naive", size),
                "bare consume, one ack each": _consuming(using, size, "each"),
                "bare consume, multiple acks": _consuming(using, size, "multiple"),
            },
            size.rounds,
            progress,
        )
    mine = taken["calltag's worker"]
    return Findings(
        [
            Ratio("2", WHAT, "naive worker", ratios(mine, taken["naive worker"]), Bound(5.0)),
            Ratio(
                "2", WHAT, "bare consume, one ack each", ratios(mine, taken["bare consume, one ack each"]), Bound(1.2)
            ),
        ],
        [Absolute("2", name, [each.per_cpu_s for each in samples], "a CPU s") for name, samples in taken.items()],
    )


def _working(rig: Rig, form: str, size: Size) -> Measure:
    async def measure() -> Sample:
        before = await rig.versions()
        arguments = map(str, (rig.broker.url, form, size.operations, size.calls, PARTITIONS))
        rig.worker.signal(signal.SIGSTOP)
        try:
            await told_by("bench.load.filling", *arguments)
        finally:
            rig.worker.signal(signal.SIGCONT)
        cpu, began = cpu_s(rig.worker.pid), time.monotonic()
        await rig.settled(before + size.operations)
        return Sample(size.operations, time.monotonic() - began, cpu_s(rig.worker.pid) - cpu)

    return measure


@asynccontextmanager
async def listening(rig: Rig) -> AsyncIterator[None]:
    """One session of the user whose calls they are, for as long as the context is open."""
    arrivals = Arrivals(0)
    headers = {"Cookie": f"JSESSIONID={rig.token}"}
    url = f"ws://127.0.0.1:{rig.notifier_port}/genesys/cometd"
    transport, _ = await ws_connect(lambda: BayeuxSocket(arrivals), url, extra_headers=headers)
    async with asyncio.timeout(20):
        await arrivals.ready.wait()
    try:
        yield
    finally:
        transport.disconnect()


def _consuming(using: Backends, size: Size, how: str) -> Measure:
    async def measure() -> Sample:
        return await worked("bench.bare.consume", using.broker.url, str(size.operations), str(BYTES), how)

    return measure
