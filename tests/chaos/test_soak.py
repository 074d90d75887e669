"""The soak still runs: a short one reports all its figures, and nothing fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from soak.figures import Sample, trends

SECONDS = 10
TESTS = Path(__file__).parents[1]
GREW = 1


def test_a_figure_that_grows_is_told_from_one_that_does_not() -> None:
    samples = [Sample(at, {"a MB": 100 + at / 10, "b MB": 100 + at % 2, "c keys": 1_000 - at}) for at in range(100)]
    found = {each.name: each for each in trends(samples, 40, {"MB": (0.01, 1), "keys": (0.1, 1)})}
    assert {name: each.flat for name, each in found.items()} == {"a MB": False, "b MB": True, "c keys": True}
    assert round(found["a MB"].growth, 1) == 5.9
    assert trends(samples, 1_000, {}) == []


@pytest.mark.timeout(240)
def test_a_short_soak() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "soak", "--seconds", str(SECONDS)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        text=True,
        capture_output=True,
        timeout=200,
        check=False,
    )
    # So short a time says nothing about growth.
    assert ran.returncode in {0, GREW}, ran.stdout + ran.stderr
    for figure in ("gateway MB", "worker MB", "notifier MB", "redis MB", "redis keys"):
        assert figure in ran.stdout, ran.stdout
    assert "FAILED" not in ran.stdout
    assert "verdict: " in ran.stdout
