"""The bench still runs: its short form measures everything, and leaves nothing running."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import Bound, Ratio, Sample, harmonic, ratios
from parts.command import UNMEASURED

TESTS = Path(__file__).resolve().parent.parent


@pytest.mark.timeout(400)
def test_the_short_form_measures_every_row(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--short", "--folder", str(tmp_path)],
        cwd=TESTS, env={**os.environ, **UNMEASURED}, capture_output=True, text=True, timeout=380, check=False,
    )  # fmt: skip
    # What the machine does beside it decides whether the bounds hold; that all was measured is what counts here.
    assert done.returncode in {0, 1}, done.stderr[-3000:]
    found = json.loads((tmp_path / "bench.json").read_text())
    assert {each["row"] for each in found["ratios"]} == {"1", "2", "3", "4", "5", "6", "7", "8", "9", "11", "15"}
    assert not done.stderr.count("not measured to the end"), done.stderr[-3000:]
    assert all(value > 0 for each in [*found["ratios"], *found["absolutes"]] for value in each["values"])
    assert (tmp_path / "bench.svg").read_text().startswith("<?xml")


def test_a_ratio_is_taken_round_by_round() -> None:
    ours, others = [Sample(100, 1, 1), Sample(50, 1, 1)], [Sample(50, 1, 1), Sample(50, 1, 2)]
    assert ratios(ours, others) == [2.0, 2.0]


def test_parts_together_cost_what_each_costs() -> None:
    assert harmonic([Sample(100, 1, 1)], [Sample(100, 1, 1)]) == [50.0]


@pytest.mark.parametrize(("at_least", "holds"), [(True, True), (False, False)])
def test_a_bound_is_held_by_the_median(at_least: bool, holds: bool) -> None:
    assert Ratio("1", "a", "b", [1.0, 3.0, 9.0], Bound(2.0, at_least)).holds is holds
