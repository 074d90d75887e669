"""The logs of the processes that ran during a failed test."""

import re
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final

import pytest

from parts.processes import Program

_TAIL_BYTES: Final = 6_000


class KeptLogs:
    """Shows with a failure how the logs ended that processes wrote during the test, and copies the logs to `folder`."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._sizes: Mapping[Path, int] = {}
        """How long each log was when the test began."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        Program.started[:] = [program for program in Program.started if program.running]
        self._sizes = {log: log.stat().st_size for program in Program.started for log in program.logs()}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            for program in list(Program.started):
                for log in program.logs():
                    self._keep(log, item, report)
        return report

    def _keep(self, log: Path, item: pytest.Item, report: pytest.TestReport) -> None:
        with log.open("rb") as file:
            file.seek(self._sizes.get(log, 0))
            written = file.read()
        if not written:
            return
        name = f"{log.parent.name}/{log.name}"
        report.sections.append((f"{name} during the test", written[-_TAIL_BYTES:].decode(errors="replace")))
        if self._folder is not None:
            place = self._folder / re.sub(r"[^\w.-]+", "_", item.nodeid)
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, place / name.replace("/", "-"))
