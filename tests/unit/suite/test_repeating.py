"""A run of tests in a folder of its own: what fails is repeated, and the outcome says how it was."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
CONFTEST = """
from parts.results import pytest_addoption, pytest_configure
"""
ONCE = """
from pathlib import Path

def test_that_fails_once():
    mark = Path(__file__).with_suffix(".ran")
    ran_before = mark.exists()
    mark.touch()
    assert ran_before, "the first failure"

def test_that_passes():
    pass
"""
BROKEN_FIXTURE = """
import pytest
from pathlib import Path

@pytest.fixture
def part():
    yield
    mark = Path(__file__).with_suffix(".ran")
    ran_before = mark.exists()
    mark.touch()
    assert ran_before, "the part did not end"

def test_whose_fixture_fails_once(part):
    pass
"""
WITH_A_PROCESS = """
import sys
from parts.processes import Program

def test_with_a_process(tmp_path):
    command = [sys.executable, "-c", "import time; print('it started', flush=True); time.sleep(60)"]
    program = Program(command, tmp_path)
    program.start(lambda: "it started" in program.text())
    try:
        assert False, "it is broken"
    finally:
        program.kill()
"""
ALONE_AND_TOGETHER: Sequence[Sequence[str]] = ((), ("--numprocesses=2",))


class Run:
    """One run of pytest on the files of a folder."""

    def __init__(self, folder: Path, files: Mapping[str, str], *arguments: str) -> None:
        self.results = folder / "results"
        (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS}\naddopts = --import-mode=importlib -ra\n")
        for name, text in {"conftest.py": CONFTEST, **files}.items():
            file = folder / "tests" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        # Other plugins only take time.
        plugin = "xdist.plugin" if "--numprocesses=2" in arguments else "pytest_randomly"
        plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": plugin}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "tests", f"--results={self.results}", *arguments],
            cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **plugins},
        )  # fmt: skip
        self.code, self.output = done.returncode, done.stdout
        self.closing_line = self.output.splitlines()[-1] if self.output else done.stderr

    @property
    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = json.loads((self.results / "counts.json").read_text())
        return counts


@pytest.mark.parametrize("processes", ALONE_AND_TOGETHER)
def test_a_run_whose_failures_do_not_come_again_passes(tmp_path: Path, processes: Sequence[str]) -> None:
    files = {"e2e/test_once.py": ONCE, "integration/test_fixture.py": BROKEN_FIXTURE}
    run = Run(tmp_path, files, *processes)
    assert (run.code, run.counts) == (0, {"passed": 1, "flaky": 2}), run.output
    assert "FLAKY tests/e2e/test_once.py::test_that_fails_once" in run.output
    assert "FLAKY tests/integration/test_fixture.py::test_whose_fixture_fails_once" in run.output
    assert "the first failure" in run.output
    assert "the part did not end" in run.output
    assert "1 passed, 2 flaky in" in run.closing_line


@pytest.mark.parametrize("processes", ALONE_AND_TOGETHER)
def test_a_failure_that_comes_again_fails_the_run(tmp_path: Path, processes: Sequence[str]) -> None:
    files = {"e2e/test_once.py": ONCE, "chaos/test_process.py": WITH_A_PROCESS}
    run = Run(tmp_path, files, *processes)
    assert (run.code, run.counts) == (1, {"failed": 1, "passed": 1, "flaky": 1}), run.output
    assert "1 failed, 1 passed, 1 flaky in" in run.closing_line
    first, again = run.output.split("FAILED AGAIN tests/chaos/test_process.py::test_with_a_process")
    assert "output.log during the test" in first
    assert "it started" in first
    assert "it is broken" in again
    [kept] = (run.results / "tests_chaos_test_process.py_test_with_a_process").iterdir()
    assert kept.read_text() == "it started\n"


def test_a_unit_test_has_no_second_run(tmp_path: Path) -> None:
    run = Run(tmp_path, {"unit/test_once.py": ONCE})
    assert (run.code, run.counts) == (1, {"failed": 1, "passed": 1}), run.output
    assert "runs again" not in run.output


def test_many_failures_are_no_accident(tmp_path: Path) -> None:
    text = "import pytest\n\n@pytest.mark.parametrize('number', range(11))\ndef test_it(number):\n    assert False\n"
    run = Run(tmp_path, {"e2e/test_many.py": text})
    assert (run.code, run.counts) == (1, {"failed": 11}), run.output
    assert "runs again" not in run.output


def test_a_run_that_was_broken_off_repeats_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, {"e2e/test_once.py": ONCE}, "-x", "-k", "fails_once")
    assert (run.code, run.counts) == (1, {"failed": 1}), run.output
    assert "runs again" not in run.output


def test_a_file_that_cannot_be_read_fails_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, {"e2e/test_once.py": ONCE, "e2e/test_none.py": "import no_such_module\n"})
    assert (run.code, run.counts) == (2, {"error": 1}), run.output
