"""All tests, as `make test` runs them: in three phases by how much of the machine a test needs."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from parts.repeating import COUNTS

RESULTS: Final = Path(".test-results")
# In the order of tests/conftest.py: long files first.
_BY_FILE: Final = ("--dist", "loadfile", "--no-loadscope-reorder")
_BAD: Final = ("failed", "error")
_WIDTH: Final = 80
_JOBS_PER_CPU: Final = 2
"""Tests wait for processes and clocks for a third of their time."""
_FOLDERS: Final = ("tests/chaos", "tests/integration")


@dataclass(frozen=True, slots=True)
class Phase:
    """Tests that run in one session of pytest."""

    title: str
    markers: str
    processes: int
    folders: Sequence[str] = ()
    """Where the tests are, if not anywhere: to import all others takes seconds in each process."""
    is_measured: bool = False
    """Whether the coverage is measured, which makes it slower."""

    @property
    def command(self) -> Sequence[str]:
        measuring = ("-m", "coverage", "run") if self.is_measured else ()
        together = ("--numprocesses", str(self.processes), *_BY_FILE) if self.processes > 1 else ()
        slowest = ("--durations=20", "--durations-min=5")
        return [sys.executable, *measuring, "-m", "pytest", "-m", self.markers, *slowest, *together, *self.folders]


def phases(jobs: int) -> Sequence[Phase]:
    """The phases, with so many tests at a time in the first one."""
    return (
        Phase(
            f"The tests that share the machine, {jobs} at a time:", "not alone and not heavy", jobs, is_measured=True
        ),
        Phase(f"The heavy ones, {jobs} at a time:", "heavy", jobs, _FOLDERS),
        Phase("The tests that need the machine for themselves:", "alone", 1, _FOLDERS),
    )


@dataclass(slots=True)
class Outcome:
    """What came of all phases."""

    counts: Counter[str] = field(default_factory=Counter)
    codes: list[int] = field(default_factory=list)

    def add(self, code: int, counts: Mapping[str, int]) -> None:
        """Add what a command returned, and the tests that it ran."""
        self.codes.append(code)
        self.counts.update(counts)

    @property
    def code(self) -> int:
        """The exit code: the first one that is not 0."""
        return next((code for code in self.codes if code), 0)

    def closing_line(self, took_s: float) -> str:
        """The last line, as pytest writes it."""
        told = [f"{number} {name}" for name, number in self.counts.items() if number]
        if self.code and not any(self.counts[name] for name in _BAD):
            told.append(f"exit code {self.code}")
        took = f"in {took_s:.2f}s ({timedelta(seconds=round(took_s))})"
        return f" {', '.join(told) or 'no tests ran'} {took} ".center(_WIDTH, "=")


def run(every: Sequence[Phase], results: Path) -> Outcome:
    """Run the phases one after another, whatever comes of them."""
    shutil.rmtree(results, ignore_errors=True)
    outcome = Outcome()
    for number, phase in enumerate(every):
        print(f"\n{phase.title}", flush=True)
        folder = results / f"phase-{number + 1}"
        done = subprocess.run([*phase.command, "--results", str(folder)], check=False)
        outcome.add(done.returncode, counts_in(folder))
    return outcome


def counts_in(folder: Path) -> Mapping[str, int]:
    """How many tests of a phase had which outcome; nothing if pytest did not come to its end."""
    file = folder / COUNTS
    counts: Mapping[str, int] = json.loads(file.read_text()) if file.exists() else {}
    return counts


def main() -> int:
    """Run all tests; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    jobs = _JOBS_PER_CPU * (os.cpu_count() or 1)
    parser.add_argument(
        "--jobs", type=int, default=jobs, help=f"how many tests run at a time where they share the machine ({jobs})"
    )
    jobs = parser.parse_args().jobs
    began_s = time.monotonic()
    for measured in Path().glob(".coverage*"):
        measured.unlink(missing_ok=True)
    outcome = run(phases(jobs), RESULTS)
    outcome.add(subprocess.run([sys.executable, "tests/coverage_gate.py"], check=False).returncode, {})
    print(outcome.closing_line(time.monotonic() - began_s))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
