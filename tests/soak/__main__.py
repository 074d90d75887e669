"""A steady load on real processes for a long time: does anything grow? `python -m soak --seconds 600`.

Starts RabbitMQ, Redis, gateway, worker and notifier of its own, with short lifetimes, so that what is kept comes to its
end many times. Prints a table; exit code 0 if nothing grew and nothing failed, 1 if something grew, 2 if something
failed.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import redis
from rich.console import Console
from rich.table import Table

from parts.memory import resident_mb
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes
from soak.figures import Sample, Trend, trends
from soak.load import Load

SETTINGS: Final = {
    "CALLTAG_LOG__LEVEL": "warning",
    "CALLTAG_WORKER__LIVE_CALL_LIFETIME_S": "30",
    "CALLTAG_WORKER__WRAP_UP_S": "5",
    "CALLTAG_OPERATION_MEMORY_S": "10",
    "CALLTAG_EVENTS__RETENTION_S": "10",
    "CALLTAG_GATEWAY__IDEMPOTENCY_LIFETIME_S": "10",
    "CALLTAG_SESSION__IDLE_S": "60",
    "CALLTAG_NOTIFIER__TIMEOUT_S": "2",
    "CALLTAG_NOTIFIER__MAX_INTERVAL_S": "20",
    # How long a busy machine takes proves nothing.
    "CALLTAG_REDIS__DEADLINE_S": "5",
    "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "10",
}
ALLOWED: Final = {"MB": (0.05, 4.0), "keys": (0.10, 50.0)}
"""How much a figure may grow after the warm-up, as a share of its mean, and at least."""
WARM_UP: Final = 1 / 3
GREW, FAILED = 1, 2


@contextmanager
def started(folder: Path) -> Iterator[tuple[System, RedisServer]]:
    """All of it."""
    for name in ("rabbitmq", "redis", "calltag"):
        (folder / name).mkdir()
    broker, store = RabbitMq(folder / "rabbitmq"), RedisServer(folder / "redis")
    try:
        broker.start()
        store.start()
        with three_processes(folder / "calltag", broker.url, store.url, "soak", **SETTINGS) as system:
            yield system, store
    finally:
        store.process.kill()
        broker.end()


def sample(system: System, client: redis.Redis, at_s: float) -> Sample:
    """What there is now."""
    values = {f"{name} MB": resident_mb(program.pid) for name, program in system.programs.items()}
    memory: dict[str, int] = client.info("memory")
    size: int = client.dbsize()
    return Sample(at_s, {**values, "redis MB": memory["used_memory"] / 2**20, "redis keys": float(size)})


async def soaked(system: System, store: RedisServer, seconds: float, calls_per_s: float) -> tuple[Load, list[Sample]]:
    """Load for so many seconds, with a sample each second."""
    load, samples = Load(system, calls_per_s, subscribers=10), list[Sample]()
    loop = asyncio.get_running_loop()
    began = loop.time()
    loading = asyncio.create_task(load.run())
    with redis.Redis(port=store.port) as client:
        while (at_s := loop.time() - began) < seconds and not loading.done():
            samples.append(await asyncio.to_thread(sample, system, client, at_s))
            await asyncio.sleep(1)
    loading.cancel()
    await asyncio.wait({loading})
    if not loading.cancelled():
        loading.result()
    for name, program in system.programs.items():
        if not program.running:
            load.failures[f"{name} ended"] += 1
    return load, samples


def report(load: Load, found: list[Trend], seconds: float) -> int:
    """Print what was found; returns the exit code."""
    table = Table("figure", "after warm-up", "at the end", "most", "growth", "allowed", "verdict")
    for each in found:
        figures = (each.first, each.last, each.most, each.growth, each.allowed)
        table.add_row(each.name, *(f"{figure:.1f}" for figure in figures), "flat" if each.flat else "GROWS")
    console = Console(width=110, highlight=False)
    console.print(table)
    console.print(f"in {seconds:.0f} s: " + ", ".join(f"{count} {what}" for what, count in sorted(load.done.items())))
    for failure, count in load.failures.most_common(10):
        console.print(f"FAILED {count} times: {failure}", markup=False)
    if load.failures or not found:
        console.print("verdict: something failed")
        return FAILED
    grew = [each.name for each in found if not each.flat]
    console.print(f"verdict: {', '.join(grew)} grew" if grew else "verdict: nothing grew")
    return GREW if grew else 0


def main() -> int:
    """The whole of it."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--calls-per-s", type=float, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="calltag-soak-") as folder, started(Path(folder)) as (system, store):
        load, samples = asyncio.run(soaked(system, store, given.seconds, given.calls_per_s))
        return report(load, trends(samples, given.seconds * WARM_UP, ALLOWED), given.seconds)


if __name__ == "__main__":
    sys.exit(main())
