"""A second run for tests that failed: alone, in a fresh process, once all others are done.

A test with real processes may fail because the machine was busy. One that fails again fails the run; one that passes is
reported as flaky, with the log of its failure.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

_NEVER: Final = "tests/unit/"
"""Tests here have no processes: a failure is a failure."""
_MOST: Final = 10
"""More failures than that have one cause, and it is not the machine."""
_TAIL_CHARACTERS: Final = 20_000
_COUNTED: Final = ("failed", "error", "passed", "flaky", "skipped", "xfailed", "xpassed")
COUNTS: Final = "counts.json"


class Repeating:
    """Repeats failed tests at the end of a session, and writes into `folder` how many tests had which outcome."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._failed: dict[str, list[pytest.TestReport]] = {}
        self._flaky: list[str] = []
        self._failed_again: dict[str, str] = {}
        """What the second run printed."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.setdefault(report.nodeid, []).append(report)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """The report of a second run counts as flaky, and shows no progress."""
        return ("flaky", "", "") if getattr(report, "is_repeated", False) else None

    # Last, so that the processes of the session are gone.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        names = [name for name in self._failed if not name.startswith(_NEVER)]
        is_complete = session.exitstatus == pytest.ExitCode.TESTS_FAILED and not session.shouldfail
        if is_complete and len(names) <= _MOST:
            for name in names:
                self._repeat(session, name)
        self._write_counts()

    def _repeat(self, session: pytest.Session, name: str) -> None:
        reporter = self._reporter()
        reporter.write_line("")
        reporter.write(f"{name} failed, and runs again: ")
        command = [sys.executable, "-m", "pytest", name, "-p", "no:cacheprovider", *self._seed()]
        done = subprocess.run(
            command, cwd=self._config.rootpath, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            reporter.write("FAILED", red=True)
            self._failed_again[name] = done.stdout
            return
        reporter.write("PASSED", yellow=True)
        self._forgive(session, name)

    def _seed(self) -> Sequence[str]:
        """What is random is random in the same way."""
        seed = self._config.getoption("randomly_seed", None)
        return [] if seed is None else [f"--randomly-seed={seed}"]

    def _forgive(self, session: pytest.Session, name: str) -> None:
        first = self._failed[name]
        stats = self._reporter().stats
        for category in ("failed", "error", "passed"):
            others = [report for report in stats.pop(category, []) if report.nodeid != name]
            if others:
                stats[category] = others
        session.testsfailed -= len(first)
        if not session.testsfailed:
            session.exitstatus = pytest.ExitCode.OK
        self._flaky.append(name)
        repeated = pytest.TestReport(name, first[0].location, {}, "passed", None, "call", is_repeated=True)
        self._config.hook.pytest_runtest_logreport(report=repeated)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, output in self._failed_again.items():
            terminalreporter.section(f"FAILED AGAIN {name}", red=True)
            terminalreporter.write(output[-_TAIL_CHARACTERS:])
        for name in self._flaky:
            terminalreporter.section(f"FLAKY {name}", yellow=True)
            for report in self._failed[name]:
                terminalreporter.write_line(report.longreprtext[-_TAIL_CHARACTERS:])
                for title, content in report.sections:
                    terminalreporter.write_sep("-", title)
                    terminalreporter.write_line(content)
        for name in self._flaky:
            terminalreporter.write_line(f"FLAKY {name}", yellow=True)

    def _write_counts(self) -> None:
        stats = self._reporter().stats
        counts = {category: len(stats[category]) for category in _COUNTED if stats.get(category)}
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / COUNTS).write_text(json.dumps(counts))

    def _reporter(self) -> pytest.TerminalReporter:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        assert isinstance(reporter, pytest.TerminalReporter)
        return reporter
