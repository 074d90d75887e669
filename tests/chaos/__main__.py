"""Chaos by seed: `python -m chaos [--seed N] [--seeds N] [--seconds N] [--folder PATH]`.

Each seed is a run of its own: its faults are printed first, and the same seed has the same ones again. Logs of the
services and the record of a run that broke a promise stay in the folder.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp

from chaos.checker import check
from chaos.record import Record
from chaos.running import Plan, run
from chaos.schedule import ALL, FEWEST, SERVICES
from parts.rabbitmq import RabbitMq


def main() -> int:
    """Run the seeds one after another; 1 if any broke a promise."""
    options = _options()
    # Who asks for the end gets it with all that was started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = options.folder or Path(mkdtemp(prefix="calltag-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    broker = RabbitMq(_fresh(folder / "broker"))
    broker.start()
    hit: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    broken = []
    began = time.monotonic()
    try:
        for seed in range(options.seed, options.seed + options.seeds):
            holds, record = _run(seed, options, folder, broker)
            hit.update(record.faults)
            failed.update(record.failed_faults)
            broken += [] if holds else [seed]
    finally:
        broker.end()
        print(_faults(hit, failed))
        print(f"{time.monotonic() - began:.0f} s in all")
    print(f"broken by seeds {broken}; see {folder}" if broken else f"all {options.seeds} seeds hold")
    if not broken and options.folder is None:
        shutil.rmtree(folder)
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the (first) seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from the first one on")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each run is under fire")
    parser.add_argument("--every", type=float, default=1.5, help="seconds between two faults, on average")
    parser.add_argument("--calm", type=float, default=30.0, help="how long everything may take to come to rest")
    parser.add_argument("--few", action="store_true", help="two gateways, two workers and two notifiers only")
    parser.add_argument("--folder", type=Path, help="where to put files; a temporary folder where it is not given")
    parser.add_argument("--mix", default="", help='only these faults, as in "kill worker=3,cut worker:store=1"')
    return parser.parse_args()


def _run(seed: int, options: argparse.Namespace, folder: Path, broker: RabbitMq) -> tuple[bool, Record]:
    """Whether every promise was kept, and the record."""
    plan = _plan(seed, options)
    print(plan.text(), flush=True)
    place = _fresh(folder / f"seed-{seed}")
    began = time.monotonic()
    record = asyncio.run(run(plan, place, broker))
    violations = check(record)
    record.save(place / "record.json")
    print(summary(record, time.monotonic() - began), flush=True)
    for violation in violations:
        print(f"  {violation}", flush=True)
    if not violations and options.folder is None:
        shutil.rmtree(place)
    return not violations, record


def _plan(seed: int, options: argparse.Namespace) -> Plan:
    mix = {name: float(weight) for name, _, weight in (each.partition("=") for each in options.mix.split(",") if each)}
    services = FEWEST if options.few else SERVICES
    return Plan(seed, options.seconds, mix or ALL, every_s=options.every, calm_s=options.calm, services=services)


def _faults(hit: Counter[str], failed: Counter[str]) -> str:
    """How often each kind of fault took place in all runs, and to whom; and those that did not."""
    told = [f"{hit.total()} faults: {_counts(hit)}"]
    if failed:
        told.append(f"{failed.total()} more found nobody whom they could befall: {_counts(failed)}")
    return "\n".join(told)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def summary(record: Record, took_s: float) -> str:
    """One line about a run."""
    outcomes = Counter(each.outcome for each in record.operations)
    tries = sum(each.tries - 1 for each in record.operations)
    events = sum(len(each.received) for each in record.subscribers)
    repeats = events - sum(len({each.event_id for each in one.received}) for one in record.subscribers)
    return (
        f"seed {record.seed}: {took_s:.0f} s; {outcomes['accepted']} operations accepted, "
        f"{outcomes['refused']} refused, {outcomes['unknown']} unknown, {tries} tried again; "
        f"{events} events received, {repeats} of them again; "
        f"{sum(each.known for each in record.families)} of {len(record.families)} families known to the end"
    )


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
