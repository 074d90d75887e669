"""The phases of a whole run, and what is made of their outcomes."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from run import Outcome, Phase, phases, run

WRITES = "import json, pathlib, sys; folder = pathlib.Path(sys.argv[-1]); folder.mkdir(parents=True); "


class Replaced(Phase):
    """A phase that runs a script instead of pytest: `markers` is its text."""

    @property
    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", self.markers]


def finished(code: int, counts: str) -> Phase:
    """A phase that ends with a code after it has counted its tests."""
    return Replaced("", f"{WRITES}(folder / 'counts.json').write_text('{counts}'); sys.exit({code})", 1)


def test_all_phases_run_and_the_first_bad_code_counts(tmp_path: Path) -> None:
    first, second = finished(1, '{"failed": 1, "passed": 2}'), finished(0, '{"passed": 3, "flaky": 1}')
    outcome = run([first, second], tmp_path / "results")
    assert outcome.code == 1
    assert outcome.closing_line(61.5).strip("= ") == "1 failed, 5 passed, 1 flaky in 61.50s (0:01:02)"


def test_flaky_tests_alone_fail_nothing(tmp_path: Path) -> None:
    outcome = run([finished(0, '{"passed": 3, "flaky": 1}')], tmp_path / "results")
    assert outcome.code == 0
    assert outcome.closing_line(1).strip("= ") == "3 passed, 1 flaky in 1.00s (0:00:01)"


def test_a_phase_that_breaks_down_fails_the_run(tmp_path: Path) -> None:
    outcome = run([Replaced("", "import sys; sys.exit(3)", 1), finished(0, '{"passed": 3}')], tmp_path / "results")
    assert outcome.code == 3
    assert outcome.closing_line(1).strip("= ") == "3 passed, exit code 3 in 1.00s (0:00:01)"


def test_too_little_coverage_fails_the_run() -> None:
    outcome = Outcome()
    outcome.add(0, {"passed": 3})
    outcome.add(1, {})
    assert (outcome.code, "exit code 1" in outcome.closing_line(1)) == (1, True)


def test_results_of_the_run_before_are_gone(tmp_path: Path) -> None:
    (tmp_path / "results" / "phase-1").mkdir(parents=True)
    (tmp_path / "results" / "phase-1" / "counts.json").write_text('{"failed": 9}')
    assert run([Replaced("", "", 1)], tmp_path / "results").counts == {}


@pytest.mark.parametrize("marks", [(), ("heavy",), ("alone",)])
def test_each_test_belongs_to_one_phase(marks: Sequence[str]) -> None:
    known = {name: name in marks for name in ("alone", "heavy")}
    assert [eval(phase.markers, known.copy()) for phase in phases(3)].count(True) == 1


def test_a_phase_looks_into_all_folders_that_have_its_tests() -> None:
    tests = Path(__file__).parents[2]
    for phase in phases(3):
        folders = [tests.parent / folder for folder in phase.folders]
        marked = [file for file in tests.rglob("test_*.py") if f"mark.{phase.markers}" in file.read_text()]
        assert not folders or marked, "there are such tests"
        assert all(any(file.is_relative_to(folder) for folder in folders) for file in marked)
